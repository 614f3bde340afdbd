"""Alembic revisions of the log's tables. A revision that has been released never changes.

They run while others append and read, under `eventlog init` and in the Alembic trees of services. Each one

- is called `eventlog_NNNN_what_it_brings.py`, counts on from the one before, and imports nothing but `eventlog.schema`;
- hands its change to `bring_to`, and has `downgrade = refuse_downgrade`: see `target.py` for what that does;
- names in `LOCKS` every table that was there before and that it alters, indexes, refers to or puts a trigger on. They
  are locked before the first change; a test compares the list with the locks the revision really takes. A table that
  may be read meanwhile stands in `LOCKS_WRITERS`;
- adds columns that may be NULL and have no default, or a constant one. It renames and removes nothing, and changes no
  type: the release before goes on running, and must find what it knows;
- does not read or rewrite the events, which may be many millions, and does not index them under its lock. What needs
  that is made empty here, and filled by a command that can be stopped and goes on where it was. An index may be made by
  the revision if it can be made before it, `concurrently` and by hand (0007; docs/decisions/0065);
- brings a function in a new form from a new file (`mark_append.2.sql`): docs/decisions/0007.
"""
