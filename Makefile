# Everything a newcomer types. Each target makes .venv first (pip, from pyproject.toml + constraints.txt).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BENCH ?= bench.json
BIN := $(VENV)/bin

.PHONY: demo test lint hooks docs docs-serve wheel bench bench-table bench-short chaos soak notebooks page release cite format audit hashes clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,notebooks]'
	touch $@

demo: $(VENV)/.installed  ## simulate a country, map it, count it: runs/demo
	$(BIN)/subpixmap run --region demo --years 2018-2023

test: $(VENV)/.installed  ## tests, offline, on the CPU
	$(BIN)/python -m pytest -m 'not slow' -n logical --maxprocesses 4 --dist loadfile

lint: $(VENV)/.installed  ## format, lint, spelling, notebooks without outputs, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb
	$(BIN)/mypy

hooks: $(VENV)/.installed  ## check every commit: the same tools as lint, through pre-commit
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt pre-commit
	$(BIN)/pre-commit install

docs: $(VENV)/.installed  ## the site, strictly: site/index.html
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build

docs-serve: $(VENV)/.installed  ## the site while you write, at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs serve

wheel: $(VENV)/.installed  ## the wheel holds what git holds, and works outside the repository
	.ci/wheel.sh

format: $(VENV)/.installed  ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed  ## what we cost against plain code and usual tools: a table, and bench.json (or BENCH=FOLDER)
	$(BIN)/python -m tests.benchmarks.bench --json $(BENCH)
	$(BIN)/python -m pytest -m slow tests/benchmarks -s

bench-table: $(VENV)/.installed  ## the same measurements, put into docs/benchmarks.md (a quarter of an hour)
	$(BIN)/python -m tests.benchmarks.bench --json $(BENCH) --page docs/benchmarks.md

bench-short: $(VENV)/.installed  ## the table in less than a minute; fails only on what no load can touch
	$(BIN)/python -m tests.benchmarks.bench --short

chaos: $(VENV)/.installed  ## the slow tests of the engine: kills, bit flips, failing I/O calls, mixed copies
	$(BIN)/python -m pytest -m slow tests --ignore=tests/benchmarks --ignore=tests/chaos/test_soak.py -s

soak: $(VENV)/.installed  ## half an hour of mapping: do the workers grow?
	SUBPIXMAP_SOAK_MINUTES=30 $(BIN)/python -m pytest -m slow tests/chaos/test_soak.py -s

notebooks: $(VENV)/.installed  ## execute the notebooks
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 notebooks

page: $(VENV)/.installed  ## the report in Chromium: axe at desktop and phone, what follows the year (needs npm)
	SUBPIXMAP_AXE=$$(.ci/axe.sh $(VENV)/axe) $(BIN)/python -m pytest -m slow tests/report/test_browser.py -rs

release: lint docs test notebooks page chaos bench audit cite  ## all checks before a version (hours; needs the network)
	.ci/wheel.sh --empty

cite: $(VENV)/.installed  ## CITATION.cff is valid, and of this version (needs the network)
	$(PYTHON) -m venv $(VENV)/cite && $(VENV)/cite/bin/python -m pip install --disable-pip-version-check -q cffconvert
	$(VENV)/cite/bin/cffconvert --validate
	grep -q "^version: $$($(BIN)/python -c 'import subpixmap; print(subpixmap.__version__)')$$" CITATION.cff

audit: $(VENV)/.installed  ## known holes in the pinned versions (needs the network; part of a release)
	$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --disable-pip-version-check -q pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

hashes:  ## write requirements-hashed.txt: the pinned versions with hashes of all their files (seconds, no download of them)
	test -x $(VENV)/hashes/bin/uv || { $(PYTHON) -m venv $(VENV)/hashes && $(VENV)/hashes/bin/python -m pip install --disable-pip-version-check -q uv; }
	$(VENV)/hashes/bin/uv pip compile -q --generate-hashes --no-annotate --custom-compile-command "make hashes" -c constraints.txt \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --extra train --extra detect --extra s3 --extra safe --extra clouds \
		pyproject.toml -o requirements-hashed.txt

clean:  ## remove the environment and the runs
	rm -rf $(VENV) runs
