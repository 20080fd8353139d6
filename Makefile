# `make run TASK=cartpole` and `make test` set everything up themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SIDE_BY_SIDE := -n auto --dist worksteal
TASK ?= cartpole

.PHONY: run test test-slow check format

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

run: $(VENV)/installed
	$(BIN)/bench run --task $(TASK)

test: $(VENV)/installed
	$(BIN)/pytest $(SIDE_BY_SIDE)

test-slow: $(VENV)/installed
	$(BIN)/pytest -m slow

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest $(SIDE_BY_SIDE)

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
