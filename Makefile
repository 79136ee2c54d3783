# Quiltwork: the same commands for a person and for CI.
#   make demo                 serve a family of fine-tunes from shared parts, and see what was saved
#   make demo MODELS=DIR      the same on your own Hugging Face models and adapters
#   make test                 the tests, in minutes;  make test-slow: those marked slow;  make check: lint, types, floors, tests
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu    choose a CPU or CUDA build of torch
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODELS ?=
TORCH_INDEX ?=
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test test-slow check bench docs clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n '2,5s/^# //p' Makefile

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Quiltwork needs Python 3.11 or newer as '$(PYTHON)': install it, or pass PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "Python's venv and ensurepip are missing: install the python3-venv package of your system"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: install
	@$(BIN)/python examples/demo.py $(if $(MODELS),--models '$(MODELS)')

test: install
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -n 2 -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 -m "not slow and not page"

bench: install
	$(BIN)/quiltwork bench run --all

docs: install
	$(BIN)/pip install --quiet '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
