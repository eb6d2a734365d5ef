# One environment, rebuilt when what it is made from changes; every target uses it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install demo test test-all lint clean

help:
	@echo "make demo      make parts, train, export, verify and judge them: demo/report/report.html"
	@echo "make test      what CI runs: lint, types, layers, and the fast tests"
	@echo "make test-all  every test, the slow ones too"
	@echo "make install   the environment alone: $(VENV)/bin/sanflow"
	@echo "make lint      ruff, mypy, import-linter"
	@echo "make clean     remove the environment and the caches"

install: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "sanflow needs Python 3.10 or newer; give one with: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: install
	rm -rf demo
	$(BIN)/sanflow demo --out demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -m "not slow"

test-all: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
