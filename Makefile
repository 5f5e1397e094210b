# `make` alone lists the targets. Every target but help and clean installs first, if that is needed.

PYTHON    ?= python3
BIN       := .venv/bin
INSTALLED := .venv/.installed
TIERS     := unit integration e2e fault
# Everything that can be made again. Not in here: params.yaml, data/raw, data/eval, and data/registry, which holds what was
# published and nobody can train again to the same bytes; nor settings of yours (.env, .dvc/config.local).
GENERATED := .venv build refit.egg-info .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis .dvc/tmp \
             data/suites data/base data/validated data/profile.json data/prepared data/model data/champion data/best data/scores data/plots data/reports
# DVC's cache too, unless older versions of your data may lie there and nowhere else.
GENERATED += $(if $(wildcard *.dvc data/*.dvc),,.dvc/cache)

.DEFAULT_GOAL := help
.PHONY: help install run test $(TIERS:%=test-%) test-slow slow-integration slow-fault slow-e2e lint bench clean

help: ## List the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(INSTALLED) ## Make .venv with everything in it, if pyproject.toml or the constraints changed
$(INSTALLED): pyproject.toml deployments/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c deployments/constraints.txt -e ".[dev]"
	@touch $@

run: install ## Retrain once: validate, prepare, train, evaluate, gate, publish
	$(BIN)/refit run

# Thousands of small files: in memory, where the system has such a folder, and no longer there once all passed.
test-unit: export PYTEST_DEBUG_TEMPROOT := $(wildcard /dev/shm)
test-unit: PYTEST_OPTIONS := -o tmp_path_retention_policy=failed
# Each of the last three keeps to one core.
test: install ## Run the tests: unit, then integration, fault and e2e side by side, but for the slow ones
	$(MAKE) test-unit
	$(MAKE) --jobs=3 --output-sync=target test-integration test-fault test-e2e
test-slow: install ## Run the tests that are marked slow: every fault, every way a model may be spoilt, servers killed
	$(MAKE) --jobs=3 --output-sync=target slow-integration slow-fault slow-e2e
# The integration tier takes longest, so another one gives way: this one, whose tests have no limits of time.
test-e2e slow-e2e: FIRST := nice -n 3
# pytest leaves with 5, which is a failure here, if a tier has no test.
$(TIERS:%=test-%): test-%: install
	$(FIRST) $(BIN)/python -m pytest $(PYTEST_OPTIONS) -m "not slow" tests/$*
slow-integration slow-fault slow-e2e: slow-%: install
	$(FIRST) $(BIN)/python -m pytest -m slow tests/$*

lint: install ## Check style, format and types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install ## Run the measurements of tests/benchmarks
	@set -e; for file in tests/benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

clean: ## Remove .venv, caches and all DVC outputs; keeps params.yaml, raw data and the registry
	rm -rf $(GENERATED)
	find flows tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +
