# sanakit: one command each. `make` alone prints this list.
# Needs Python 3.11 or newer as python3 (or: make demo PYTHON=python3.12). Everything is installed into .venv/.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast slow check format docs bench clean

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

# A stamp is newer than what it was installed from, so nothing is installed twice.
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
SETUP := pyproject.toml constraints.txt hatch_build.py $(wildcard sanakit/ops/native/*.cpp sanakit/ops/native/*.h)

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(CORE) ## install the slim core and draw one image: apple.png
	@$(BIN)/sana generate "a red apple" --output apple.png
	@test -s apple.png && echo "Image: $(CURDIR)/apple.png"

test: $(DEV) ## run the tests that need no GPU, no network and no downloaded weights, by two workers
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

test-fast: $(DEV) ## run those that import no oracle and take no seconds of their own: under three minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --fast

slow: $(DEV) ## run the tests marked slow (full-size models: minutes, and gigabytes of memory)
	@$(BIN)/python -m pytest -q -m slow

check: $(DEV) ## lint, formatting, types and the contract tests of the tree
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python -m pytest -q tests/contract --ignore tests/contract/test_docs.py

format: $(DEV) ## let ruff format the code and mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(DOCS) ## rewrite docs/cli.md from the command's own help and build site/ (warnings are errors)
	@$(BIN)/python docs/cli_page.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Pages: $(CURDIR)/site/index.html"

bench: $(DEV) ## measure ours against diffusers: the embedded model, then the stages at full size
	@$(BIN)/sana bench
	@$(BIN)/python benchmarks/generate.py
	@$(BIN)/python benchmarks/stages.py --sizes 512 --peers eager --runs 3

clean: ## remove .venv and everything that was built
	@rm -rf $(VENV) site build dist .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sanakit needs Python 3.11 or newer; name one: make demo PYTHON=python3.12" >&2; exit 2; }
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(CORE): $(SETUP) | $(VENV)/bin/python
	@echo "Installing sanakit and its eight dependencies into $(VENV) (under a minute, plus the download of PyTorch) ..."
	@$(INSTALL) -e .
	@touch $@

$(DEV): $(SETUP) | $(VENV)/bin/python
	@echo "Installing sanakit and its development tools into $(VENV) ..."
	@$(INSTALL) -e '.[dev]'
	@touch $(CORE) $@

$(DOCS): $(SETUP) | $(VENV)/bin/python
	@echo "Installing sanakit and the documentation tools into $(VENV) ..."
	@$(INSTALL) -e '.[docs]'
	@touch $(CORE) $@
