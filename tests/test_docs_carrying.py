"""docs/carrying.md does what it says, from a file to a server; the page and what is printed agree to the letter."""

from pathlib import Path

from tests.docs_support import DOCS, played

PAGE = DOCS / "carrying.md"
SERVER_URL = "postgresql://shop@db/shop"
"""The database the page names; another one is put in its place."""


def test_the_page_about_carrying_prints_what_it_says(postgres_database_url: str, tmp_path: Path) -> None:
    page = PAGE.read_text().replace(SERVER_URL, postgres_database_url)
    assert (
        played(page, tmp_path, environment={"COLUMNS": "100"}).replace(postgres_database_url, SERVER_URL)
        == PAGE.read_text()
    )
