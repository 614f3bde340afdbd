"""What live delivery keeps in mind of the ledger: the events it passes by, and the keys it holds back.

Read when a lease is taken, and kept up by what the owner itself writes; no other worker writes to the ledger meanwhile.
Operators do: they may close an entry without a new epoch. So nothing is held back on this memory alone: who is about to
hold an event back asks for its key once more (`refresh_keys`).
"""

from collections.abc import Collection, Iterable

from sqlalchemy import Connection

from eventlog.schema.tables import Tables
from eventlog.subscribers.due import Held, held_entries
from eventlog.subscribers.ledger import EntryState, NewEntry


class HeldBack:
    """The entries of one partition that live delivery has to mind."""

    def __init__(self, tables: Tables, *, subscriber: str, partition: int) -> None:
        self._tables = tables
        self._subscriber = subscriber
        self._partition = partition
        self._entries: dict[int, Held] = {}
        self._by_key: dict[str, set[int]] = {}

    @property
    def open_count(self) -> int:
        """How many entries are open, as far as is known."""
        return sum(len(positions) for positions in self._by_key.values())

    def load(self, connection: Connection, *, above: int) -> None:
        """Read everything anew."""
        self._entries.clear()
        self._by_key.clear()
        for held in self._read(connection, above=above):
            self._add(held)

    def refresh_keys(self, connection: Connection, keys: Collection[str], *, above: int) -> None:
        """Read the entries of some keys again."""
        for key in keys:
            for position in self._by_key.pop(key, set()):
                self._entries.pop(position, None)
        for held in self._read(connection, above=above, keys=keys):
            self._add(held)

    def at(self, position: int) -> Held | None:
        """Return the entry of an event, if it is open or skipped."""
        return self._entries.get(position)

    def holds(self, key: str) -> bool:
        """Tell whether an event of this key would have to wait."""
        return key in self._by_key

    @property
    def is_empty(self) -> bool:
        """Whether there is no entry to mind."""
        return not self._entries

    @property
    def holds_any(self) -> bool:
        return bool(self._by_key)

    def first_above(self, position: int, *, handler: str) -> int | None:
        """Return the first event above a position at which a handler has failed and is to be tried again."""
        waiting = (
            one
            for one, held in self._entries.items()
            if one > position and held.handler == handler and held.state is EntryState.RETRYING
        )
        return min(waiting, default=None)

    def wrote(self, entries: Iterable[NewEntry]) -> None:
        """Take in what was written, once it is committed."""
        for entry in entries:
            self._add(Held(position=entry.position, key=entry.key, state=entry.state, handler=entry.handler))

    def changed(self, held: Held) -> None:
        """Take in that an entry stands elsewhere now; one that is closed is minded no more."""
        self.drop(held.position)
        if held.open or held.state is EntryState.SKIPPED:
            self._add(held)

    def drop(self, position: int) -> None:
        """Mind an entry no more."""
        held = self._entries.pop(position, None)
        if held is not None and held.open:
            positions = self._by_key.get(held.key, set())
            positions.discard(position)
            if not positions:
                self._by_key.pop(held.key, None)

    def passed(self, position: int) -> None:
        """Forget what was skipped at or below the checkpoint: it will not be met again."""
        for one in [one for one, held in self._entries.items() if one <= position and not held.open]:
            del self._entries[one]

    def _read(self, connection: Connection, *, above: int, keys: Collection[str] = ()) -> list[Held]:
        return held_entries(
            connection, self._tables, subscriber=self._subscriber, partition=self._partition, above=above, keys=keys
        )

    def _add(self, held: Held) -> None:
        self._entries[held.position] = held
        if held.open:
            self._by_key.setdefault(held.key, set()).add(held.position)
