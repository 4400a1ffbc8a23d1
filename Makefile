# Two lines on a fresh machine: `make demo` and `make test`. Both make .venv and install into it first.
PYTHON ?= python3
INSTALLED := .venv/.installed

.PHONY: demo test slow check bench clean

demo: $(INSTALLED)
	.venv/bin/planish demo

test: $(INSTALLED)
	.venv/bin/python -m pytest

slow: $(INSTALLED)
	.venv/bin/python -m pytest -m slow

check: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: $(INSTALLED)
	.venv/bin/python benchmarks/run.py

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Planish needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
