# make demo   set up, then the main job on generated faces, to a report (about ten minutes on two cores)
# make test   set up, then all tests
# make test-cluster   set up, then the long tests on a real Slurm: time limits, preemption, dying nodes (an hour, root)
# make chaos          set up, then kill -9 of random ranks and in every phase of a save (30 minutes or so)
# make fuzz           set up, then changed manifests, lists, weights and pictures through what reads them (about ten minutes)
# make bench          set up, then speed against peers on this machine, into docs/results/speed (an hour or so, idle)
# All install what they need: into .venv, and the tests Debian's slurm and strace, where root and apt-get are.
# With a GPU, see "On GPUs" in the README instead.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: demo test test-cluster chaos fuzz bench setup

demo: setup
	$(VENV)/bin/scemae demo runs/demo

test: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal

test-cluster: setup
	$(VENV)/bin/python -m pytest -v -m rig_long tests/cluster/test_cluster.py tests/cluster/test_sweep_rig.py tests/cluster/test_sweep_array_rig.py

chaos: setup
	$(VENV)/bin/python -m tests.chaos runs/chaos

fuzz: setup
	$(VENV)/bin/python -m tests.fuzz

bench: setup
	$(VENV)/bin/python -m pip install --disable-pip-version-check -q -c constraints-cpu.txt -e '.[bench]'
	$(VENV)/bin/python -m bench all

setup: $(STAMP)

$(STAMP): pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -q -c constraints-cpu.txt -e '.[test]'
	touch $(STAMP)
