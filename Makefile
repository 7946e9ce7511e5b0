# Two commands: `make demo` (watch a model get better) and `make test`. Both set up .venv first.
PYTHON ?= python3.11
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test unit e2e e2e-flows e2e-parts kill lint bench report

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: ## create .venv with the locked CPU dependencies (done by the others if needed)
	@PYTHON=$(PYTHON) bash deploy/setup.sh

demo: setup ## run the demo: two rounds of self-improvement on a CPU
	@echo "demo: two rounds on this machine; the report is linked at the end"
	@$(BIN)/flywheel demo

test: setup ## all tests that need no GPU, with coverage (but e2e and kill)
	@echo "test: unit, engine, Ray and Prefect tests; 'make unit' is the quick part"
	@$(BIN)/coverage run -m pytest -m "not gpu and not bench and not e2e and not kill"
	@$(BIN)/coverage report

unit: setup ## the quick tests only
	@$(BIN)/pytest

e2e: e2e-flows e2e-parts ## minutes long: both of the following

e2e-flows: setup ## small runs of two methods, one of all three, a deployed run
	@$(BIN)/pytest -m e2e --durations=8 tests/flows

e2e-parts: setup ## two workers, killed trainings and pools, a search on the real engine
	@$(BIN)/pytest -m e2e --durations=8 tests --ignore=tests/flows

kill: setup ## kill -9 whole runs mid-way; they must end with the same rows
	@$(BIN)/pytest -m kill tests

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: setup ## the benchmarks of the README; searches also on a model with 450 image tokens
	@$(BIN)/pytest -m bench -s tests/bench --ignore=tests/bench/test_search.py
	@BENCH_CONFIG=deploy/configs/full.yaml $(BIN)/pytest -m bench -s tests/bench/test_search.py
	@$(BIN)/python -m tests.bench.tiled_model runs/bench/tiled
	@BENCH_CONFIG=runs/bench/tiled/bench.yaml $(BIN)/pytest -m bench -s tests/bench/test_search.py \
		-k "reference and not pool"

report: setup ## write the report of runs/demo again
	@$(BIN)/flywheel report runs/demo
