"""`types`, `types check`, `types lock`, `types export`: what is recorded, and whether the classes of today bear it."""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from eventlog.cli.exits import Exit
from eventlog.cli.opening import load_app, opened_app, opened_log
from eventlog.cli.options import shared_options
from eventlog.cli.output import Column, Format, counted, number, say, show, show_items, show_json, show_table
from eventlog.cli.plan import ask
from eventlog.cli.settings import Settings, read_settings
from eventlog.errors import NotFoundError, UsageError
from eventlog.event_types import EventType, declaration_problems, declared_as, declared_types
from eventlog.type_census import POSITIONS_KEPT, Reading, StoredType, read_all, sample, stored_types
from eventlog.type_documents import asyncapi_document, json_schema_document
from eventlog.type_lock import DEFAULT_LOCK, NOTHING_LOCKED, Change, changes, lock_of, lock_text, read_lock

SAMPLE_SIZE = 20
POSITIONS_SHOWN = 5

lock_file = click.Path(path_type=Path, dir_okay=False)


@click.group(invoke_without_command=True)
@shared_options
@click.pass_context
def types(context: click.Context) -> None:
    """List the event types, their versions and counts.

    With --app also which class reads each of them, the types it declares that were never recorded, and the names that
    types had before. Counting reads the whole log up to the high-water mark.

    \b
      eventlog types
      eventlog types --app shop:app
      eventlog types check --app shop:app
    """
    if context.invoked_subcommand is not None:
        return
    settings = read_settings()
    if settings.app is None:
        with opened_log(settings) as log:
            listed = [_listed(one, None) for one in stored_types(log)]
    else:
        with opened_app(settings) as app:
            found = stored_types(app.log)
        listed = [_listed(one, declared_as(one.type)) for one in found] + _never_recorded(found)
        listed.sort(key=lambda one: (one.type, one.version))
    _show_listed(listed, settings)


@types.command()
@click.option("--all", "every", is_flag=True, help="Read every event, not a sample.")
@click.option(
    "--sample",
    "size",
    metavar="COUNT",
    type=click.IntRange(min=2),
    help=f"At most so many events of each type and version.  [default: {SAMPLE_SIZE}]",
)
@click.option("--lock", "lock", metavar="FILE", type=lock_file, help="Compare with a lock file instead, without a log.")
@shared_options
def check(*, every: bool, size: int | None, lock: Path | None) -> None:
    """Tell whether the classes of an app read what is recorded.

    Of each type and version the first event is read, the last, and some between, or all of them. With --lock the
    classes are compared with the lock file instead: no database is needed, so that a change can be checked before it is
    merged. Exits with 4 where something does not hold. Picking the sample reads the whole log without its data.

    \b
      eventlog types check --app shop:app
      eventlog types check --app shop:app --all
      eventlog types check --app shop:app --lock eventlog.lock.json
    """
    if (every and size is not None) or (lock is not None and (every or size is not None)):
        raise UsageError("--all, --sample and --lock are different checks", remedy="give one of them")
    settings = read_settings()
    held = _check_lock(settings, lock) if lock is not None else _check_log(settings, every=every, size=size)
    if not held:
        raise click.exceptions.Exit(Exit.CHECK_FAILED)


@types.command("lock")
@click.argument("file", type=lock_file, default=DEFAULT_LOCK)
@click.option("--yes", is_flag=True, help="Lock changes that break recorded events, without asking.")
@shared_options
def lock_types(file: Path, *, yes: bool) -> None:
    """Write the schemas of all declared types to a file kept with the code.

    FILE is eventlog.lock.json unless it is named. `eventlog types check --lock FILE` then tells when a class changes in
    a way that recorded events do not bear. Older versions stay in the file. Changes that break are locked with --yes.

    \b
      eventlog types lock --app shop:app
      eventlog types lock --app shop:app schemas/events.json
    """
    settings = read_settings()
    declared = _declared(settings)
    try:
        before = read_lock(file)
    except NotFoundError:
        before = NOTHING_LOCKED
    found = changes(before, declared)
    breaking = [one for one in found if one.breaking]
    if breaking:
        _say_changes(breaking)
        ask(
            f"Lock {counted(len(breaking), 'change')} that recorded events may not bear?",
            yes=yes,
            dry_run_offered=False,
        )
    after = lock_of(declared, before=before)
    _write(file, lock_text(after))
    if settings.json:
        show_json({"file": str(file), "types": len(after.types), "changes": found})
        return
    show(f"Locked {counted(len(after.types), 'type')} in {file}, {counted(len(found), 'change')}.")


@types.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonschema", "asyncapi"]),
    default="jsonschema",
    show_default=True,
    help="The kind of document.",
)
@click.option("--title", default="Events", show_default=True, help="The title of the document.")
@click.option("--document-version", default="1.0.0", show_default=True, help="The version of an AsyncAPI document.")
@shared_options
def export(*, form: str, title: str, document_version: str) -> None:
    """Print a document of all declared types, for other programs.

    A JSON Schema (2020-12) of what `eventlog read --output jsonl` prints, or an AsyncAPI 3.0 document with a channel
    for the streams of each type. It needs no database.

    \b
      eventlog types export --app shop:app > events.schema.json
      eventlog types export --app shop:app --format asyncapi > asyncapi.json
    """
    settings = read_settings()
    declared = _declared(settings)
    if form == "asyncapi":
        document = asyncapi_document(declared, title=title, version=document_version)
    else:
        document = json_schema_document(declared, title=title)
    text = msgspec.json.encode(document)
    show((text if settings.output is Format.JSONL else msgspec.json.format(text, indent=2)).decode())


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one type, as it is stored and as it is declared. The last three are null without an app."""

    type: str
    version: int
    count: int
    first: int | None
    last: int | None
    declared: str | None
    declared_as: str | None
    declared_version: int | None


def _listed(stored: StoredType, declared: EventType | None) -> Listed:
    return Listed(
        type=stored.type,
        version=stored.version,
        count=stored.count,
        first=stored.first,
        last=stored.last,
        declared=_class_name(declared) if declared is not None else None,
        declared_as=declared.name if declared is not None else None,
        declared_version=declared.version if declared is not None else None,
    )


def _never_recorded(stored: Sequence[StoredType]) -> list[Listed]:
    known = {(one.type, one.version) for one in stored}
    return [
        Listed(
            type=one.name,
            version=one.version,
            count=0,
            first=None,
            last=None,
            declared=_class_name(one),
            declared_as=one.name,
            declared_version=one.version,
        )
        for one in declared_types()
        if (one.name, one.version) not in known
    ]


def _class_name(declared: EventType) -> str:
    return f"{declared.data_class.__module__}.{declared.data_class.__qualname__}"


def _show_listed(listed: Sequence[Listed], settings: Settings) -> None:
    if settings.json:
        show_items("types", listed, settings.output)
        return
    if not listed:
        say("No events are recorded yet.")
        return
    columns = [Column(title="type"), *(Column(title=one, right=True) for one in ("version", "count", "first", "last"))]
    rows = [
        (one.type, str(one.version), number(one.count), _position(one.first), _position(one.last)) for one in listed
    ]
    if settings.app is None:
        show_table(columns, rows)
        return
    columns.append(Column(title="read as", wraps=True))
    show_table(columns, [(*row, _read_as(one)) for row, one in zip(rows, listed, strict=True)])


def _position(value: int | None) -> str:
    return "-" if value is None else number(value)


def _read_as(one: Listed) -> str:
    if one.declared is None or one.declared_version is None:
        return "not declared"
    what = one.declared if one.version == one.declared_version else f"{one.declared}, version {one.declared_version}"
    return what if one.type == one.declared_as else f"{what}, now {one.declared_as}"


def _check_log(settings: Settings, *, every: bool, size: int | None) -> bool:
    """Read what is recorded through the classes of the app, show how it went, and tell whether all could be read."""
    with opened_app(settings) as app:
        events = app.log.read_stored() if every else sample(app.log, size=size or SAMPLE_SIZE)
        readings = read_all(events)
    problems = [str(one) for one in declaration_problems()]
    failed = sum(one.failed for one in readings)
    if settings.output is Format.JSONL:
        show_items("types", readings, settings.output)
    elif settings.json:
        checked = sum(one.checked for one in readings)
        show_json({"checked": checked, "failed": failed, "types": readings, "problems": problems})
    else:
        _show_readings(readings)
    for problem in problems:
        say(problem)
    undeclared = sorted({one.type for one in readings if declared_as(one.type) is None})
    if undeclared:
        say(f"No class is declared for {', '.join(undeclared)}: read as plain data.")
    return not (failed or problems)


def _show_readings(readings: Sequence[Reading]) -> None:
    columns = [Column(title="type"), *(Column(title=one, right=True) for one in ("version", "checked", "failed"))]
    rows = [
        (one.type, str(one.version), number(one.checked), number(one.failed), _failed_at(one), one.error or "")
        for one in readings
    ]
    show_table([*columns, Column(title="positions", wraps=True), Column(title="first error", wraps=True)], rows)
    if any(len(one.positions) > POSITIONS_SHOWN for one in readings):
        say(f"--output json names up to {POSITIONS_KEPT} positions of each type and version.")


def _failed_at(one: Reading) -> str:
    named = ", ".join(map(number, one.positions[:POSITIONS_SHOWN]))
    return named + (" ..." if one.failed > POSITIONS_SHOWN else "")


def _check_lock(settings: Settings, file: Path) -> bool:
    """Compare the classes of the app with a lock file, show what differs, and tell whether nothing breaks."""
    declared = _declared(settings)
    found = changes(read_lock(file), declared)
    problems = [str(one) for one in declaration_problems()]
    breaking = [one for one in found if one.breaking]
    if settings.output is Format.JSONL:
        show_items("changes", found, settings.output)
    elif settings.json:
        show_json({"lock": str(file), "changes": found, "problems": problems})
    elif found:
        columns = [Column(title="type"), Column(title="version", right=True), Column(title="breaks")]
        rows = [(one.type, str(one.version), "yes" if one.breaking else "no", one.problem) for one in found]
        show_table([*columns, Column(title="change", wraps=True)], rows)
    for problem in problems:
        say(problem)
    if breaking:
        say(f"{counted(len(breaking), 'change')} that recorded events may not bear; give the type a new version and an")
        say("upcaster, or widen the class again.")
    elif found:
        say(f"Nothing breaks; `eventlog types lock {file}` takes it over.")
    else:
        say(f"{counted(len(declared), 'type')} as locked.")
    return not (breaking or problems)


def _declared(settings: Settings) -> tuple[EventType, ...]:
    if settings.app is None:
        raise UsageError(
            "this command looks at your classes, and no app is named",
            remedy="say --app module:attribute, or put app = 'module:attribute' into eventlog.toml",
        )
    load_app(settings)
    found = declared_types()
    if not found:
        raise UsageError(
            f"the app {settings.app!r} declares no event types",
            remedy="declare classes with @event, in modules that the app's module imports",
        )
    return found


def _say_changes(found: Sequence[Change]) -> None:
    for one in found:
        say(f"{one.type} version {one.version}: {one.problem}")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error}", remedy="name a file in a folder that is there"
        ) from error
