"""`python -m tests.models`: go through a model, or see how it breaks.

python -m tests.models                                   what there is
python -m tests.models mark                              every scope of one model, and every step left out
python -m tests.models mark --without new-snapshot       the shortest way in which that goes wrong
python -m tests.models fence --scope "a lost answer"     one scope only; --large takes the large ones, too
python -m tests.models --write docs/models.md            today's figures into the page
"""

import sys
from pathlib import Path

import click

from tests.models.every import MODELS, explored, page, scopes
from tests.models.explorer import Explored, told

BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


@click.command(help=__doc__)
@click.argument("name", required=False, type=click.Choice(list(MODELS)))
@click.option("--without", multiple=True, metavar="STEP", help="leave out a step; may be given several times")
@click.option("--scope", help="go through this scope only")
@click.option("--large", is_flag=True, help="go through the large scopes, too")
@click.option("--write", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="write figures into a page")
def main(name: str | None, without: tuple[str, ...], scope: str | None, large: bool, write: Path | None) -> None:
    if write is not None:
        write.write_text(with_figures(write.read_text()))
    elif name is None:
        for model in MODELS.values():
            click.echo(f"{model.name:12}  {model.says}; {len(model.removals)} steps to leave out")
    elif without or scope:
        _run_one(name, without, scope)
    else:
        _run_all(name, large=large)


def with_figures(text: str) -> str:
    """Return a page with today's figures between its marks."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + "\n".join(page()) + "\n" + END + rest.partition(END)[2]


def _run_all(name: str, *, large: bool) -> None:
    model = MODELS[name]
    for scope in [*scopes(name), *(sorted(model.large) if large else [])]:
        _say(scope, explored(name, scope))
    for step, removal in model.removals.items():
        _say(f"without {step}, in {removal.scope}", explored(name, removal.scope, step, *removal.also))


def _run_one(name: str, without: tuple[str, ...], scope: str | None) -> None:
    model = MODELS[name]
    try:
        model(*without)
    except KeyError as error:
        raise click.UsageError(str(error.args[0])) from error
    removals = [model.removals[step] for step in without]
    missing = tuple(dict.fromkeys((*without, *(also for one in removals for also in one.also))))
    if scope is None:
        scope = removals[0].scope
        without = missing
    elif scope not in model().scopes():
        raise click.UsageError(f"{name} has no scope {scope!r}; its scopes are: {'; '.join(model().scopes())}")
    for step in without:
        click.echo(f"without {step}: {model.removals[step].says}")
    found = explored(name, scope, *without)
    _say(scope, found)
    click.echo("\n".join(told(model(), found.trace)))
    sys.exit(0 if found.breach is None else 1)


def _say(what: str, found: Explored[tuple[object, ...]]) -> None:
    outcome = "holds" if found.breach is None else f"{found.breach}, after {found.steps} steps"
    click.echo(f"{what}: {found.worlds:,} worlds, {found.ends:,} ends: {outcome}")


if __name__ == "__main__":
    main()
