# Everything runs in one virtual environment, .venv, which each target makes when it is missing
# or stale. A stamp says what is installed in it; pyproject.toml newer than a stamp, a Python
# that no longer starts, or a checkout that was moved makes it stale.

PYTHON ?= python3
ARGS ?=
BENCHMARKS ?= learner train memory scale time_to host report

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp-
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

# Two pips in one environment would undo each other's work.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help train test test-long soak lint format bench clean

# The stamp of the environment itself holds the folder it was made in.
ifneq ($(shell { cat $(STAMP)python && $(BIN)/python -c ''; } 2>/dev/null || echo stale),$(CURDIR))
  $(shell rm -f $(STAMP)*)
endif

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(STAMP)core ## train QMIX on SMAX 3m; ARGS="--env smax/8m --seeds 5" trains another
	$(BIN)/qtot train $(ARGS)

test: $(STAMP)test ## run the tests; ARGS="-k golden" runs some of them
	$(BIN)/python -m pytest --durations=15 -n auto --maxprocesses 4 --dist loadfile -m "not long and not soak" $(ARGS)

test-long: $(STAMP)test ## run the tests that take long
	$(BIN)/python -m pytest --durations=15 -m long $(ARGS)

soak: $(STAMP)test ## kill runs and harm run folders, again and again; about an hour
	$(BIN)/python -m pytest --durations=15 -n auto --maxprocesses 2 --dist worksteal -m soak tests/test_kills.py tests/test_hostile.py $(ARGS)

lint: $(STAMP)lint ## check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(STAMP)lint ## put the sources into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP)test ## measure speed and memory, some minutes; BENCHMARKS="learner scale" measures some
	@$(foreach name,$(BENCHMARKS),$(BIN)/python benchmarks/$(name).py --short $(ARGS) &&) true

clean: ## remove the environment and what tools left; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP)python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "qtot needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	@echo "$(CURDIR)" > $@

$(STAMP)core: pyproject.toml $(STAMP)python
	$(PIP) install --editable .
	@touch $@

$(STAMP)test: pyproject.toml $(STAMP)core
	$(PIP) install --group test
	@touch $@

$(STAMP)lint: pyproject.toml $(STAMP)core
	$(PIP) install --group lint
	@touch $@
