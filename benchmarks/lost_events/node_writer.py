"""A writer in another process and another language: Node, with the package `pg`."""

import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from benchmarks.lost_events.audit import Journal, Outcome
from benchmarks.lost_events.shapes import Shape
from tests.clients import Clients

PROGRAM = Path(__file__).with_name("node_writer.mjs")
END_SECONDS_MAX = 60.0

_OUTCOMES = {"committed": Outcome.COMMITTED, "rolled_back": Outcome.ROLLED_BACK}


@dataclass(slots=True, kw_only=True)
class NodeWriter:
    """Runs the program against the database of `clients`, and takes down what it says."""

    clients: Clients
    name: str
    seed: int
    schema: str = "eventlog"
    journal: Journal = field(default_factory=Journal)
    done: Counter[Shape] = field(default_factory=Counter)
    failures: list[Exception] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        process = self._start()
        reader = threading.Thread(target=self._read, args=[process.stdout], daemon=True)
        reader.start()
        stop.wait()
        assert process.stdin is not None
        assert process.stderr is not None
        with process:
            process.stdin.close()
            reader.join(END_SECONDS_MAX)
            if errors := process.stderr.read():
                self.failures.append(RuntimeError(errors))

    def _start(self) -> "subprocess.Popen[str]":
        arguments = (self.schema, self.name, f"{self.seed % 2**30 + 1}")
        return self.clients.start_node(PROGRAM.read_text(), *arguments, name=self.name, PGAPPNAME=self.name)

    def _read(self, lines: Iterator[str]) -> None:
        for line in lines:
            word, event_id = line.split()
            if word == "intended":
                self.journal.intend([UUID(event_id)])
            else:
                self.journal.settle([UUID(event_id)], _OUTCOMES[word])
                self.done[Shape.NODE] += 1
