"""docs/evolution.md is done as it is told, and the runner of pages notices when one is not."""

from pathlib import Path

import pytest

from tests.docs_support import DOCS, assert_page_holds


def test_the_page_on_changing_events_does_what_it_says(tmp_path: Path) -> None:
    assert_page_holds(DOCS / "evolution.md", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```python\nprint(1)\n```\n",
        "```python\nraise ValueError\n```\n",
        "```python\nx = 1\n```\n\n```text\n1\n```\n",
        "```console\n$ echo a\nb\n```\n",
        "no blocks at all\n",
    ],
)
def test_a_page_that_does_not_hold_is_noticed(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)

    with pytest.raises(AssertionError):
        assert_page_holds(page, tmp_path)


def test_a_page_is_done_in_order_in_one_interpreter(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n# mine.py\nvalue = 40\n```\n"
        "```python\nfrom mine import value\n\nmore = value + 2\n```\n"
        "```python\nprint(more)\n```\nwhich prints\n```text\n42\n```\n"
        "```console\n$ cat mine.py\nvalue = 40\n```\n"
    )

    assert_page_holds(page, tmp_path)
