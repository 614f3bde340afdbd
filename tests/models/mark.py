"""P1 and P2: the in-flight mark, and the high-water mark that readers stay below.

An appender is a session; its transactions are one after the other in its program.

    low            mark_append.2.sql: pg_sequence_last_value, before any position is given out
    mark           mark_append.2.sql: the shared lock that spells low, and the transaction's id in a local setting
    nextval        the identity's default. Once in 32 numbers it writes a log record, and the sequence's tuple shows a
                   value
                   that is ahead until it is through (decision 9): two steps here, with the buffer locked in between
    insert         the row, as nobody else sees it; guard_position.sql looks at its position
    commit         the rows are visible; the locks go after that
    to savepoint   ROLLBACK TO SAVEPOINT: rows, lock and setting of what came after it are gone
    leave setting  somebody sets the setting of this session for good, beyond the transaction

The reader is `Feed.refresh` and `Feed.page` (feed.py): the head alone; if that has moved the sequence and then the
marks (look.sql); rows in a new statement. Where it begins now, that is the mark (registration.py, and an advance in
moves.py). Positions fit 32 bits here; how marks wrap is arithmetic, which `tests/test_log_safe_order.py` asks of the
database.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from tests.models.explorer import Breach, Model, Removal

AHEAD = 2
"""How far the tuple of the sequence is ahead while nextval writes its log record: 32 on a real server."""

STATEMENT = ("low", "mark", "nextval", "insert")
ENDED = ("commit", "unlock")
ONE = (*STATEMENT, *ENDED)
TWO = (*STATEMENT, *STATEMENT, *ENDED)
ROLLED_BACK = (*STATEMENT, "roll back", "unlock")
SAVEPOINT = (*STATEMENT, "to savepoint", *STATEMENT, *ENDED)
LEFT_SETTING = (*STATEMENT, "leave setting", *ENDED, *STATEMENT, *ENDED)
CACHED = ("low", "mark", "nextval of two", "insert", *ENDED, "low", "mark", "insert the cached", *ENDED)


class Appender(NamedTuple):
    """A session. `mark` is -1 without one, `remembers` the transaction that is marked, `rows` what it has written."""

    program: tuple[str, ...]
    transaction: int = 1
    low: int = 0
    mark: int = -1
    remembers: int = 0
    left: int = 0
    cached: int = 0
    rows: int = 0


class Reader(NamedTuple):
    """`mark` is the high-water mark as last read; `snapshot` what a statement that began earlier would see."""

    at: str = "head"
    head: int = 0
    lows: tuple[int, ...] = ()
    mark: int = 0
    snapshot: int = 0
    checkpoint: int = 0
    page: int = 9


class World(NamedTuple):
    """Sets of positions are numbers with a bit for each. `busy` is whoever has the sequence's buffer."""

    appenders: tuple[Appender, ...]
    reader: Reader
    given: int = 0
    busy: int = -1
    visible: int = 0
    read: int = 0
    before: int = 0
    wrong: str = ""


class Mark(Model[World]):
    """Appenders beside one reader."""

    name = "mark"
    says = "in-flight marks and the high-water mark"
    removals: ClassVar[Mapping[str, Removal]] = {
        "mark": Removal(
            says="an append leaves its mark",
            scope="two appends",
            breaks=Breach.SKIPPED,
            also=("guard",),
            alone=Breach.REFUSED,
        ),
        "mark-first": Removal(
            says="the mark is left before a position is drawn",
            scope="two appends",
            breaks=Breach.SKIPPED,
            also=("guard",),
            alone=Breach.REFUSED,
        ),
        "low-first": Removal(
            says="low is read before a position is drawn",
            scope="two appends",
            breaks=Breach.SKIPPED,
            also=("guard",),
            alone=Breach.REFUSED,
        ),
        "guard": Removal(
            says="a row that its mark does not cover is refused",
            scope="a sequence with a cache, and an append",
            breaks=Breach.SKIPPED,
        ),
        "nothing-given": Removal(
            says="a sequence that has given out nothing reads as 0, by an appender",
            scope="one append",
            breaks=Breach.REFUSED,
        ),
        "nothing-given-to-read": Removal(
            says="a sequence that has given out nothing reads as 0, by a reader",
            scope="one append",
            breaks=Breach.SKIPPED,
        ),
        "buffer-lock": Removal(
            says="an appender reads the sequence under its buffer's lock", scope="two appends", breaks=Breach.REFUSED
        ),
        "buffer-lock-to-read": Removal(
            says="a reader reads the sequence under its buffer's lock", scope="two appends", breaks=Breach.SKIPPED
        ),
        "visible-first": Removal(
            says="rows are visible before their transaction's locks go", scope="one append", breaks=Breach.SKIPPED
        ),
        "savepoint": Removal(
            says="what a transaction remembers goes back with the savepoint, as its lock does",
            scope="an append after a savepoint that is rolled back, and another",
            breaks=Breach.SKIPPED,
        ),
        "transaction-id": Removal(
            says="the transaction's id is remembered, and not that there is a mark",
            scope="a setting that is left behind, and an append",
            breaks=Breach.SKIPPED,
        ),
        "sequence-first": Removal(
            says="a reader reads the sequence before the marks", scope="two appends", breaks=Breach.SKIPPED
        ),
        "least-mark": Removal(says="the least of the marks counts", scope="two appends", breaks=Breach.SKIPPED),
        "new-snapshot": Removal(
            says="rows are read in a new statement, under READ COMMITTED", scope="one append", breaks=Breach.SKIPPED
        ),
        "page-end": Removal(
            says="after a full page the checkpoint is at its last row",
            scope="pages of one event",
            breaks=Breach.SKIPPED,
        ),
        "never-back": Removal(
            says="the checkpoint does not follow a mark that goes back", scope="two appends", breaks=Breach.AGAIN
        ),
        "now-is-the-mark": Removal(
            says="a reader that begins now begins at the high-water mark, and not at the head",
            scope="a reader that begins now",
            breaks=Breach.SKIPPED,
        ),
    }
    hides = frozenset({"program", "at"})
    sets = frozenset({"visible", "read", "before", "rows", "snapshot"})
    large = frozenset({"three appends", "a transaction of two, one that is rolled back, and an append"})

    def scopes(self) -> Mapping[str, World]:
        now = Reader(at="sequence now")
        return {scope: self._as_taken(world) for scope, world in self._as_it_ought_to_be(now).items()}

    def _as_it_ought_to_be(self, now: Reader) -> Mapping[str, World]:
        return {
            "one append": _world(ONE),
            "two appends": _world(ONE, ONE),
            "a transaction of two, and an append": _world(TWO, ONE),
            "an append that is rolled back, and another": _world(ROLLED_BACK, ONE),
            "an append after a savepoint that is rolled back, and another": _world(SAVEPOINT, ONE),
            "a setting that is left behind, and an append": _world(LEFT_SETTING, ONE),
            "a sequence with a cache, and an append": _world(CACHED, ONE),
            "pages of one event": _world(ONE, ONE, reader=Reader(page=1)),
            "a reader that begins now": _world(ONE, ONE, reader=now),
            "three appends": _world(ONE, ONE, ONE),
            "a transaction of two, one that is rolled back, and an append": _world(TWO, ROLLED_BACK, ONE),
        }

    def _as_taken(self, world: World) -> World:
        """Put the steps of a statement, and those of its end, in the order they are taken in."""
        orders = {STATEMENT: STATEMENT, ENDED: ENDED}
        if not self.has("mark-first"):
            orders[STATEMENT] = ("low", "nextval", "insert", "mark")
        if not self.has("low-first"):
            orders[STATEMENT] = ("nextval", "insert", "low", "mark")
        if not self.has("visible-first"):
            orders[ENDED] = ("unlock", "commit")
        taken = []
        for appender in world.appenders:
            program: tuple[str, ...] = ()
            for step in appender.program:
                program += (step,)
                for order, other in orders.items():
                    if program[-len(order) :] == order:
                        program = (*program[: -len(order)], *other)
            taken.append(appender._replace(program=program))
        return world._replace(appenders=tuple(taken))

    def broken(self, world: World) -> Breach | None:
        if world.wrong:
            return Breach(world.wrong)
        below = (2 << world.reader.checkpoint) - 2
        return Breach.SKIPPED if world.visible & below & ~(world.read | world.before) else None

    def left_over(self, world: World) -> Breach | None:
        return Breach.SKIPPED if world.visible & ~(world.read | world.before) else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        for place, appender in enumerate(world.appenders):
            if appender.program:
                after = self._append(world, place, appender)
                if after is not None:
                    yield f"{'ABC'[place]}: {appender.program[0]}", after
        read = self._read(world, world.reader)
        if read is not None and read[1] != world:
            yield f"reader: {read[0]}", read[1]

    def _append(self, world: World, me: int, now: Appender) -> World | None:
        match now.program[0]:
            case "low":
                return self._low(world, me, now)
            case "mark":
                remembers = now.transaction if self.has("transaction-id") else 1
                marked = self._is_marked(now) or not self.has("mark")
                return _go(world, me, now, **({} if marked else {"mark": now.low, "remembers": remembers}))
            case "nextval" | "nextval of two":
                return _go(world, me, now)._replace(busy=me) if world.busy < 0 else None
            case "insert" | "insert the cached":
                return self._insert(world, me, now)
            case "commit":
                return _go(world, me, now, rows=0)._replace(visible=world.visible | now.rows)
            case "roll back":
                return _go(world, me, now, rows=0)
            case "to savepoint":
                left = {} if not self.has("savepoint") else {"remembers": 0}
                return _go(world, me, now, rows=0, mark=-1, **left)
            case "leave setting":
                return _go(world, me, now, left=now.remembers)
        return _go(world, me, now, transaction=now.transaction + 1, mark=-1, remembers=now.left)

    def _is_marked(self, now: Appender) -> bool:
        return now.remembers == now.transaction if self.has("transaction-id") else now.remembers > 0

    def _low(self, world: World, me: int, now: Appender) -> World | None:
        if self._is_marked(now):
            return _go(world, me, now)
        low = self._sequence(world, safe="buffer-lock", empty="nothing-given")
        return None if low is None else _go(world, me, now, low=low)

    def _insert(self, world: World, me: int, now: Appender) -> World:
        """Draw the position, and write the row; the guard looks at it."""
        draws = world.busy == me
        position = world.given + 1 if draws else now.cached
        cached = position + 1 if draws and "insert the cached" in now.program else 0
        if draws:
            world = world._replace(given=max(position, cached), busy=-1)
        covered = self._is_marked(now) and position > now.low
        if self.has("guard") and not covered:
            strange = not draws or now.left
            over = ("roll back", "unlock", *now.program[now.program.index("unlock") + 1 :])
            refused = _set(world, me, now._replace(program=over))
            return refused if strange else refused._replace(wrong=Breach.REFUSED)
        return _go(world, me, now, rows=now.rows | 1 << position, cached=cached)

    def _sequence(self, world: World, *, safe: str, empty: str) -> int | None:
        """Read the sequence; None while that has to wait."""
        if world.busy >= 0:
            return None if self.has(safe) else world.given + AHEAD
        return world.given if world.given or self.has(empty) else 1

    def _read(self, world: World, now: Reader) -> tuple[str, World] | None:
        match now.at:
            case "head":
                return self._poll(world, now)
            case "sequence" | "sequence now":
                return self._look_at_sequence(world, now)
            case "marks" | "marks now":
                return self._look_at_marks(world, now)
        return self._rows(world, now)

    def _head(self, world: World) -> int | None:
        return self._sequence(world, safe="buffer-lock-to-read", empty="nothing-given-to-read")

    def _poll(self, world: World, now: Reader) -> tuple[str, World] | None:
        """`Feed.refresh`: nothing, unless the head has moved past the mark last read; pages as long as there are."""
        if now.checkpoint < now.mark:
            return "go on with the next page", _seen(world, now, at="rows", snapshot=world.visible)
        head = self._head(world)
        if head is None or head == now.mark:
            return None
        return f"the head has moved to {head}", _seen(
            world, now, at="sequence" if self.has("sequence-first") else "marks"
        )

    def _look_at_sequence(self, world: World, now: Reader) -> tuple[str, World] | None:
        head = self._head(world)
        if head is None:
            return None
        said = f"the sequence is at {head}"
        if not self.has("sequence-first"):
            return said, _seen(world, now, at="rows", mark=min(head, *now.lows, head), lows=(), snapshot=world.visible)
        then = "marks now" if now.at == "sequence now" else "marks"
        return said, _seen(world, now, at=then, head=head, snapshot=world.visible)

    def _look_at_marks(self, world: World, now: Reader) -> tuple[str, World]:
        lows = tuple(sorted(one.mark for one in world.appenders if one.mark >= 0))
        if not self.has("sequence-first"):
            return f"the marks are {lows}", _seen(world, now, at="sequence", lows=lows)
        counts = lows[:1] if self.has("least-mark") else lows[-1:]
        mark = min(now.head, *counts, now.head)
        said = f"the marks are {lows}: the high-water mark is {mark}"
        if now.at == "marks":
            return said, _seen(world, now, at="rows", mark=mark, head=0)
        begins = mark if self.has("now-is-the-mark") else now.head
        began = _seen(world, now, at="head", mark=begins, checkpoint=begins, head=0, snapshot=0)
        return said, began._replace(before=world.visible)

    def _rows(self, world: World, now: Reader) -> tuple[str, World]:
        mark = now.mark
        visible = world.visible if self.has("new-snapshot") else now.snapshot
        found = [at for at in range(now.checkpoint + 1, mark + 1) if visible >> at & 1]
        if not self.has("never-back") and mark < now.checkpoint:
            return f"the checkpoint goes back to {mark}", _seen(world, now, at="head", checkpoint=mark, snapshot=0)
        page = found[: now.page]
        full = len(page) == now.page and self.has("page-end")
        through = page[-1] if full else max(now.checkpoint, mark)
        bits = sum(1 << at for at in page)
        done = _seen(world, now, at="head", checkpoint=through, snapshot=0)
        wrong = Breach.AGAIN if world.read & bits else world.wrong
        return f"read {page} and go to {through}", done._replace(read=world.read | bits, wrong=wrong)


def _world(*programs: tuple[str, ...], reader: Reader | None = None) -> World:
    return World(appenders=tuple(Appender(program=one) for one in programs), reader=reader or Reader())


def _set(world: World, me: int, appender: Appender) -> World:
    return world._replace(appenders=(*world.appenders[:me], appender, *world.appenders[me + 1 :]))


def _go(world: World, me: int, now: Appender, **changes: int) -> World:
    return _set(world, me, now._replace(program=now.program[1:], **changes))


def _seen(world: World, now: Reader, **changes: object) -> World:
    return world._replace(reader=now._replace(**changes))  # type: ignore[arg-type]  # fields of a reader
