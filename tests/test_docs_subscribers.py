"""docs/subscribers.md is done as it is told."""

from pathlib import Path

from tests.docs_support import DOCS, assert_page_holds


def test_the_page_on_subscribers_does_what_it_says(tmp_path: Path) -> None:
    assert_page_holds(DOCS / "subscribers.md", tmp_path)
