"""Which events of the log are one partition's: those with a handler, of its keys, above the floors of a repartition.

What stands in its ledger is not asked about here.
"""

from sqlalchemy import Connection

from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.feed import FeedItem, Page
from eventlog.subscribers.floors import Floors
from eventlog.subscribers.runtime import Runtime


class Share:
    """The part of the log that one partition of a subscriber wants."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber, number: int) -> None:
        self._runtime = runtime
        self._subscriber = subscriber
        self._number = number
        self._floors = Floors()

    def load(self, connection: Connection) -> None:
        """Read the floors anew."""
        self._floors.load(connection, self._runtime.database.tables, subscriber=self._subscriber.name)

    def page(self, *, after: int, until: int | None) -> Page:
        """Return what follows a position; of a long way to go perhaps only what the subscriber wants."""
        feed = self._runtime.feed
        types = self._subscriber.routes.types if feed.may_leave_out(after) else None
        return feed.page(after=after, until=until, types=types)

    def wanted(self, page: Page) -> list[FeedItem]:
        """The events of a page that have a handler here, and belong to this partition."""
        find, key = self._subscriber.routes.find, self._subscriber.key
        wanted = [item for item in page.items if find(item.stored.type) is not None]
        if self._subscriber.partitions > 1:
            hash_of, partitions, number = key.hash_of, self._subscriber.partitions, self._number
            wanted = [item for item in wanted if hash_of(item) % partitions == number]
        if self._floors.matter_after(page.after):
            wanted = [item for item in wanted if not self._floors.covers(item.position, key.of(item))]
        return wanted
