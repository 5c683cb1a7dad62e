# Two commands for users, the rest for developers; each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test check format clean

study: .venv/study
	$(BIN)/kdjax study --config=configs/study/quickstart.py --workdir=runs/quickstart

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/study: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[data]"
	touch $@

.venv/test: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

clean:
	rm -rf .venv runs
