"""docs/log.md does what it says, on both databases; the page and what is printed agree to the letter."""

import re
from pathlib import Path

from eventlog import limits
from tests.docs_support import DOCS, played

PAGE = DOCS / "log.md"
PAGE_URL = "sqlite:///shop.db"
"""The database the page names; another one is put in its place."""

# It goes before what a terminal says of itself, and parallel test runners set it.
TERMINAL = {"COLUMNS": "100"}


def test_the_page_about_the_log_prints_what_it_says(empty_database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    page = PAGE.read_text().replace(PAGE_URL, empty_database_url)
    assert played(page, folder, environment=TERMINAL).replace(empty_database_url, PAGE_URL) == PAGE.read_text()


def test_the_limits_are_those_the_log_has() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| (\d[^|]*) \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == {
        "name of a stream": f"{limits.STREAM_CHARACTERS_MAX} characters",
        "name of a type": f"{limits.TYPE_CHARACTERS_MAX} characters",
        "data of an event": f"{limits.DATA_BYTES_MAX // 1024**2} MiB of JSON",
        "metadata of an event": f"{limits.METADATA_BYTES_MAX // 1024} KiB of JSON",
        "tags of an event": f"{limits.TAGS_MAX}, of {limits.TAG_CHARACTERS_MAX} characters each",
        "queries in `unless=` or `matching=`": str(limits.QUERIES_MAX),
    }
