PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: app test lint format bench clean

app: $(VENV)/app.stamp
	$(BIN)/python app.py

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamps lie in the environment that they speak of, so that they vanish with it.
$(VENV)/app.stamp: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[app]'
	@touch $@

# Part of the training extra is built from source where it has no wheel; who has no compiler still
# gets everything else, and the tests that need that part say that they are skipped.
$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[app,train,evaluate,dev]' || \
		$(PIP) --editable '.[app,evaluate,dev]' 'scipy>=1.11' 'pyfluidsynth>=1.3.4'
	@touch $@
