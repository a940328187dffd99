# make setup | test | lint | demo | clean. Each sets up what it needs first; nothing is installed twice.
VENV ?= .venv
PYTHON ?=
REQUIREMENTS ?= requirements/runtime.txt
PYTEST_ARGS ?=

bin := $(VENV)/bin

.PHONY: setup test lint demo clean help
help:
	@echo "make setup   a virtual environment in $(VENV) with everything, detectron2 too"
	@echo "make demo    the main job on generated data: transfer against scratch, in 5 minutes"
	@echo "make test    ruff, mypy and the test suite"
	@echo "make lint    ruff and mypy alone"
	@echo "make clean   removes caches and build leftovers; keeps $(VENV) and output/"
	@echo "Variables: VENV=.venv  PYTHON=python3.12  REQUIREMENTS=requirements/py310-torch23.txt  PYTEST_ARGS='-k surgery'"

setup:
	@VENV='$(VENV)' PYTHON='$(PYTHON)' REQUIREMENTS='$(REQUIREMENTS)' bash requirements/install.sh

lint: setup
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

test: lint
	$(bin)/python -m pytest $(PYTEST_ARGS)

demo: setup
	$(bin)/python tools/demo.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
