"""A progress bar with rate and time left on a terminal; in a pipe, a line now and then."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eventlog.cli.output import is_terminal, number, say

LINE_EVERY = 0.1
"""Of the whole: how far it has to come before a pipe is told again."""


class Progress:
    """Told how far something has come, of so much in all."""

    def __init__(self, total: int, *, what: str = "") -> None:
        self.total = total
        self._what = f" {what}" if what else ""
        self._said = 0

    def reached(self, done: int) -> None:
        """Take note that so much is done."""
        if done - self._said >= max(1, self.total * LINE_EVERY) and done < self.total:
            self._said = done
            say(f"{number(done)} of {number(self.total)}{self._what}")


class _Unsaid(Progress):
    """What is over in a moment: nothing is said of it."""

    def reached(self, done: int) -> None:
        return


class _Bar(Progress):
    def __init__(self, total: int, bar: Any, task: Any) -> None:
        super().__init__(total)
        self._bar = bar
        self._task = task

    def reached(self, done: int) -> None:
        speed = self._bar.tasks[0].finished_speed or self._bar.tasks[0].speed
        rate = "" if speed is None else f"{number(round(speed))}/s"
        self._bar.update(self._task, completed=done, rate=rate)


@contextmanager
def shown_progress(total: int | None, *, what: str = "", from_on: int = 0) -> Iterator[Progress]:
    """Show progress while the block runs; `what` is counted. Nothing of fewer than `from_on`, nor without an end."""
    if total is None or total < from_on:
        yield _Unsaid(total or 0)
        return
    if not is_terminal():
        yield Progress(total, what=what)
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(total, bar, bar.add_task("", total=total, rate=""))
