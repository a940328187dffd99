# make setup | test | test-all | peers | lint | docs | demo | clean. Each sets up what it needs first; nothing is
# installed twice.
VENV ?= .venv
PYTHON ?=
REQUIREMENTS ?= requirements/runtime.txt
PYTEST_ARGS ?=
WORKERS ?= auto

bin := $(VENV)/bin
# a thread a worker: more of them on as many cores only wait for each other
pytest := OMP_NUM_THREADS=1 $(bin)/python -m pytest -n $(WORKERS)

.PHONY: setup test test-all test-faults peers lint docs demo clean help
help:
	@echo "make setup     a virtual environment in $(VENV) with everything, detectron2 too"
	@echo "make demo      the main job on generated data: transfer against scratch, in minutes"
	@echo "make test      ruff, mypy and all tests but the slow ones"
	@echo "make test-all  the slow ones, too: whole trainings, studies, kills"
	@echo "make peers     other tools, which the tests of exports then ask"
	@echo "make test-faults  kills, full disks, damaged files: up to 15 minutes"
	@echo "make lint      ruff and mypy alone"
	@echo "make docs      the site, into site/: open site/index.html (Python 3.11 or newer)"
	@echo "make clean     removes caches and build leftovers; keeps $(VENV) and output/"
	@echo "Variables: VENV=.venv  PYTHON=python3.12  REQUIREMENTS=requirements/py310-torch23.txt"
	@echo "           PYTEST_ARGS='-k surgery'  WORKERS=4 (processes; default: one a core)"

setup:
	@VENV='$(VENV)' PYTHON='$(PYTHON)' REQUIREMENTS='$(REQUIREMENTS)' bash requirements/install.sh

lint: setup
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

test: lint
	$(pytest) -m "not slow and not faults" $(PYTEST_ARGS)

test-all: lint
	$(pytest) -m "not faults" $(PYTEST_ARGS)

test-faults: setup
	$(pytest) -m faults $(PYTEST_ARGS)

peers: setup
	@VENV='$(VENV)' bash requirements/peers.sh

docs: setup
	$(bin)/python -W ignore docs/reference.py
	NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --quiet
	@echo "docs: open site/index.html"

demo: setup
	$(bin)/python tools/demo.py

clean:
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
