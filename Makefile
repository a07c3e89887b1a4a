# The contributor's guide is this file: `make` lists what it can do.

VENV    := .venv
BIN     := $(VENV)/bin
BASE    := $(VENV)/.base-installed
DEV     := $(VENV)/.dev-installed
SOURCES := cli client core reports server simulations strategies
INSTALL  = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
             --constraint constraints.txt --editable

# The first interpreter at hand that is as new as pyproject.toml asks, for the virtual environment.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON  ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11, \
             $(shell $(python) -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $(python))) python3)

# pyright comes in its wheel and runs on the node of another: it fetches nothing, asks for no news.
export PYRIGHT_PYTHON_USE_BUNDLED_PYRIGHT := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# Tests start many interpreters, and what one has compiled the others need not: it is kept, even
# where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help simulate test bench check check-format check-lint check-mypy check-pyright \
        check-imports format proto wheels clean

help: ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/\1:\2/p' Makefile | \
	    while IFS=: read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done

simulate: $(BASE) ## simulate a federation, installing first what is missing; ARGS="..." go to it
	@$(BIN)/roundel simulate $(ARGS)

# As many workers as cores, four at most; a few tests are quicker without: .venv/bin/pytest -k name
test: $(DEV) ## run the tests, some at once; ARGS="-m slow" the slow ones instead
	@$(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist worksteal $(ARGS)

bench: $(BASE) ## measure simulation beside a bare loop and Flower; ARGS="--help" says how
	@$(BIN)/python benchmarks/simulation.py $(ARGS)

check: check-format check-lint check-mypy check-pyright check-imports ## run the static gate

check-format: $(DEV)
	@echo '== ruff format: is every file laid out?'
	@$(BIN)/ruff format --check .

check-lint: $(DEV)
	@echo '== ruff check: does every file keep the rules?'
	@$(BIN)/ruff check .

check-mypy: $(DEV)
	@echo '== mypy: do the types of the packages hold, strictly?'
	@$(BIN)/mypy

check-pyright: $(DEV)
	@echo '== pyright: do they hold in its eyes too, and in the tests?'
	@$(BIN)/pyright --project .links

check-imports: $(DEV)
	@echo '== import-linter: does every import point the right way?'
	@$(BIN)/lint-imports --no-logo

format: $(DEV) ## repair what ruff can and lay out every file
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

# Through .links, protoc finds and fills core/wire under the name by which it is imported.
proto: $(DEV) ## generate the gRPC code from core/wire/roundel.proto
	@$(BIN)/python -m grpc_tools.protoc -Iroundel/core/wire=core/wire \
	    --python_out=.links --pyi_out=.links --grpc_python_out=.links core/wire/roundel.proto

# No image for another processor is built here, but what it would be installed from is looked for.
# uv judges dependencies as that processor would, where pip judges them as the one that it runs on.
wheels: $(DEV) ## look whether every dependency has a wheel for aarch64 in the package index
	@$(BIN)/uv pip compile --quiet --no-config --constraint constraints.txt --python-version 3.11 \
	    --python-platform aarch64-manylinux_2_28 --only-binary :all: \
	    pyproject.toml >/dev/null

clean: ## remove the virtual environment, the caches and what was built
	@rm -rf $(VENV) build dist *.egg-info .coverage htmlcov \
	    .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find $(SOURCES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	    echo 'Roundel needs Python 3.11 or newer, which "$(PYTHON)" is not: name another, as in make PYTHON=python3.12.' >&2; \
	    exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo 'Installing Roundel into $(VENV) ...'
	@$(INSTALL) '.[report]'
	@touch $@

$(DEV): $(BASE)
	@echo 'Installing the tools for tests and checks into $(VENV) ...'
	@$(INSTALL) '.[dev]'
	@touch $@
