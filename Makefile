# make demo   set up, then the main job on generated faces, to a report (about ten minutes on two cores)
# make test   set up, then all tests
# Both install what they need into .venv. With a GPU, see "On GPUs" in the README instead.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: demo test setup

demo: setup
	$(VENV)/bin/scemae demo runs/demo

test: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal

setup: $(STAMP)

$(STAMP): pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -q -c constraints-cpu.txt -e '.[test]'
	touch $(STAMP)
