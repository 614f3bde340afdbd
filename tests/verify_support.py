"""What the tests of `verify` share: a log with two subscribers, and what can be done to their rows by hand."""

import dataclasses
from typing import Any

from eventlog.doctor import Finding
from eventlog.events import Event
from eventlog.log_audit import LogAudit
from eventlog.subscribers import accounting
from eventlog.subscribers.audit import Audit, audit_subscriber
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.log_support import note
from tests.subscribers_support import Bench, BugError, Sent, applied_table
from tests.subscribers_support import note as note_applied


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What is done to the rows, and what has to be said of it, by which check; `of` is the subscriber it is done to."""

    sql: str
    check: str
    said: str
    remedy: str
    of: str | None = None
    only: str | None = None
    beside: tuple[str, ...] = ()
    """Other checks that find something in it, too."""


DAMAGES = {
    "an event that is gone": Damage(
        sql="delete from {events} where position = 3",
        check="streams",
        said="the versions of 1 streams have holes, or two of one: 'note-1' has 1 from 2 to 2 where 1 comes next",
        remedy="restore them from a backup",
    ),
    "an id that two events have": Damage(
        sql="alter table {events} drop constraint events_id;"
        "update {events} set id = (select id from {events} where position = 1) where position = 2",
        check="ids",
        said="several events have the same id",
        remedy="restore the rows",
        only="postgresql",
        beside=("tables",),
    ),
    "data that is no document": Damage(
        sql="""update {events} set data = '{"number" ' where position = 2""",
        check="events",
        said="1 events whose id, data, metadata or tags are no document that can be read: 2",
        remedy="restore these rows from a backup",
        only="sqlite",
    ),
    "a tag that is not in the index": Damage(
        sql="delete from {event_tags} where position = 5",
        check="events",
        said="1 events whose tags are not in the index of tags: decisions by them do not see these events: 5",
        remedy="insert into event_tags",
    ),
    "a tag of no event": Damage(
        sql="insert into {event_tags} (tag, position, type) values ('blue', 1, 'crate.sent')",
        check="tags",
        said="rows of events that do not carry them, or are not there: 1",
        remedy="delete these rows of event_tags",
    ),
    "a position that nobody reads": Damage(
        sql="update {events} set position = -1 where position = 1",
        check="events",
        said="1 positions below 1, which no reader comes to: -1",
        remedy="restore a backup",
        only="sqlite",
    ),
    "two events at one position": Damage(
        sql="alter table {events} drop constraint events_pkey;"
        "insert into {events} (position, id, stream, version, type, data) overriding system value"
        " values (2, gen_random_uuid(), 'second', 1, 'crate.sent', '{}')",
        check="events",
        said="1 positions that several events have: 2",
        remedy="restore a backup",
        only="postgresql",
        beside=("tables",),
    ),
    "a checkpoint that was moved by hand": Damage(
        sql="update {checkpoints} set position = 5, in_hand = 5 where subscriber = 'mail'",
        of="mail",
        check="accounts",
        said="mail: 1 events of its types between 1 and 5 were handed to nobody, are not in the ledger, and no operator"
        " had them passed over: 5",
        remedy="eventlog rewind mail --from 5",
    ),
    "an effect beyond the log": Damage(
        sql="update {checkpoints} set position = 50, in_hand = 50, handled_through = 50 where subscriber = 'mail'",
        of="mail",
        check="checkpoints",
        said="mail stands at 50, beyond the head 5: the log was restored to an earlier point",
        remedy="eventlog rewind mail --from 6 --resend",
    ),
    "a projection beyond the log": Damage(
        sql="update {checkpoints} set position = 50, in_hand = 50, handled_through = 50 where subscriber = 'board'",
        of="board",
        check="checkpoints",
        said="board stands at 50, beyond the head 5",
        remedy="eventlog rebuild board",
    ),
    "less in hand than done": Damage(
        sql="update {checkpoints} set in_hand = 1 where subscriber = 'mail'",
        of="mail",
        check="rows",
        said="mail/0 has 1 in hand, below its checkpoint 4",
        remedy="eventlog rewind mail --from 2",
    ),
    "a partition without its row": Damage(
        sql="delete from {checkpoints} where subscriber = 'mail'",
        of="mail",
        check="rows",
        said="mail declares 1 partitions, its row says 1, and it has checkpoints of []",
        remedy="register anew",
    ),
    "another number of partitions": Damage(
        sql="update {subscribers} set partitions = 7 where name = 'mail'",
        of="mail",
        check="rows",
        said="mail declares 1 partitions, its row says 7, and it has checkpoints of [0]",
        remedy="register anew",
    ),
    "a declaration that cannot be read": Damage(
        sql="update {subscribers} set declaration = '[]' where name = 'mail'",
        of="mail",
        check="rows",
        said="mail: a subscriber's declaration cannot be read: Expected `object`, got `array`",
        remedy="from a backup",
    ),
    "an operation that cannot be read": Damage(
        sql="update {operations} set after = '{}' where subscriber = 'mail'",
        of="mail",
        check="rows",
        said="a register of 'mail', cannot be read: 'patterns'",
        remedy="put it back from a backup",
    ),
    "a projection's table that is gone": Damage(
        sql="drop table applied",
        of="board",
        check="tables",
        said="board: its table applied is gone",
        remedy="eventlog rebuild board",
    ),
    "an entry of no event": Damage(
        sql="update {failures} set position = 77 where position = 2",
        of="mail",
        check="ledger",
        said="mail: an entry of the ledger points at no event, which was taken out, or is not in a restored log: 77",
        remedy="eventlog skip mail POSITION",
    ),
    "an entry that no worker looks for": Damage(
        sql="update {failures} set partition = 3",
        of="mail",
        check="ledger",
        said="mail: an entry is not in the partition of its key, where a worker looks for it: 2",
        remedy="partition_of(key, partitions)",
    ),
    "an entry in no state": Damage(
        sql="update {failures} set state = 'lost'",
        of="mail",
        check="ledger",
        said="mail: the state of an entry is none: 2",
        remedy="by hand",
    ),
    "a halt that was passed": Damage(
        sql="update {failures} set subscriber = 'board'",
        of="board",
        check="ledger",
        said="board: the checkpoint has passed an open entry, and the subscriber halts at failures: 2",
        remedy="eventlog rewind board --from POSITION",
    ),
    "a sequence that was set back": Damage(
        sql="select setval('eventlog.events_position_seq', 2)",
        check="high-water mark",
        said="it is at 2, below the last event 5, and nobody holds it back",
        remedy="eventlog doctor",
        only="postgresql",
        beside=("positions",),
    ),
}


class Sold:
    """A mail that parks crate 2 and a board, which have come to event 4; event 5, with a tag, is yet to come."""

    def __init__(self, bench: Bench, **options: Any) -> None:
        self.bench, self.database = bench, bench.log.database
        self.app = bench.app()
        self.applied = applied_table()
        self.fails_at = {2}
        mail = self.app.subscriber("mail", retry=Retry(attempts=1), **options)
        board = self.app.projection("board", tables=[self.applied])

        @mail
        def send(crate: Sent) -> None:
            if crate.number in self.fails_at:
                raise BugError

        @board
        def add(crate: Sent, ctx: Context) -> None:
            note_applied(ctx, self.applied)

    def sell(self) -> "Sold":
        self.bench.log.append(Sent(1), Sent(2), note("one"), note("two"))
        self.app.drain()
        self.bench.log.append(Event(Sent(5), tags=["red"]))
        return self

    def audit(self, name: str = "mail", **options: Any) -> Audit:
        return audit_subscriber(self.database, name, reached=lambda _: None, **options)

    def account(self, name: str = "mail") -> dict[str, Any]:
        """What is not nothing in the only account."""
        audit = self.audit(name)
        (account,) = audit.accounts
        assert account.adds_up
        assert not wrong(audit), wrong(audit)
        counts = {one: getattr(account, one) for one in (*accounting.Outcome, "unused")}
        return {one: count for one, count in counts.items() if count}


def wrong(audit: Audit | LogAudit) -> list[Finding]:
    return [one for one in audit.findings if one.status == "wrong"]
