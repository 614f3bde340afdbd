"""How fast the log grows and its subscribers get on: what two looks have between them.

Nothing of it is stored, so a single look knows no rate. A rate is that of the last seconds, not of the last look alone,
which would jump with every batch. One that would be negative is none: somebody has moved the checkpoint back.
"""

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from eventlog.clock import Clock, SystemClock
from eventlog.database import Database, events_of, translated
from eventlog.subscribers.lags import LAG_EXACT_MAX, Span, count_events
from eventlog.subscribers.status import Status, read_status_of

WINDOW_SECONDS = 10.0


class _Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything stood at a moment of the monotonic clock."""

    at: float
    mark: int
    checkpoints: dict[str, int]


class Looks:
    """Looks at a log again and again. The first of `databases` is the log's."""

    def __init__(self, databases: Sequence[Database], *, clock: Clock | None = None) -> None:
        self._databases = databases
        self._clock: Clock = clock or SystemClock()
        self._samples: deque[_Sample] = deque()

    def look(self) -> Status:
        """Read how everything stands, with the rates of the last seconds. Raises what the database does."""
        found = read_status_of(self._databases)
        now = _Sample(
            at=self._clock.monotonic(),
            mark=found.high_water_mark,
            checkpoints={one.name: one.checkpoint for one in found.subscribers},
        )
        before = self._since(now.at)
        self._samples.append(now)
        return found if before is None else self._rated(found, before, now)

    def _since(self, now: float) -> _Sample | None:
        """The oldest sample within the window, or the last one where looks are further apart than that."""
        while len(self._samples) > 1 and now - self._samples[0].at > WINDOW_SECONDS:
            self._samples.popleft()
        return self._samples[0] if self._samples else None

    def _rated(self, found: Status, before: _Sample, now: _Sample) -> Status:
        spans = {
            name: (old, now.checkpoints[name]) for name, old in before.checkpoints.items() if name in now.checkpoints
        }
        grown = (before.mark, now.mark)
        counts = self._counts([*spans.values(), grown])
        seconds = max(now.at - before.at, 1e-9)
        return msgspec.structs.replace(
            found,
            rate=_rate(counts, grown, seconds),
            subscribers=tuple(
                msgspec.structs.replace(one, rate=_rate(counts, spans.get(one.name), seconds))
                for one in found.subscribers
            ),
        )

    def _counts(self, spans: Sequence[Span]) -> Mapping[Span, int]:
        """Count the events of the spans; of a long one its positions, which may have holes."""
        counts = {(after, until): until - after for after, until in spans}
        short = [span for span, positions in counts.items() if 0 < positions <= LAG_EXACT_MAX]
        if short:
            log = self._databases[0]
            with translated(log), log.reader() as connection, events_of(log, connection) as (there, reader):
                counts.update(count_events(reader, there, short))
        return counts


def _rate(counts: Mapping[Span, int], span: Span | None, seconds: float) -> float | None:
    if span is None or counts[span] < 0:
        return None
    return counts[span] / seconds
