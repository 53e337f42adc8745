# k15: everything a user or a developer types. `make` alone lists the targets.
#
#   PYTHON  the Python that makes the virtual environment, 3.11 or newer
#   VENV    where the virtual environment lives
#   ARGS    more words for the command behind demo, test, learn or report: make test ARGS="-k buffer -x"
#   RUN     the run folder that `make report` reads; the newest one in runs/ if not given

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
RUN ?= $(patsubst %/,%,$(firstword $(shell ls -dt runs/*/ 2>/dev/null)))

BIN := $(VENV)/bin
# Installed for running; installed for developing. Older than pyproject.toml means: install again. Both installs
# are editable, so that a changed source file never needs one.
RUN_STAMP := $(VENV)/.k15-installed
DEV_STAMP := $(VENV)/.k15-installed-dev
# vLLM wants versions of its own: an environment beside the other.
VLLM_VENV ?= .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.k15-installed-vllm

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-sandbox test-vllm check format learn bench report clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(RUN_STAMP) ## install k15 into .venv and run the whole recipe on this machine
	@$(BIN)/k15 demo $(ARGS)

test: $(DEV_STAMP) ## install the development extra and run the tests
	@$(BIN)/python -m pytest $(ARGS)

test-vllm: $(VLLM_STAMP) ## install vLLM into .venv-vllm and test the vLLM engine with it (minutes)
	@$(VLLM_VENV)/bin/python -m pytest tests/vllm $(ARGS)

test-sandbox: $(DEV_STAMP) ## attack the sandbox, with every back end that this host has (minutes)
	@$(BIN)/python -m pytest tests/sandbox $(ARGS)

check: $(DEV_STAMP) ## lint, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(DEV_STAMP) ## let ruff fix and format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

learn: $(DEV_STAMP) ## the learning tests: does training reach a known answer? (minutes)
	@$(BIN)/python -m pytest tests/learning -m "" $(ARGS)

bench: $(DEV_STAMP) ## run every benchmark; each writes its JSON result beside itself
	@set -e; for file in $(sort $(wildcard benchmarks/*.py)); do echo "$$file"; $(BIN)/python "$$file"; done

report: $(RUN_STAMP) ## write report.html of a run: make report RUN=runs/NAME
	@test -n "$(RUN)" || { echo "There is no run in runs/ yet. Give one, as in: make report RUN=runs/NAME" >&2; exit 2; }
	@$(BIN)/k15 report $(RUN) $(ARGS)

clean: ## remove .venv, .venv-vllm, caches and build outputs; runs/ stays
	@test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	@test ! -f $(VLLM_VENV)/pyvenv.cfg || rm -rf $(VLLM_VENV)
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN_STAMP): pyproject.toml
	$(make_venv)
	@echo "Installing k15 and what it needs into $(VENV). The first time this downloads PyTorch: minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(DEV_STAMP): pyproject.toml
	$(make_venv)
	@echo "Installing k15 with its development tools into $(VENV). The first time this downloads PyTorch: minutes."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(RUN_STAMP) $@

$(VLLM_STAMP): pyproject.toml scripts/install_vllm.py
	@$(PYTHON) scripts/install_vllm.py $(VLLM_VENV)
	@touch $@

# A virtual environment that exists is kept, whoever made it; one that was interrupted before pip was in it is completed.
define make_venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "k15 needs Python 3.11 or newer; '$(PYTHON)' is not. Name another one: make PYTHON=python3.12 ..." >&2; \
	    exit 2; }; \
	  echo "Creating a virtual environment in $(VENV)."; \
	  $(PYTHON) -m venv $(VENV); }
endef
