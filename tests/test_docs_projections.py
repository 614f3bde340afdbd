"""The pages on projections, on deciding and on testing are done as they are told."""

from pathlib import Path

import pytest

from tests.docs_support import DOCS, assert_page_holds


@pytest.mark.parametrize("page", ["projections.md", "deciding.md", "testing.md"])
def test_the_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    assert_page_holds(DOCS / page, tmp_path)
