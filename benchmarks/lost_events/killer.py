"""Ends connections under whoever uses them, at any moment, as a failing network or an operator does."""

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine, text

PAUSE_SECONDS = (0.05, 0.3)

_VICTIM = text(
    """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid()
      and exists (select from unnest(cast(:names as text[])) as name where starts_with(application_name, name))
    order by md5(pid::text || :salt) limit 1
    """
)
_STILL_BUSY = text(
    """
    select count(*) from pg_stat_activity
    where datname = current_database() and starts_with(application_name, :name)
      and (state <> 'idle' or backend_type <> 'client backend')
    """
)


@dataclass(slots=True, kw_only=True)
class Killer:
    """Ends, one after the other, connections whose names begin with one of `names`."""

    observer: Engine
    names: Sequence[str]
    random: random.Random
    killed: int = 0
    failures: list[Exception] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(self.random.uniform(*PAUSE_SECONDS)):
                with self.observer.connect() as connection:
                    values = {"names": list(self.names), "salt": f"{self.random.random()}"}
                    self.killed += len(connection.execute(_VICTIM, values).all())
        except Exception as error:
            self.failures.append(error)


def still_busy(observer: Engine, name: str) -> int:
    """Count the connections of this name that have not come to the end of what they were told."""
    with observer.connect() as connection:
        return int(connection.scalar(_STILL_BUSY, {"name": name}) or 0)
