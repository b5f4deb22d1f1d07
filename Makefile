# `make demo` and `make test` each work on a fresh clone with Python 3.10-3.13: they make .venv, install and run.
# The first of these that is a Python 3.10 to 3.13; `make PYTHON=...` names another.
PYTHON ?= $(or $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done),python3)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt
# pip compiles with one CPU. Some packages carry templates and tests that do not compile.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

.PHONY: demo test quick lint types clean

demo: $(VENV)/.demo
	$(BIN)/edgeclf demo

# Much of the time goes into waiting for processes that start: two workers for two CPUs, each file's tests in one of them.
PYTEST_WORKERS ?= 2

# Tests run in a random order, which `--randomly-seed` in the first line of their report repeats:
# `make test PYTEST_OPTIONS=--randomly-seed=1234`.
PYTEST_OPTIONS ?=

test: $(VENV)/.dev lint types
	$(BIN)/pytest --numprocesses $(PYTEST_WORKERS) --dist loadfile $(PYTEST_OPTIONS)

# What takes less than two minutes: nothing that trains a network or waits for other processes.
quick: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/pytest --numprocesses $(PYTEST_WORKERS) --dist loadfile -m "not slow" $(PYTEST_OPTIONS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/mypy examples benchmarks docs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else "edgeclf needs Python 3.10 to 3.13, this is %d.%d: run make PYTHON=python3.11 (or another)" % v)'
	$(PYTHON) -m venv $(VENV)
	@# The pip that an old Python brings cannot read every current wheel's metadata.
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo 'installing edgeclf[all] into $(VENV) ...'
	@$(PIP_INSTALL) --editable '.[all]'
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo 'installing edgeclf[all,dev] into $(VENV) ...'
	@$(PIP_INSTALL) --editable '.[all,dev]'
	@$(COMPILE)
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
