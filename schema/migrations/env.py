"""Alembic's entry point: runs our revisions on the connection that `eventlog.schema.migrate` hands over."""

from alembic import context

options = context.config.attributes

context.configure(
    connection=options["connection"],
    version_table=options["version_table"],
    version_table_schema=options["version_table_schema"],
)
context.run_migrations()
