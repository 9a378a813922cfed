# `make demo` and `make test` start from nothing but Python 3.11, make and a C++ compiler; both work again without network.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed.stamp

EXAMPLE := examples/byte-llama
COMPILED := build/byte-llama.hcm

.PHONY: demo test lint format bench clean

demo: $(INSTALLED)
	mkdir -p build
	$(BIN)/hcompile optimize $(EXAMPLE) --budget kl=0.003 --calib stdlib --lengths 1024,4096 -o $(COMPILED)
	$(BIN)/hcompile bench $(COMPILED) --lengths 512,1024,4096

# One thread each: two processes whose threads wait for each other in turns take as long as one.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.tuner

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is missing or older than 3.11: install it, or name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make virtual environments: install python3-venv" >&2; exit 1; }
	@command -v "$${CXX:-g++}" >/dev/null && command -v "$${CC:-gcc}" >/dev/null \
		|| { echo "no C and C++ compiler: install gcc and g++, or set CC and CXX" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,plot,report,transformers]'
	touch $@
