"""PgBouncer in transaction mode is killed and started again while a service appends and delivers through it."""

import pytest
from sqlalchemy import make_url

from tests.fault_load import ROUNDS, Load
from tests.pgbouncer_server import pgbouncer


def test_a_pooler_that_is_killed_and_started_again_costs_nothing(
    postgres_url: str, postgres_empty_url: str, pytestconfig: pytest.Config
) -> None:
    database = make_url(postgres_empty_url).database
    with pgbouncer(postgres_url, pytestconfig.cache.mkdir("pgbouncer")) as pooler:
        url = make_url(pooler.url).set(database=database).render_as_string(hide_password=False)
        with Load(url, direct=postgres_empty_url).running() as load:
            load.goes_on()
            for _ in range(ROUNDS):
                pooler.stop()
                pooler.start()
                load.goes_on()
    load.totals_are_exact(unknown_max=ROUNDS)
    load.said_at_most(40 * ROUNDS)
