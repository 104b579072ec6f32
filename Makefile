# `make demo` and `make test` work on a fresh clone: each creates the environment it needs.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile tests lightning_vi

.PHONY: demo test test-all lint types unit docs format clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $$(command -v $(PYTHON) || command -v python3) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@

demo: $(STAMP)
	$(BIN)/lightning-vi demo

test: lint types docs unit

# Every method on every problem, where `make test` takes a part of them.
test-all: lint types docs
	$(PYTEST) -m ""

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(PYTEST)

# All pages anew (-E): Sphinx forgets the index entries of pages that it does not read again, which the search uses.
docs: $(STAMP)
	$(BIN)/sphinx-build -q -W -E --keep-going -b html docs docs/_build/html

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) outputs docs/_build .mypy_cache .ruff_cache .pytest_cache build *.egg-info
