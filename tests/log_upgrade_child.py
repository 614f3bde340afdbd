"""Upgrades a database and stops at a named statement, for tests that kill it there.

Run as a script: `python -m tests.log_upgrade_child URL WORDS`. When the first statement that contains WORDS has been
executed, it writes a line and waits until it is killed; with words that never come it ends with the upgrade done.
"""

import sys
from typing import Any

import sqlalchemy

from eventlog.schema.migrate import upgrade


def main(url: str, words: str) -> None:
    engine = sqlalchemy.create_engine(url)

    @sqlalchemy.event.listens_for(engine, "after_cursor_execute")
    def stop_here(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if words in statement.lower():
            sys.stdout.write("reached\n")
            sys.stdout.flush()
            sys.stdin.read()

    upgrade(engine)


if __name__ == "__main__":
    main(*sys.argv[1:])
