# make demo           draw faces, run both stages and measure, to a report (ten minutes, two cores)
# make test           all tests
# make check          ruff, format and mypy
# make docs           the documentation site, into site/index.html; warnings are errors;
#                     with RUN=runs/demo its first page links to the explorer of that run
# make test-cluster   tests on a real Slurm: time limits, preemption, dying nodes (an hour, root)
# make chaos          kill -9 of random ranks and in every phase of a save (half an hour)
# make fuzz           read corrupted manifests, lists, weights and pictures (ten minutes)
# make bench          speed against peers on this machine, into bench/results (an hour, idle)
# make develop        set up for working on the code: tests, checks and documentation
# Each installs what it needs first: into .venv, and for the tests Debian's slurm and strace, where
# it is root and has apt-get. With a GPU, see docs/guides/gpus.md instead.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints-cpu.txt
STAMP := $(VENV)/.installed
DEVELOP := $(VENV)/.develop

.PHONY: demo test check docs test-cluster chaos fuzz bench setup develop

demo: setup
	$(BIN)/scemae demo runs/demo

# four at a time on two cores: many tests wait, for Slurm, kills and starting processes
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist worksteal

check: develop
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: develop
	RUN='$(RUN)' NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test-cluster: setup
	$(BIN)/python -m pytest -v -m rig_long tests/cluster/test_cluster.py \
	    tests/cluster/test_sweep_rig.py tests/cluster/test_sweep_array_rig.py

chaos: setup
	$(BIN)/python -m tests.chaos runs/chaos

fuzz: setup
	$(BIN)/python -m tests.fuzz

bench: setup
	$(INSTALL) -e '.[bench]'
	$(BIN)/python -m bench all

setup: $(STAMP)

develop: $(DEVELOP)

$(STAMP): pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[test]'
	touch $(STAMP)

$(DEVELOP): $(STAMP)
	$(INSTALL) -e '.[develop]'
	touch $(DEVELOP)
