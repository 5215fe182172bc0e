# Everything a person runs. Each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A file's tests share what they start, and each process starts its own backends: so by file, and not too many.
# Which goes first, tests/longest_first.py says; `make test ARGS=--write-seconds` tells it what files take now.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
READY_TO_RUN := $(VENV)/.ready-to-run
# Its lock is held for as long as it runs; the addresses that it left are those of nothing, or of others, afterwards.
STACK_RUNS := [ -f .switchboard/env ] && ! $(BIN)/python -c \
	'import fcntl; fcntl.flock(open(".switchboard/lock"), fcntl.LOCK_SH | fcntl.LOCK_NB)' 2>/dev/null

.DEFAULT_GOAL := help
.PHONY: help run shell demo test test-kafka check format lock bench clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One environment, made anew when its lock file changes. Serving needs half of what the tests need; who has this has that.
$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) setup/environment.py requirements-dev.lock
	@touch $@ $(READY_TO_RUN)

$(READY_TO_RUN): requirements-local.lock pyproject.toml
	@$(PYTHON) setup/environment.py requirements-local.lock
	@touch $@

run: $(READY_TO_RUN) ## Serve the gateway on the local stack (PORT=8000)
	@exec $(BIN)/switchboard dev $(if $(PORT),--port $(PORT))

shell: $(READY_TO_RUN) ## A shell that finds `switchboard`, and the local stack's addresses if it runs
	@set -a; if $(STACK_RUNS); then . .switchboard/env; else echo "No local stack runs here; \`make run\` starts it." >&2; fi; \
		PATH="$(CURDIR)/$(BIN):$$PATH" exec $${SHELL:-sh}

test: $(READY) ## Run every test, as many at a time as there are cores (ARGS="tests/faces" a part, ARGS="-n 0" one by one)
	@$(BIN)/pytest $(PARALLEL) $(ARGS)

demo: $(READY_TO_RUN) ## With `make run` in another shell: a customer's question, step by step (QUESTION="…")
	@$(BIN)/python -m agents demo $(if $(PORT),--gateway http://127.0.0.1:$(PORT)) $(if $(QUESTION),"$(QUESTION)")

test-kafka: $(READY) ## Run the Kafka tests against Apache Kafka itself (needs Java 17 and Maven)
	@KAFKA_BROKER=apache $(BIN)/pytest tests/services/kafka tests/mcp_servers/test_kafka_*.py

check: $(READY) ## Check format, style, types, layers and migrations
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/pyright -p tests/pyrightconfig.json
	@$(BIN)/python -m tests.console.check
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.check_migrations

format: $(READY) ## Format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/python -m tests.console.check --format

lock: $(READY) ## Write the lock files anew from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		pyproject.toml --extra agents --extra otel -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		pyproject.toml -c requirements.lock --extra agents --extra otel --extra semantic -o requirements-semantic.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		pyproject.toml -c requirements-semantic.lock --extra agents --extra otel --extra local --extra setup -o requirements-local.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		pyproject.toml -c requirements-local.lock --extra agents --extra otel --extra local --extra setup --extra semantic --extra dev -o requirements-dev.lock

bench: $(READY) ## Measure speed and memory, print ratios and write them into docs/speed.md (ARGS="--rounds 1" a first look)
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove the environment and the local stack's data
	rm -rf $(VENV) .switchboard .cache
