"""What a process of `run --processes` knows of the one that keeps it running: told by its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

SUPERVISOR = "EVENTLOG_SUPERVISOR"
NUMBER = "EVENTLOG_SUPERVISED_NUMBER"
MEASURES = "EVENTLOG_SUPERVISED_METRICS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One of several processes. `number` stays the same when it is started again, and `measures` is whether its calls
    of handlers are counted, in files that the supervisor reads.
    """

    supervisor: int
    number: int
    measures: bool

    def is_orphaned(self) -> bool:
        """Whether the supervisor is gone, without a word: nobody would stop this process any more."""
        return os.getppid() != self.supervisor

    def prepare(self) -> None:
        """Before the app is imported: go on counting where the process before this one has stopped."""
        if self.measures:
            from eventlog.cli.metrics_server import count_as

            count_as(self.number)


def child_of(environment: Mapping[str, str]) -> Child | None:
    """Return what the environment says; None for a process that nobody supervises."""
    supervisor = environment.get(SUPERVISOR, "")
    if not supervisor.isdecimal():
        return None
    return Child(
        supervisor=int(supervisor), number=int(environment.get(NUMBER, "0")), measures=environment.get(MEASURES) == "1"
    )


def environment_of(child: Child) -> dict[str, str]:
    """Write it down for a process that is about to be started."""
    return {SUPERVISOR: str(child.supervisor), NUMBER: str(child.number), MEASURES: "1" if child.measures else "0"}
