# `make` is what a change must pass. PYTHON may name another interpreter: make PYTHON=python3.12
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: all check lint types test fuzz bench format
all: check test

check: lint types

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

test: export AUTOEXP_SLOW ?= 1
test:
	$(PYTHON) -m pytest

fuzz: export AUTOEXP_SLOW = 1
fuzz: export AUTOEXP_FUZZ_SEED ?= $(shell date +%s)
fuzz: export AUTOEXP_FUZZ_SECONDS ?= 600
fuzz:
	$(PYTHON) -m pytest -q -m hypothesis tests/unit
	$(PYTHON) -m pytest -q tests/fuzz

bench:
	$(PYTHON) bench/startup.py
	$(PYTHON) bench/plan.py
	$(PYTHON) bench/submit.py
	$(PYTHON) bench/monitor.py
	$(PYTHON) bench/events.py
	$(PYTHON) bench/names.py
	$(PYTHON) bench/report.py
	$(PYTHON) bench/series.py
	$(PYTHON) bench/status.py
	$(PYTHON) bench/causes.py

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
