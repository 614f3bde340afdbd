"""The player of the docs: it notices what it is there to notice."""

from pathlib import Path

import pytest

from tests.docs_support import played


def python(source: str) -> str:
    return f"```python\n{source}\n```\n"


def test_what_a_page_says_is_replaced_by_what_is_printed(tmp_path: Path) -> None:
    page = python("a = 6\nprint(a * 7)") + "\n```text\n41\n```\n"
    assert played(page, tmp_path).endswith("```text\n42\n```\n")


def test_blocks_share_their_names(tmp_path: Path) -> None:
    page = python("a = 6") + python("print(a)") + "```text\n6\n```\n"
    assert played(page, tmp_path) == page


@pytest.mark.parametrize("rest", ["", python("b = 1")])
def test_what_is_printed_and_not_in_the_page_is_a_mistake(tmp_path: Path, rest: str) -> None:
    with pytest.raises(AssertionError, match="no text block tells what"):
        played(python("print(1)") + rest, tmp_path)


def test_an_error_ends_the_page(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        played(python("1 / 0"), tmp_path)


def test_a_text_that_nothing_has_printed_does_not_stay(tmp_path: Path) -> None:
    page = python("a = 1") + "```text\n1\n```\n"
    assert played(page, tmp_path) != page


def test_commands_are_typed(tmp_path: Path) -> None:
    assert "hello\n```" in played("```console\n$ echo hello\nbye\n```\n", tmp_path)
