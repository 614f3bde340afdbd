"""The pages on subscribers are done as they are told."""

import inspect
from pathlib import Path

import pytest

from eventlog.subscribers.app import App
from tests.docs_support import DOCS, assert_page_holds


@pytest.mark.parametrize("page", ["subscribers.md", "repeatable-effects.md", "embedding.md"])
def test_the_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    assert_page_holds(DOCS / page, tmp_path)


def test_every_option_of_a_subscriber_and_a_projection_stands_in_the_table() -> None:
    text = (DOCS / "subscribers.md").read_text().partition("## All options")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for declare in (App.subscriber, App.projection):
        named = {row[0].strip("`"): row[2] for row in rows if row[1] in (declare.__name__, "both")}
        parameters = inspect.signature(declare).parameters.items()
        options = {name: one.default for name, one in parameters if one.kind is one.KEYWORD_ONLY}
        assert set(named) == set(options)
        for name, default in options.items():
            if isinstance(default, str | int):
                shown = f'"{default}"' if isinstance(default, str) else f"{default}"
                assert f"`{shown}`" in named[name]
