# Every command of this repository. `make` alone lists them. Without make: see the plain commands in README.md.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP_FLAGS ?=
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint wheel constraints clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with the library and everything that training, evaluation and tests need
	@echo "setup: $(VENV) is ready ($$($(BIN)/python --version))"

demo: $(READY) ## Train a small VAE on this machine, export it, use it in diffusers, show it on a page; all goes to out/demo
	@echo "demo: training, exporting and using a small VAE; everything it makes goes to out/demo, which is emptied first"
	$(BIN)/python -m train.demo --out out/demo

test: $(READY) ## Run the whole test suite, a file on each core, on four at most
	@echo "test: running the whole suite on $$(getconf _NPROCESSORS_ONLN) cores"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

lint: $(READY) ## Check style (ruff), formatting (ruff format) and types (mypy)
	@echo "lint: style, then formatting, then types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(READY) ## Build the wheel into dist/
	@echo "wheel: building it in an isolated environment, into dist/"
	@rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist

constraints: $(READY) ## Write the exact versions installed in .venv to constraints.txt
	@echo "constraints: writing the versions in $(VENV) to constraints.txt; its comment lines stay"
	@{ grep '^#' constraints.txt; \
	  $(BIN)/python -m pip list --format=freeze --exclude latentcodec --exclude pip --exclude setuptools; \
	} > $(VENV)/constraints.new
	@mv $(VENV)/constraints.new constraints.txt
	@touch $(READY)

clean: ## Delete .venv, caches and built files; keeps out/ and runs/
	@echo "clean: deleting $(VENV), caches, build/ and dist/; out/ and runs/ stay"
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp: installs again only when the metadata or the pinned versions have changed.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "setup: no $(PYTHON) found; install Python 3.11 or newer, or name one: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "setup: latentcodec needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "name a newer one: make setup PYTHON=python3.12"; exit 1; }
	@if [ ! -x $(BIN)/python ]; then \
	  echo "setup: creating $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "setup: $(PYTHON) cannot create virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }; \
	fi
	@echo "setup: installing latentcodec and its dependencies at the versions in constraints.txt"
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@
