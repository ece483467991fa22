# Two commands are enough: `make dev` sets up and runs everything, `make test` sets up and tests everything.
# Needed on the machine: Python 3.11+, make (GNU make 3.81 will do) and git. The rest is installed below this folder.

# The first Python here that is new enough; `make dev PYTHON=...` names another. The real check, with an explanation, is
# in bootstrap.py.
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && exit; \
	done; echo python3)

# Where the environment forbids it, as some images do, each process would compile again whatever it imports.
unexport PYTHONDONTWRITEBYTECODE

BOOTSTRAP := src/kontract/cli/toolchain/bootstrap.py
READY := .venv/ready
BIN := .venv/bin

.PHONY: help new dev serve test test-all test-long setup build lint format types migrate migrate-check deploy deploy-check preview preview-down bench docs release clean

help:
	@echo "make dev     set up and run on http://localhost:8787 (PORT=8788 make dev for another port)"
	@echo "make serve   the same on CPython, without workerd (docs/how-to/self-hosting.md)"
	@echo "make test    set up and run the tests (ARGS='-k name' selects some)"
	@echo "make test-all    those that take long, too (make test-long: these alone)"
	@echo "make lint    rules, format, unused names     make format   apply the format"
	@echo "make types   mypy, strict                make build    compile the route table"
	@echo "make new     a project of your own, NAME=../my-app (DEMO=no for one without the demo)"
	@echo "make deploy-check   what would be deployed, without an account (docs/how-to/deploy.md)"
	@echo "make migrate        bring the database in DATABASE_URL to this schema"
	@echo "make migrate-check  whether structs, migrations and that database agree"
	@echo "make deploy         deploy the Worker, ENV=production"
	@echo "make bench   every benchmark and one table (ARGS=--quick for a short run)"
	@echo "make docs    the documentation as a site, in docs/_build/html"
	@echo "make clean   remove everything generated but the local data in .kontract"

# NAME counts on the command line only: some systems have a variable of that name.
new: $(READY)
	@$(BIN)/kontract new "$(if $(findstring command,$(origin NAME)),$(NAME))" $(if $(filter no,$(DEMO)),--without-demo)

# Written last by bootstrap.py, so a set-up that was interrupted begins again.
$(READY): pyproject.toml uv.lock $(BOOTSTRAP)
	@$(PYTHON) $(BOOTSTRAP)

dev: $(READY)
	@exec $(BIN)/kontract dev

# Without workerd: only what the lock file brings. It builds the route table, now and whenever src/app changes.
serve: $(READY)
	@exec $(BIN)/kontract serve --local

setup: $(READY)
	@$(BIN)/kontract setup

# Two processes more than there are processors (8 at most), because tests also wait. Each takes a file at a time, or all
# files that share something expensive; those that take longest come first (tests/support/parts.py). 0 runs everything
# in one process.
TEST_PROCESSES ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -lt 7 ] || n=6; expr $$n + 2)
PYTEST = $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations=10

# All but those that are marked as `long`.
test: setup build
	@$(PYTEST) -m "not long" $(ARGS)

test-all: setup build
	@$(PYTEST) $(ARGS)

test-long: setup build
	@$(PYTEST) -m long $(ARGS)

# wrangler runs this one ([build] in wrangler.toml) before `dev` and `deploy`.
build: $(READY)
	@$(BIN)/kontract build

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/vulture

format: $(READY)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: $(READY)
	@$(BIN)/mypy

# The steps of a deployment, the same by hand and in .github/workflows (docs/how-to/deploy.md).
migrate: $(READY)
	@$(BIN)/kontract migrate

# Structs and migrations; and the database, if DATABASE_URL is set.
migrate-check: $(READY)
	@$(BIN)/kontract migrate check

deploy-check: $(READY)
	@$(BIN)/kontract deploy-check

# ENV and PR count on the command line only: a Worker must not be overwritten because of a variable that lies about.
deploy: $(READY)
	$(if $(findstring command,$(origin ENV)),,$(error Say which environment of wrangler.toml: make deploy ENV=production))
	@$(BIN)/kontract wrangler deploy --env "$(ENV)"

preview: $(READY)
	@$(BIN)/kontract preview up $(if $(findstring command,$(origin PR)),$(PR))

preview-down: $(READY)
	@$(BIN)/kontract preview down $(if $(findstring command,$(origin PR)),$(PR))
# With ARGS=--write the page in docs/ is made of what was measured.
bench: setup build
	@$(BIN)/python bench/all.py $(ARGS)

# The tables of the reference first; then the site. A warning is an error: a link that leads nowhere, for example.
docs: $(READY)
	@$(BIN)/python docs/facts.py
	@$(BIN)/sphinx-build -q -W --keep-going -n -b html docs docs/_build/html
	@echo "The site is docs/_build/html/index.html"

# The package and the notes of this version, in dist/ (.github/workflows/release.yml).
release: $(READY)
	@rm -rf dist
	@$(BIN)/uv build --quiet
	@$(BIN)/python docs/release_notes.py > dist/notes.md
	@echo "The package and its notes are in dist/"

clean:
	rm -rf .venv node_modules python_modules .wrangler .kontract/stamps .kontract/pyodide \
		.kontract/tmp .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build
