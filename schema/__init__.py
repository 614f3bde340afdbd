"""The tables, functions and triggers of the log, and the migrations that make them.

Imports nothing of ours. What the tables are for is told in `docs/design.md`.
"""
