PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: app test lint format bench clean

app: .stamps/app
	$(BIN)/python app.py

test: .stamps/dev
	$(BIN)/python -m pytest

lint: .stamps/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .stamps/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .stamps/dev
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) .stamps build *.egg-info

# pip comes first by itself: its oldest versions do not know editable installs from pyproject.toml
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

.stamps/app: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[app]'
	@mkdir -p .stamps && touch $@

.stamps/dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[app,train,dev]'
	@mkdir -p .stamps && touch $@
