# Everything runs in .venv; nothing is installed elsewhere.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

# Modules are compiled once, on all cores: where PYTHONDONTWRITEBYTECODE is set, every job would compile what
# it imports again. Large parts that no job imports are left out.
UNUSED := /(tests|testing|_inductor|transformers/models/(?!auto|bert)\w+|mypyc?|networkx|pip|setuptools)/
COMPILE := $(BIN)/python -m compileall -q -j 0 -x '$(UNUSED)' .venv/lib src

.PHONY: help setup demo demo-all test test-slurm test-kills lint docs pins speed pictures format clean

help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make or update .venv (does nothing if it is up to date)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(COMPILE)
	@touch $@

demo: setup ## the whole pipeline on a small synthetic cohort: three minutes on two CPU cores
	$(BIN)/snakemake --cores 2 --configfile config/demo.yaml config/demo_slide.yaml --quiet rules host
	@$(BIN)/flag-st summary results/demo

demo-all: setup ## the same with more sections, seeds and epochs: a quarter of an hour
	$(BIN)/snakemake --cores 2 --configfile config/demo.yaml config/demo_all.yaml --quiet rules host
	@$(BIN)/flag-st summary results/demo_all

test: setup ## the tests, apart from SLURM and the hundred kills
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 $(AGAIN)

test-slurm: setup ## the SLURM profile on a one-node SLURM (as root, after: apt-get install slurm-wlm munge)
	$(BIN)/python -m pytest -m slurm tests/cluster --durations=0 -o cache_dir=.pytest_cache/slurm $(AGAIN)

test-kills: setup ## the demo killed a hundred times (half an hour)
	$(BIN)/python -m pytest -m kills tests/workflow

lint: setup ## formatter, linter, types, dependencies, workflow linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pip check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/demo.yaml

docs: setup ## the documentation site, without network: docs/_build/index.html; a warning is an error
	$(BIN)/python -m sphinx -c docs -b html -W --keep-going -q . docs/_build

pins: setup ## the newest versions that pyproject.toml allows: constraints.txt (then run the tests)
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report .venv/pins.json -e ".[dev,slides]"
	$(BIN)/python -c 'import json; found = json.load(open(".venv/pins.json"))["install"]; \
	named = {i["metadata"]["name"]: i["metadata"]["version"].split("+")[0] for i in found}; \
	lines = sorted((f"{n}=={v}" for n, v in named.items() if n != "flag-st"), key=str.lower); \
	head = open("constraints.txt").readline(); open("constraints.txt", "w").write("\n".join([head.strip(), *lines, ""]))'

speed: setup ## speed and memory against the released code's computation: results/benchmarks/
	$(BIN)/flag-st benchmark

pictures: demo-all ## the README's pictures, from the long demo
	$(BIN)/python docs/pictures.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

clean: ## remove what was made, keep .venv
	rm -rf results/demo results/demo_all .snakemake
