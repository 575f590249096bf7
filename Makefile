PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUITS := -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
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

# An environment that works is kept, with the date of what it may be older than, so that nothing is
# installed again. What a stopped `venv` or another Python left is made anew.
ifneq ($(shell test -x $(BIN)/python && echo there),there)
.PHONY: $(VENV)/venv.stamp
endif
$(VENV)/venv.stamp:
	@if $(BIN)/python $(SUITS) && $(BIN)/python -m pip --version; then \
		touch -r pyproject.toml $@; \
	elif $(PYTHON) $(SUITS); then \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) >&3 2>&3 && touch $@ || \
			{ rm -rf $(VENV); exit 1; }; \
	else \
		echo '$(PYTHON) is not Python 3.10 to 3.13; name one that is: make app PYTHON=python3.12' >&3; \
		exit 1; \
	fi 3>&2 >/dev/null 2>&1

# The stamps lie in the environment that they speak of, so that they vanish with it.
$(VENV)/app.stamp: pyproject.toml $(VENV)/venv.stamp
	$(PIP) --editable '.[app]'
	@touch $@

# Part of the training extra is built from source where it has no wheel; who has no compiler still
# gets everything else, and the tests that need that part say that they are skipped.
$(VENV)/dev.stamp: pyproject.toml $(VENV)/venv.stamp
	$(PIP) --editable '.[app,train,evaluate,dev]' || \
		$(PIP) --editable '.[app,evaluate,dev]' 'scipy>=1.11' 'pyfluidsynth>=1.3.4'
	@touch $@
