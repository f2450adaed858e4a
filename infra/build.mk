# Build, validate and deploy: included by the root Makefile, runs from the root of the checkout.
#
# The build tools live in .tools, an environment of their own: aws-sam-cli brings another boto3 and pydantic than the functions.

UV_VERSION := 0.13.9
TOOLS := $(CURDIR)/.tools
UV := $(TOOLS)/uv/bin/uv
SAM := $(TOOLS)/bin/sam
CFN_LINT := $(TOOLS)/bin/cfn-lint
TOOLS_PYTHON ?= python3
BUILD ?= .aws-sam/build

# Whoever calls sam must name a region, even to validate; no call below reaches AWS before `make deploy`.
export AWS_DEFAULT_REGION ?= us-east-1
export SAM_CLI_TELEMETRY := 0

# Compiles the bytecode that ships with the layers. Tried by running it, because a python3.13 on PATH may be a shim of nothing.
PYTHON313 ?= $(firstword $(foreach python,$(CURDIR)/.venv/bin/python python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) \
	$(wildcard $(HOME)/.local/share/uv/python/cpython-3.13*/bin/python3.13),\
	$(shell $(python) -c 'import sys; sys.version_info[:2] == (3, 13) and print(sys.executable)' 2>/dev/null)))

.PHONY: tools js-sdk synapse chromium lock-synapse requirements functions-table validate build deploy lock-tools

$(UV):
	$(TOOLS_PYTHON) -m venv $(TOOLS)/uv
	$(TOOLS)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(TOOLS)/.installed: infra/tools-requirements.txt | $(UV)
	test -x $(TOOLS)/bin/python || $(UV) venv --quiet --allow-existing --python $(TOOLS_PYTHON) $(TOOLS)
	$(UV) pip sync --quiet --python $(TOOLS)/bin/python --require-hashes infra/tools-requirements.txt
	touch $@

tools: $(TOOLS)/.installed js-sdk synapse chromium ## Install sam, cfn-lint and what the end-to-end tests try the server with into .tools

# Installed once a lock. Who has no Node.js, no npm or no registry is told so, and the tests that need it are skipped.
JS := $(TOOLS)/js
js-sdk: ## Install matrix-js-sdk, for tests/e2e/test_afternoon_js_sdk.py
	@if ! command -v node >/dev/null || ! command -v npm >/dev/null; then \
		echo "Node.js or npm is not installed: matrix-js-sdk will not be tried"; \
	elif ! cmp -s tests/e2e/js/package-lock.json $(JS)/installed-lock.json; then \
		rm -rf $(JS) && mkdir -p $(JS) && cp tests/e2e/js/package.json tests/e2e/js/package-lock.json $(JS) && \
		npm ci --prefix $(JS) --ignore-scripts --no-audit --no-fund --silent && \
		cp tests/e2e/js/package-lock.json $(JS)/installed-lock.json || \
		echo "npm could not install it: matrix-js-sdk will not be tried"; \
	fi

# In an environment of its own: it is a program that the tests talk with. Where it cannot be had, its tests are skipped.
SYNAPSE := $(TOOLS)/synapse
SYNAPSE_LOCK := tests/e2e/synapse/requirements.txt
synapse: | $(UV) ## Install Synapse, for the end-to-end tests of federation
	@if ! cmp -s $(SYNAPSE_LOCK) $(SYNAPSE)/installed-lock.txt; then \
		rm -rf $(SYNAPSE) && $(UV) venv --quiet --python .venv/bin/python $(SYNAPSE) && \
		$(UV) pip sync --quiet --python $(SYNAPSE)/bin/python --only-binary :all: --require-hashes $(SYNAPSE_LOCK) && \
		cp $(SYNAPSE_LOCK) $(SYNAPSE)/installed-lock.txt || \
		echo "Synapse could not be installed: federation with it will not be tried"; \
	fi

# Debian's, unpacked. Another one is named by CHROMIUM; where there is none, the tests of pages are skipped.
chromium: ## Unpack a headless Chromium, for the end-to-end tests of pages
	@sh infra/chromium.sh $(TOOLS)/chromium || echo "Chromium could not be unpacked: pages will not be tried in a browser"

lock-synapse: | $(UV) ## Pin a newer version of Synapse
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make lock-synapse" tests/e2e/synapse/requirements.in -o $(SYNAPSE_LOCK)

lock-tools: | $(UV) ## Pin newer versions of sam and cfn-lint
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		infra/tools-requirements.in -o infra/tools-requirements.txt

requirements: ## Export the functions' packages from requirements.lock to the layer
	.venv/bin/python infra/export_requirements.py

functions-table: ## Write docs/functions.md from the template
	PYTHONPATH=infra .venv/bin/python infra/functions_table.py

validate: $(TOOLS)/.installed ## Check the template with cfn-lint and sam
	$(CFN_LINT) template.yaml infra/*.yaml
	$(SAM) validate --lint

build: $(TOOLS)/.installed ## Build functions and layers into $(BUILD)
	$(if $(PYTHON313),,@echo "WARNING: no Python 3.13 found: no bytecode: cold starts ~3x; 'make deploy' will refuse this build" >&2)
	UV=$(UV) PYTHON313=$(PYTHON313) $(SAM) build --parallel --build-dir $(BUILD)

deploy: build ## Put the stack on AWS (docs/deployment.md)
	PYTHONPATH=infra SAM=$(SAM) .venv/bin/python infra/deploy.py $(DEPLOY)
