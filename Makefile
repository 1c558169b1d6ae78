# `make run` and `make test` install what they need into .venv; see app/local/bootstrap.py.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run doctor test bench check fix clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make run takes PORT, MODEL, DATA_DIR, DATABASE_URL, WORKER_URLS: make run PORT=9000"

run: ## Install, fetch the default model, start everything on http://127.0.0.1:8080/v1
	@$(PYTHON) app/local/bootstrap.py
	@$(BIN)/python -m app.cli serve

doctor: ## Check Postgres, migrations, workers and the plugin of a running service
	@$(BIN)/python -m app.cli doctor

test: ## Run all tests: unit, integration on real Postgres, e2e on real vLLM (TESTS=path for some)
	@$(PYTHON) app/local/bootstrap.py --dev
	@$(BIN)/python -m pytest $(TESTS)

bench: ## Measure full history against cache references: minutes (ARGS="run" for all of it)
	@$(PYTHON) app/local/bootstrap.py --bench
	@$(BIN)/python -m bench $(or $(ARGS),run --quick)

check: ## Lint, format, types, and who may import whom
	@$(PYTHON) app/local/bootstrap.py --dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_imports.py

fix: ## Let ruff mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove the virtual environment and caches (not DATA_DIR: models and conversations)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find app tests migrations -name __pycache__ -prune -exec rm -rf {} +
