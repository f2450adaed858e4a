# make run    serve on http://127.0.0.1:8008
# make test   check everything
# Both set up what they need: a Python environment in .venv, the AWS tools in .tools.

.DEFAULT_GOAL := help
SHELL := /bin/bash

UV_RELEASE := 0.13.9
# The Lambda runtime is 3.13; 3.11 and 3.12 run the source as well. An interpreter counts only if it runs.
PYTHON ?= $(shell for python in "$$(pyenv root 2>/dev/null)"/versions/3.13.*/bin/python python3.13 python3.12 python3.11 python3 python; do \
	if $$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then echo $$python; break; fi; done)
VENV := .venv/bin
export PYTHONPATH := infra:functions:layers/homeserver/python
PYTEST := $(VENV)/python -m pytest

.PHONY: help
help:
	@echo "make run     serve on http://127.0.0.1:8008 (PORT, SERVER_NAME, DATA_DIR ... change that: see README)"
	@echo "make test    check everything: style, types, layers, unit, function, template and end-to-end tests"
	@echo "make quick   the same without what takes longer than ten seconds"
	@echo "make bench   what each operation costs, as a table"
	@echo "make deploy  put it on AWS (docs/deployment.md)"

# One marker for the whole environment: it is rebuilt when the lock changes.
.venv/ready: requirements.lock
	@test -n "$(PYTHON)" || { echo "Eigenserver needs Python 3.11, 3.12 or 3.13; none was found." >&2; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear .venv
	@$(VENV)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_RELEASE)
	@$(VENV)/uv pip sync --quiet --python $(VENV)/python requirements.lock
	@touch $@

.PHONY: setup
setup: .venv/ready

.PHONY: run
run: .venv/ready
	@exec $(VENV)/python -m local

.PHONY: lock
lock:
	@test -x .tools/lock/bin/uv || { $(PYTHON) -m venv --clear .tools/lock && .tools/lock/bin/python -m pip install --quiet uv==$(UV_RELEASE); }
	.tools/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--group local --group test pyproject.toml -o requirements.lock

.PHONY: lint
lint: .venv/ready
	$(VENV)/ruff format --check .
	$(VENV)/ruff check .
	$(VENV)/mypy
	$(VENV)/lint-imports

.PHONY: test
test: .venv/ready lint tools
	$(PYTEST) tests -n 2 --dist loadfile --durations 15
	PYTHONPATH=infra:layers/homeserver/python $(VENV)/python infra/spec_coverage.py --check

.PHONY: quick
quick: .venv/ready lint
	$(PYTEST) tests -n 2 --dist loadfile -m "not slow and not e2e"

.PHONY: bench
bench: .venv/ready
	$(VENV)/python tests/benchmarks/cost_table.py
	$(VENV)/python tests/benchmarks/state_resolution_cost.py
	$(VENV)/python tests/benchmarks/room_size.py

.PHONY: spec-coverage
spec-coverage: .venv/ready
	PYTHONPATH=infra:layers/homeserver/python $(VENV)/python infra/spec_coverage.py

include infra/build.mk
