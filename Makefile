# Two commands are enough: `make dev` sets up and runs everything, `make test` sets up and tests everything.
# Needed on the machine: Python 3.11+, make (GNU make 3.81 will do) and git. The rest is installed below this folder.

# The first Python here that is new enough; `make dev PYTHON=...` names another. The real check, with an explanation, is
# in bootstrap.py.
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && exit; \
	done; echo python3)

BOOTSTRAP := src/kontract/cli/toolchain/bootstrap.py
READY := .venv/ready
BIN := .venv/bin

.PHONY: help dev serve test setup build lint format types bench clean

help:
	@echo "make dev     set up and run on http://localhost:8787 (PORT=8788 make dev for another port)"
	@echo "make serve   the same on CPython, without workerd (docs/self-hosting.md)"
	@echo "make test    set up and run all tests (ARGS='-k name' chooses some)"
	@echo "make lint    ruff: rules and format      make format   apply the format"
	@echo "make types   mypy, strict                make build    compile the route table"
	@echo "make bench   every benchmark and one table (ARGS=--quick for a short run)"
	@echo "make clean   remove everything generated but the local data in .kontract"

# Written last by bootstrap.py, so a set-up that was interrupted begins again.
$(READY): pyproject.toml uv.lock $(BOOTSTRAP)
	@$(PYTHON) $(BOOTSTRAP)

dev: $(READY)
	@exec $(BIN)/kontract dev

# Without workerd: only what the lock file brings, and the route table.
serve: build
	@exec $(BIN)/kontract serve --local

setup: $(READY)
	@$(BIN)/kontract setup

test: setup build
	@$(BIN)/pytest $(ARGS)

# wrangler runs this one ([build] in wrangler.toml) before `dev` and `deploy`.
build: $(READY)
	@$(BIN)/kontract build

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: $(READY)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: $(READY)
	@$(BIN)/mypy

# With ARGS=--write the page in docs/ is made of what was measured.
bench: setup build
	@$(BIN)/python bench/all.py $(ARGS)

clean:
	rm -rf .venv node_modules python_modules .wrangler .venv-workers pylock.toml .kontract/stamps .kontract/pyodide \
		.kontract/tmp .pytest_cache .mypy_cache .ruff_cache .hypothesis
