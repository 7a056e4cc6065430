# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. All of them work in .venv, which `make setup` builds from setup.cfg
# under the pins of constraints.txt and leaves alone as long as none of these files changes.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# `make PYTHON=python3.12 setup` chooses one; the first that fits is taken.
PYTHON ?= python3 python3.13 python3.12 python3.11 python
EXTRAS := data,features,finetune,report,test
# A name of its own: a comma inside `call` would start another argument.
PARITY_EXTRAS := $(EXTRAS),parity
PLAN_EXTRAS := $(EXTRAS),plan
BIN := .venv/bin

# A stamp's name holds a checksum of all that the installation depends on: the pins, setup.cfg
# down to the settings of tools, and the place, because a virtual environment cannot be moved.
key = $(shell { pwd; sed '/^\[tool:/,$$d' setup.cfg; cat pyproject.toml $(1); } | cksum | tr ' ' -)
SETUP := .venv/setup-$(call key,constraints.txt)
PARITY := .venv/parity-$(call key,constraints.txt constraints-parity.txt)
PLAN := .venv/plan-$(call key,constraints.txt)
PEER := .venv-peer/peer-$(call key,constraints.txt)

# pip in a few lines: the big downloads, and what went wrong.
pip_log := .venv/pip.log
pip_install = set -o pipefail; \
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(1) 2>&1 \
	| tee $(pip_log) \
	| sed -nE -e 's/^ *((Downloading|Using cached) .* MB\)).*/  \1/p' -e 's/^(Installing).*/  \1/p' \
	|| { tail -n 20 $(pip_log); echo "error: pip failed; its whole output is in $(pip_log)"; exit 1; }

.PHONY: help setup demo test lint parity soak bench plan plan-test plan-all pod-peer clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' Makefile | awk -F '|' '{printf "%-16s%s\n", $$1, $$2}'

setup: $(SETUP) ## build .venv, or bring it up to date

$(SETUP):
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "setup: bringing .venv up to date"; exit; \
	fi; \
	for python in $(PYTHON) none; do \
		"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
			>/dev/null 2>&1 && break; \
	done; \
	if [ "$$python" = none ]; then \
		echo "error: Python 3.11, 3.12 or 3.13 is needed and none was found (looked for: $(PYTHON));"; \
		echo "install one, or name it: make PYTHON=/path/to/python3 setup"; exit 1; \
	fi; \
	echo "setup: $$("$$python" --version) -> .venv (some minutes, 3 GB of disk)"; \
	"$$python" -m venv --clear .venv || { echo "error: $$python cannot make virtual environments;" \
		"on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(call pip_install,-e ".[$(EXTRAS)]" -c constraints.txt)
	@rm -f .venv/setup-* .venv/parity-*
	@touch $@
	@echo "setup: done"

demo: setup ## the main job on the bundled text, from vocabulary to exported model
	@$(BIN)/python -m demo.run

test: lint ## lint, then the default test suite
	@$(BIN)/python -m pytest --durations=10

lint: setup ## formatting, lint rules, types, import rules
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check --quiet .
	@$(BIN)/python -m mypy
	@$(BIN)/python -c "from importlinter.cli import lint_imports_command as main; main(['--no-cache'])" \
		>.venv/imports.log || { cat .venv/imports.log; exit 1; }
	@echo "Imports are within the rules"

parity: setup $(PARITY) ## the comparisons with PyTorch and transformers
	@$(BIN)/python -m pytest -m parity tests/parity --durations=5

$(PARITY): | $(SETUP)
	@echo "parity: PyTorch and transformers -> .venv"
	@$(call pip_install,-e ".[$(PARITY_EXTRAS)]" -c constraints.txt -c constraints-parity.txt)
	@rm -f .venv/parity-*
	@touch $@

soak: setup ## the long tests, minutes to hours
	@$(BIN)/python -m pytest -m soak -s

plan: setup $(PLAN) ## the TPU compiler, for `python -m bert_jax.plan`
	@echo "plan: try .venv/bin/python -m bert_jax.plan --config=configs/pretrain.py:base,pod --slice=v4-32"

$(PLAN): | $(SETUP)
	@echo "plan: libtpu -> .venv (700 MB)"
	@$(call pip_install,-e ".[$(PLAN_EXTRAS)]" -c constraints.txt)
	@rm -f .venv/plan-*
	@touch $@

plan-test: plan ## what the TPU compiler makes of a small step
	@$(BIN)/python -m pytest tests/bert_jax/test_plan_on_tpu.py --durations=5

plan-all: plan ## the table of plans in docs/tpu.md: base and large on every slice (hours)
	@$(BIN)/python benchmarks/pod_plans.py

pod-peer: $(PEER) ## transformers 4.57 in .venv-peer, for benchmarks/pod_peer.py
	@.venv-peer/bin/python -m pytest -m parity tests/benchmarks/test_pod_peer.py
	@echo "pod-peer: try .venv-peer/bin/python benchmarks/pod_peer.py --size=base --slice=v4-32"

# transformers 4.57, the last with Flax, wants older versions of a few packages than ours.
$(PEER): | $(SETUP)
	@echo "pod-peer: transformers 4.57 and libtpu -> .venv-peer (1 GB)"
	@$(BIN)/python -m venv --clear .venv-peer
	@grep -vE '^(huggingface_hub|tokenizers)==' constraints.txt >.venv-peer/constraints.txt
	@.venv-peer/bin/python -m pip install --quiet --disable-pip-version-check \
		-e ".[plan]" pytest "transformers ==4.57.6" -c .venv-peer/constraints.txt
	@touch $@

bench: setup ## time the training step on this machine
	@$(BIN)/python benchmarks/train_step.py

clean: ## remove caches; .venv and runs stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
	@find . -path './.venv*' -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
