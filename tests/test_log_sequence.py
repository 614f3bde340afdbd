"""What the proof of safe order asks of a sequence: that a read is never ahead of what has been given out."""

import threading

import psycopg
import pytest
from sqlalchemy import make_url

SESSIONS = 6
READS = 20_000
ROUNDS_MAX = 20
SEQUENCE = "eventlog.events_position_seq"
BY_SELECT = f"(select case when is_called then last_value else last_value - 1 end from {SEQUENCE})"

COUNT_READS_AHEAD = """
do $$
declare
    seen bigint;
    ahead bigint := 0;
begin
    for n in 1..{reads} loop
        seen := {read};
        if nextval('{sequence}') <= seen then
            ahead := ahead + 1;
        end if;
    end loop;
    perform set_config('test.ahead', ahead::text, false);
end $$
"""


def reads_ahead(url: str, read: str) -> int:
    """Read and draw in several sessions at once; count the reads that showed a number not given out before."""
    found: list[int] = []

    def session() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(COUNT_READS_AHEAD.format(reads=READS, read=read, sequence=SEQUENCE).encode())
            row = connection.execute("select current_setting('test.ahead')::bigint").fetchone()
            assert row is not None
            found.append(row[0])

    threads = [threading.Thread(target=session) for _ in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == SESSIONS
    return sum(found)


@pytest.fixture
def url(postgres_database_url: str) -> str:
    return make_url(postgres_database_url).set(drivername="postgresql").render_as_string(hide_password=False)


def test_the_head_is_never_ahead_of_what_has_been_given_out(url: str) -> None:
    assert reads_ahead(url, "eventlog.head()") == 0


def test_a_select_of_the_sequence_is_ahead_now_and_then(url: str) -> None:
    """Why the head is not read that way. Should PostgreSQL ever mend it, this test says so."""
    assert any(reads_ahead(url, BY_SELECT) for _ in range(ROUNDS_MAX))
