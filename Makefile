# Two lines on a fresh machine: `make demo` and `make test`. Both make .venv and install into it first.
PYTHON ?= python3
INSTALLED := .venv/.installed
# `make test ORDER=random` runs files, and the tests in each, in another order every time; the seed stands in the command that is printed.
RANDOM_ORDER := $(if $(filter random,$(ORDER)),-p randomly --randomly-dont-reset-seed --randomly-seed=$(shell date +%s))

.PHONY: demo test slow coverage formats check schemas docs bench dist clean

demo: $(INSTALLED)
	.venv/bin/planish demo

test: $(INSTALLED)
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(RANDOM_ORDER)

coverage: $(INSTALLED)
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --cov planish --cov-branch --cov-report term:skip-covered

slow: $(INSTALLED)
	.venv/bin/python -m pytest -m slow

# LiteRT's converter wants older libraries, so it has an environment of its own
formats: $(INSTALLED)
	test -x .venv-litert/bin/python || $(PYTHON) -m venv .venv-litert
	.venv-litert/bin/python -m pip install --quiet --disable-pip-version-check 'litert-torch==0.10.*' torch==2.14.1 torchvision==0.29.1
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,litert,executorch]'
	PLANISH_LITERT_PYTHON=$(CURDIR)/.venv-litert/bin/python .venv/bin/python -m pytest -m "slow or not slow" tests/export/test_formats.py tests/export/test_bundle_readme.py

check: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python tools/check_house.py
	.venv/bin/python tools/schemas.py --check

# after a change of a file format
schemas: $(INSTALLED)
	.venv/bin/python tools/schemas.py

# The site in build/site, and the Chinese one in build/site/zh, for a browser, with or without a web server; warnings and broken links are errors
docs: $(INSTALLED)
	.venv/bin/python tools/reference.py
	.venv/bin/zensical build --strict --clean
	.venv/bin/python tools/chinese_site.py
	.venv/bin/zensical build --strict --config-file zensical.zh.toml

bench: $(INSTALLED)
	.venv/bin/python benchmarks/run.py

# A wheel and an sdist in dist/, tried in an environment that holds nothing else
dist: $(INSTALLED)
	rm -rf dist .venv-dist
	.venv/bin/python -m build --outdir dist
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd .venv-dist && bin/planish demo --budget 2m --out demo && bin/planish verify demo

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Planish needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-litert .venv-dist build dist *.egg-info
