# Assay. `make help` lists what there is.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
export VENV
PY := $(VENV)/bin/python
PROTOS := $(shell find protos -name '*.proto')
TEST_ARGS ?=

.PHONY: help demo trace-demo test servers serve check models bench stubs protos breaking docs lock clean client-examples load setup setup-load setup-dev

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: setup ## Real decisions from a fresh machine, in one command
	@$(PY) -m demo

trace-demo: setup ## Decisions in a real tracing backend (Collector and Zipkin), until Ctrl-C
	@exec $(PY) -m demo.trace_demo $(DEMO_ARGS)

test: setup-dev servers ## All tests, against real servers
	@$(PY) -m pytest $(TEST_ARGS)

servers: ## Redis, Cassandra and a tracing backend for the tests, where they are missing; says what is skipped without
	@tools/redis_server.sh
	@tools/cassandra.sh fetch || [ "$$CI" != true ]
	@tools/trace_backend.sh fetch || true

serve: setup ## Start the server with the shipped bundle, and stay
	@exec $(VENV)/bin/assay serve

check: setup-dev ## Lint, types, layers, proto lint
	@tools/check.sh

models: setup-dev ## Train and export every shipped model again
	@OMP_NUM_THREADS=1 $(PY) -m models.training.all
	@OMP_NUM_THREADS=1 $(PY) -m models.training.fraud.train

bench: setup-dev ## Server CPU and latency against a bare gRPC echo, to bench.json
	@command -v h2load >/dev/null || (. tools/lib.sh && apt_install nghttp2-client) || \
		echo 'SKIPPED: the h2load cross-check: not installed (Debian: apt-get install nghttp2-client)' >&2
	@$(PY) -m bench.run $(BENCH_ARGS)
	@tools/redis_server.sh
	@! command -v redis-server >/dev/null || $(PY) -m bench.stores
	@$(PY) -m bench.whole
	@$(PY) -m bench.watched
	@$(PY) -m bench.record
	@$(PY) -m bench.overload
	@$(PY) -m bench.soak
	@$(PY) -m tools.capacity

load: setup-load ## Two minutes of load on a server of its own; report in build/load/
	@$(PY) -m loadtest run two_minutes $(LOAD_ARGS)

client-examples: setup-dev ## Compile the documented Go and Java callers, and let them call a real server
	@tools/check_client_examples.sh

stubs: setup ## Client and stubs, as a wheel in dist/
	@$(PY) tools/build_stubs.py

protos: gen/.stamp ## Generate the stubs from protos/ into gen/

breaking: setup-dev ## Hold protos/ against the last release (AGAINST=ref for another)
	@tools/buf_breaking.sh $(AGAINST)

docs: setup-dev ## Write the reference pages again from their single sources
	@$(PY) -m tools.docs

lock: ## Pin the dependencies again (UPGRADE=1 for newer ones)
	@tools/setup_venv.sh dev
	@tools/lock.sh

clean: ## Remove what was built; keep the environment and the data fetched
	@rm -rf dist gen *.egg-info .ruff_cache .mypy_cache .pytest_cache .import_linter_cache
	@find build -mindepth 1 -maxdepth 1 -not -name data -exec rm -rf {} + 2>/dev/null || true
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

setup: ## The environment that runs Assay
	@tools/setup_venv.sh server
	@$(MAKE) -s gen/.stamp

setup-load:
	@tools/setup_venv.sh load
	@$(MAKE) -s gen/.stamp

setup-dev: ## The environment that tests and trains
	@tools/setup_venv.sh dev
	@$(MAKE) -s gen/.stamp

gen/.stamp: $(PROTOS) tools/gen_protos.py requirements/build.txt
	@tools/setup_venv.sh server
	@$(PY) tools/gen_protos.py
	@touch $@
