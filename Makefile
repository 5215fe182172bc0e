# Everything a person runs. Each target sets up what it needs.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help run demo test test-kafka check format lock bench clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One environment, made anew when the lock file changes.
$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Switchboard needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV), once:"
	@echo "  1/3 a virtual environment …"
	@$(PYTHON) -m venv $(VENV)
	@echo "  2/3 $$(grep -c == requirements-dev.lock) pinned packages, about a minute …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@echo "  3/3 Switchboard itself …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## Serve the gateway on the local stack (PORT=8000)
	@exec $(BIN)/switchboard dev --port $(PORT)

test: $(READY) ## Run every test (ARGS="-n 2" in parallel, ARGS="tests/faces" a part)
	@$(BIN)/pytest $(ARGS)

demo: $(READY) ## With `make run` in another shell: a customer's question, step by step (QUESTION="…")
	@$(BIN)/python -m agents demo --gateway http://127.0.0.1:$(PORT) $(if $(QUESTION),"$(QUESTION)")

test-kafka: $(READY) ## Run the Kafka tests against Apache Kafka itself (needs Java 17 and Maven)
	@KAFKA_BROKER=apache $(BIN)/pytest tests/services/kafka tests/mcp_servers/test_kafka_mcp.py

check: $(READY) ## Check format, style, types, layers and migrations
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.check_migrations

format: $(READY) ## Format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(READY) ## Write the lock files anew from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		pyproject.toml -c requirements.lock --extra agents --extra local --extra dev -o requirements-dev.lock

bench: $(READY) ## Measure speed and memory; prints a table of ratios
	@$(BIN)/python -m benchmarks

clean: ## Remove the environment and the local stack's data
	rm -rf $(VENV) .switchboard .cache
