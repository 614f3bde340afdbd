"""What several contestants write by SQLAlchemy: a row of the caller's, and the read model."""

import sqlalchemy
from sqlalchemy import BigInteger, Column, Engine, Identity, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import insert

metadata = MetaData()
ORDERS = Table("orders", metadata, Column("id", BigInteger, Identity(), primary_key=True), Column("note", Text))
BOARD = Table(
    "board",
    metadata,
    Column("carrier", Text, primary_key=True),
    Column("arrived", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
)
_one_more = insert(BOARD)
ONE_MORE = _one_more.on_conflict_do_update(
    index_elements=["carrier"], set_={"arrived": BOARD.c.arrived + 1, "last": _one_more.excluded.last}
)
"""Counts one arrival: takes `carrier`, `arrived` (1) and `last`."""


def engine_of(url: str) -> Engine:
    """An engine on psycopg 3 with a pool for many threads."""
    return sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername="postgresql+psycopg"))
