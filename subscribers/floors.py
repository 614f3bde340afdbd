"""What a change of the number of partitions leaves behind: where each of the old ones had come to.

The new partitions begin at the least of the old positions, so that nothing is skipped; what an old partition had
already handled stands below its floor, and is passed by. An event is due when it is above the checkpoint of its new
partition and above the floor of its old one.
"""

from sqlalchemy import Connection, select

from eventlog.schema.tables import Tables
from eventlog.subscribers.keys import partition_of


class Floors:
    """The floors of one subscriber; none, once every partition has passed the highest."""

    def __init__(self) -> None:
        self._positions: dict[int, int] = {}
        self._partitions = 1
        self._highest = 0

    def load(self, connection: Connection, tables: Tables, *, subscriber: str) -> None:
        """Read them anew."""
        table = tables.floors
        rows = connection.execute(select(table).where(table.c.subscriber == subscriber)).all()
        self._positions = {row.partition: row.position for row in rows}
        self._partitions = rows[0].partitions if rows else 1
        self._highest = max(self._positions.values(), default=0)

    def matter_after(self, position: int) -> bool:
        """Tell whether any event after a position may stand below a floor."""
        return position < self._highest

    def covers(self, position: int, key: str) -> bool:
        """Tell whether an event was handled, or entered into the ledger, before the partitions were changed."""
        if position > self._highest:
            return False
        return position <= self._positions.get(partition_of(key, partitions=self._partitions), 0)
