"""This project on a SQLite file, used just as on PostgreSQL."""

from benchmarks.contestants.contestant import CATCHES_UP, Board
from benchmarks.contestants.raw_sqlite import checkpoint, read_board
from benchmarks.contestants.rewindlog import Rewindlog
from eventlog.log import EventLog


class RewindlogSqlite(Rewindlog):
    """What is asked of the database itself is asked of another one."""

    name = "rewindlog-sqlite"
    workloads = CATCHES_UP | {"W1", "W3"}
    database = "sqlite"

    def create(self) -> None:
        log = EventLog(self.url)
        log.init()
        log.engine.dispose()

    def board(self) -> Board:
        return read_board(self.url)

    def settle(self) -> None:
        checkpoint(self.url)


CONTESTANT = RewindlogSqlite
