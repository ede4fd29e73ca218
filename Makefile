# Two commands matter: `make demo` runs the main job, `make test` checks everything.
# Both make .venv on first use, with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint unit slow benchmarks clean

demo: $(STAMP)
	$(BIN)/atelier demo

test: lint unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

benchmarks: $(STAMP)
	# Code 2: a script that needs a device or files that are not here has said which.
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || [ $$? -eq 2 ] || exit 1; done

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Atelier needs Python 3.11 or newer; give one with: make PYTHON=python3.12 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV)
