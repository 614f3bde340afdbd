"""What was written against what arrived. Pure: no database, no clock, no thread.

The truth is the table at the end, `recorded`. The journal is held against it as well: an append that was acknowledged
and is not there, and one that was rolled back and is, are faults of the same rank as an event that was skipped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID


class Outcome(StrEnum):
    """What became of an event; unknown when whoever wrote it lost the connection before he was told."""

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"


class Order(StrEnum):
    """What a reader promises of the order in which events arrive."""

    LOG = "of the log"
    STREAM = "of each stream"


class Journal:
    """What a writer meant to write, noted before it was sent, and what became of it."""

    def __init__(self) -> None:
        self._outcomes: dict[UUID, Outcome] = {}

    def intend(self, ids: Iterable[UUID]) -> None:
        """Note events that are about to be sent."""
        for one in ids:
            self._outcomes[one] = Outcome.UNKNOWN

    def settle(self, ids: Iterable[UUID], outcome: Outcome) -> None:
        """Note what became of them."""
        for one in ids:
            self._outcomes[one] = outcome

    def with_outcome(self, outcome: Outcome) -> frozenset[UUID]:
        # A copy, since others may be looking on while it is written to.
        return frozenset(one for one, known in self._outcomes.copy().items() if known is outcome)

    def __ior__(self, other: "Journal") -> "Journal":
        self._outcomes |= other._outcomes
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event as a reader got it. `redelivery` says that the reader was told it may have had it before."""

    id: UUID
    position: int
    stream: str = ""
    redelivery: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sums, and every event with which something is wrong."""

    committed: int
    rolled_back: int
    unknown: int
    """Outcomes that were looked up in the table; they are counted under what was found, too."""
    delivered: int
    missed: frozenset[UUID] = frozenset()
    """Recorded, and never delivered."""
    twice: frozenset[UUID] = frozenset()
    """Delivered again without a word."""
    out_of_order: frozenset[UUID] = frozenset()
    """First delivered after one that has a higher position."""
    unrecorded: frozenset[UUID] = frozenset()
    """Delivered, and not in the table."""
    vanished: frozenset[UUID] = frozenset()
    """Acknowledged, and not in the table."""
    undead: frozenset[UUID] = frozenset()
    """Rolled back, and in the table."""
    strangers: frozenset[UUID] = frozenset()
    """In the table, and in no journal: then the audit itself is wrong."""

    @property
    def faults(self) -> dict[str, int]:
        """What is wrong, and how often; empty when nothing is."""
        names = ("missed", "twice", "out_of_order", "unrecorded", "vanished", "undead", "strangers")
        return {name: len(found) for name in names if (found := getattr(self, name))}


def audit(
    journal: Journal, recorded: Iterable[UUID], deliveries: Sequence[Delivery], *, order: Order = Order.LOG
) -> Verdict:
    """Hold what arrived against what is in the table, and the journal against both."""
    there = frozenset(recorded)
    acknowledged, refused, unknown = (journal.with_outcome(outcome) for outcome in Outcome)
    seen = _Seen(order)
    for delivery in deliveries:
        seen.add(delivery)
    return Verdict(
        committed=len(acknowledged | (unknown & there)),
        rolled_back=len(refused | (unknown - there)),
        unknown=len(unknown),
        delivered=len(seen.ids),
        missed=there - seen.ids,
        twice=frozenset(seen.twice),
        out_of_order=frozenset(seen.out_of_order),
        unrecorded=frozenset(seen.ids - there),
        vanished=acknowledged - there,
        undead=refused & there,
        strangers=there - acknowledged - refused - unknown,
    )


@dataclass(slots=True)
class _Seen:
    order: Order
    ids: set[UUID] = field(default_factory=set)
    twice: set[UUID] = field(default_factory=set)
    out_of_order: set[UUID] = field(default_factory=set)
    last: dict[str, int] = field(default_factory=dict)
    """The highest position so far, by stream; of the log under the empty name."""

    def add(self, delivery: Delivery) -> None:
        if delivery.id in self.ids:
            if not delivery.redelivery:
                self.twice.add(delivery.id)
            return
        self.ids.add(delivery.id)
        line = delivery.stream if self.order is Order.STREAM else ""
        if delivery.position <= self.last.get(line, 0):
            self.out_of_order.add(delivery.id)
        self.last[line] = max(delivery.position, self.last.get(line, 0))
