"""Alembic revisions of the log's tables. A revision that has been released never changes."""
