"""All models, and what going through them comes to, remembered for whoever asks again in this process."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from tests.models.control import Control
from tests.models.decisions import Decisions
from tests.models.declaration import Declaration
from tests.models.delivery import Delivery
from tests.models.doorbell import Doorbell
from tests.models.explorer import Explored, Model, explore
from tests.models.fence import Fence
from tests.models.ledger import Ledger
from tests.models.locks import Locks
from tests.models.mark import Mark
from tests.models.repartition import Repartition
from tests.models.replay import Replay
from tests.models.servers import Servers
from tests.models.witnesses import Witnesses

MODELS: dict[str, type[Model[Any]]] = {
    one.name: one
    for one in (
        Mark,
        Decisions,
        Doorbell,
        Fence,
        Witnesses,
        Servers,
        Locks,
        Delivery,
        Ledger,
        Control,
        Repartition,
        Replay,
        Declaration,
    )
}


@cache
def explored(name: str, scope: str, *without: str) -> Explored[Any]:
    """Go through a scope of a model, with steps left out."""
    return explore(MODELS[name](*without), scope)


def scopes(name: str) -> Sequence[str]:
    """Name the scopes that are gone through each time."""
    return [scope for scope in MODELS[name]().scopes() if scope not in MODELS[name].large]


def page(names: Sequence[str] = ()) -> Iterator[str]:
    """Write what is modelled, for the page in the documentation."""
    for name in names or MODELS:
        model = MODELS[name]
        yield f"### `{name}`: {model.says}"
        yield ""
        found = [explored(name, scope) for scope in scopes(name)]
        most = max(found, key=lambda one: one.worlds)
        yield (
            f"{len(found)} scopes, {sum(one.worlds for one in found):,} worlds, {most.worlds:,} in the largest. By"
            f" `make soak` also: {'; '.join(sorted(model.large))}."
        )
        yield ""
        yield "| left out | the step | breaks: | after | in |"
        yield "|---|---|---|---|---|"
        for step, removal in model.removals.items():
            broken = explored(name, removal.scope, step, *removal.also)
            what, after = f"{broken.breach}", f"{broken.steps} step{'s' if broken.steps != 1 else ''}"
            if removal.also:
                alone = explored(name, removal.scope, step).breach
                left = " and ".join(f"`{one}`" for one in removal.also)
                what = f"{what}, without {left}; alone {'nothing' if alone is None else alone}"
            yield f"| `{step}` | {removal.says} | {what} | {after} | {removal.scope} |"
        yield ""
