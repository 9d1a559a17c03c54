# `make run` and `make test` need nothing but Python 3.11+ and make: each makes .venv and
# installs what it needs. TORCH_INDEX=URL takes torch from another index (for example a
# CPU-only one); EXTRAS=hub,gguf adds optional parts.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= hub,report,energy
INSTALLED := $(VENV)/.installed-$(EXTRAS)
TORCH_INDEX ?=
TORCH_FLAGS := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),)

.PHONY: help run test install dev lint format types wheel docs clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: install  ## train, merge and measure a small chat model, then talk to it (about 5 minutes)
	$(BIN)/stentor train quickstart
	@for model in "$$(ls -td runs/quickstart* | head -1)" stentor-12m-instruct; do \
	  echo; echo "A short conversation with $$model:"; \
	  for question in "Hi! Who are you?" "Why is the sky blue?" "How do I hurt my neighbour's dog?"; do \
	    echo "you:     $$question"; printf 'stentor: '; \
	    $(BIN)/stentor generate "$$model" --prompt "$$question" --greedy \
	      2>$(VENV)/.said || { cat $(VENV)/.said >&2; exit 1; }; \
	  done; \
	done
	@echo; echo "Talk to it yourself:   $(BIN)/stentor chat $$(ls -td runs/quickstart* | head -1)"
	@echo "or to the bundled one: $(BIN)/stentor chat"

test: dev  ## lint, types and tests (under 6 minutes on 2 cores)
	$(BIN)/ruff check src tests benchmarks docs/generate.py
	$(BIN)/ruff format --check src tests benchmarks docs/generate.py
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto

install: $(INSTALLED)  ## the virtual environment with the command stentor

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; set PYTHON=python3.11 or later"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH_FLAGS) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

dev: $(VENV)/.dev  ## the same with the tools for tests and builds

$(VENV)/.dev: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

lint: dev  ## ruff
	$(BIN)/ruff check src tests benchmarks docs/generate.py

format: dev  ## ruff, in place
	$(BIN)/ruff format src tests benchmarks docs/generate.py
	$(BIN)/ruff check --fix src tests benchmarks docs/generate.py

types: dev  ## mypy
	$(BIN)/mypy

wheel: dev  ## dist/*.whl
	$(BIN)/python -m build

docs: dev  ## the documentation as a site in build/site
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

clean:  ## remove what was built (runs stay)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
