# `make run` and `make test` need git, make and Python 3.11 or newer.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
CORES ?= all
CONFIG ?=
BIN := .venv/bin
RULES := Snakefile workflow/rules
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) $(if $(CONFIG),--configfile=$(CONFIG))

.PHONY: help run report test test-slurm style format lock docs benchmark clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: .venv/installed ## Run the default scenario, or CONFIG=config/smoke.yaml, to results/report.html.
	$(SNAKEMAKE) all
	$(SNAKEMAKE) all --report results/report.html

test: .venv/installed style ## Check style and run all tests.
	$(BIN)/python -m pytest

test-slurm: .venv/installed ## Run the smoke scenario on a real one-node Slurm (Debian, as root).
	bash tests/slurm/run.sh

style: .venv/installed ## Check style: ruff, mypy, snakefmt, snakemake --lint.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check $(RULES)
	$(BIN)/snakemake --lint

format: .venv/installed ## Format the code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt $(RULES)

docs: .venv/installed ## Generate the config's schema and reference from its types.
	$(BIN)/python workflow/scripts/write_reference.py

benchmark: .venv/installed ## Compare speed with that of common alternatives.
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/probes.py
	$(BIN)/python benchmarks/sample.py
	$(BIN)/python benchmarks/influence.py

lock: .venv/installed ## Resolve requirements.in into requirements.lock.
	bash tests/lock.sh

clean: ## Remove everything produced, but not the environment.
	rm -rf results resume logs runs .snakemake

# Install torch first, with its dependencies, and all other packages without, so that no package installs a second torch.
.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=python3.11 …'; exit 1; }
	@[ ! -L .venv ] || { echo '.venv is a link: touch .venv/installed to use it, or remove it'; exit 1; }
	@echo 'Installing packages into .venv; this takes about two minutes'
	@$(PYTHON) -m venv .venv 2>/dev/null || { rm -rf .venv; [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv .venv; } || \
	  { echo 'Python has no venv module: install python3-venv'; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@touch $@
