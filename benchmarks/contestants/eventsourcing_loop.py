"""`eventsourcing` caught up with by a loop over its subscription, which tracks once for each page that it reads.

The documentation tracks each event; whoever does without exactly once can track less often, and then does what our
effects do. Its subscription reads 500 events at a time.
"""

from eventsourcing.persistence import InfrastructureFactory
from eventsourcing.projection import ApplicationSubscription
from eventsourcing.utils import Environment

from benchmarks.contestants.contestant import Handle
from benchmarks.contestants.eventsourcing import Eventsourcing, Flights

PAGE_EVENTS = 500


class EventsourcingLoop(Eventsourcing):
    """At least once: a crash repeats what came since the last tracking."""

    name = "eventsourcing-loop"
    workloads = frozenset({"W4"})
    catch_up_events = 100_000

    def catch_up(self, events: int, handle: Handle) -> None:
        application = Flights(self.env(pool=2))
        factory = InfrastructureFactory.construct(Environment("loop", self.env(pool=1)))
        tracked, handled = factory.tracking_recorder(), 0
        with ApplicationSubscription(application, gt=tracked.max_tracking_id(Flights.name)) as subscription:
            for event, tracking in subscription:
                handle(event)
                handled += 1
                if handled % PAGE_EVENTS == 0 or handled == events:
                    tracked.insert_tracking(tracking)
                if handled == events:
                    break
        application.close()
        factory.close()


CONTESTANT = EventsourcingLoop
