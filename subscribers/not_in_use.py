"""Why a projection's version that code declares is not in use, and what would bring it there.

It is asked where nothing goes on by itself: a version is begun once, and what became of that stands in `rebuilds`.
"""

from sqlalchemy import select

from eventlog.database import Database
from eventlog.errors import RefusedError
from eventlog.subscribers.control.rebuilds import Rebuild, RebuildState, read_rebuilds
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.rebuilding import waits_at


def why_not_in_use(database: Database, subscriber: Subscriber) -> RefusedError | None:
    """Say what keeps a version from being in use; None where it is, or where an earlier one is declared."""
    table = database.tables.subscribers
    with database.reader() as connection:
        version = connection.scalar(select(table.c.version).where(table.c.name == subscriber.name)) or 1
    if subscriber.version <= version:
        return None
    said, remedy = _told(database, subscriber, _rebuild_to_tell(database, subscriber))
    at = f"projection {subscriber.name!r} is at version {version}, this code declares version {subscriber.version}"
    return RefusedError(at + said, remedy=remedy)


def _rebuild_to_tell(database: Database, subscriber: Subscriber) -> Rebuild | None:
    """The one that runs, since there is one at a time; else the last of the version that is declared."""
    found = read_rebuilds(database, subscriber=subscriber.name)
    running = (one for one in found if one.state is RebuildState.RUNNING)
    return next(running, None) or next((one for one in found if one.version == subscriber.version), None)


def _told(database: Database, subscriber: Subscriber, rebuild: Rebuild | None) -> tuple[str, str]:
    name = subscriber.name
    anew = f"`eventlog rebuild {name} --app module:app` makes it anew"
    if rebuild is None or rebuild.state is RebuildState.DONE:
        return "", anew
    which = f", and rebuild {rebuild.operation} of that"
    match rebuild.state:
        case RebuildState.CANCELLED:
            return f"{which} was cancelled", anew
        case RebuildState.REVERTED:
            return ", and was brought back from that to the tables of before", anew
    if rebuild.version != subscriber.version:
        cancel = f"`eventlog rebuild {name} --cancel --app module:app`"
        return f"; rebuild {rebuild.operation} makes version {rebuild.version}", f"wait for it, or cancel it: {cancel}"
    if rebuild.shape != subscriber.shape(database.engine.dialect):
        cancel = f"`eventlog rebuild {name} --cancel --app module:app`"
        return f"{which} makes other columns", f"run the code that has begun it, or cancel it: {cancel}"
    waiting = waits_at(database, subscriber, rebuild)
    if waiting is None:
        return f"{which} is not through", "run this again, or leave it to the workers"
    app = " --app module:app" if database.follows is not None else ""
    shows, again = f"`eventlog failures {rebuild.shadow}{app}`", f"`eventlog retry {rebuild.shadow}{app}`"
    return (
        f"{which} waits at event {waiting}, at which it failed",
        f"{shows} shows why; deploy what mends it, and {again}",
    )
