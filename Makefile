# One obvious command each; `make help` lists them. Nothing here needs an order: every target makes what it stands on.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SYSTEM := tools/system-packages

.DEFAULT_GOAL := help
.PHONY: help demo demo-down test soak check bench docs generate

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## build and run examples/hello on this machine, and print the URL that answers
	@$(SYSTEM) run
	@$(MAKE) --no-print-directory $(VENV)/.ready
	@tools/demo up

demo-down: $(VENV)/.ready ## remove what `make demo` made
	@tools/demo down

test: ## all tests, with fixed seeds and reduced counts
	@$(SYSTEM) test
	@$(MAKE) --no-print-directory $(VENV)/.ready
	@# What failed beside other tests is tried once more alone: kernels and name servers have their own pace on a busy machine.
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not soak" || \
		$(BIN)/python -m pytest -m "not soak" --last-failed --last-failed-no-failures none

soak: ## the full counts of the fault and property tests
	@$(SYSTEM) test
	@$(MAKE) --no-print-directory $(VENV)/.ready
	BAYPLAN_SOAK=1 $(BIN)/python -m pytest

check: $(VENV)/.ready ## lint, types, import contracts, freshness of generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=provider $(BIN)/lint-imports
	$(BIN)/python tools/generate.py --check
	$(BIN)/python tools/generate_errors.py --check
	$(BIN)/python tools/generate_cli.py --check

bench: ## ratios against docker, podman and buildah in one run
	@$(SYSTEM) bench
	@$(MAKE) --no-print-directory $(VENV)/.ready
	$(BIN)/python -m bench

docs: $(VENV)/.ready ## generate types, reference pages and the editor schema from schemas/
	$(BIN)/python tools/generate.py
	$(BIN)/python tools/generate_errors.py
	$(BIN)/python tools/generate_cli.py

generate: docs

$(VENV)/.ready: pyproject.toml
	@$(SYSTEM) python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bayplan needs Python 3.11 or later; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
