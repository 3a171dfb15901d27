# A bare machine with make and Python >= 3.10 is enough: every target sets up what it needs.
#
#   make demo          the demo, written to demo-output/      ARGS="--seed 3" passes options on
#   make test          the tests                              ARGS="-k guides -x"
#   make test-slow     the tests marked slow
#   make test-browser  the tests of the app in a Chromium, which are skipped where none is installed
#   make notebooks     executes notebooks/*.py into the .ipynb beside them   ARGS=03 executes one
#   make gallery       executes docs/gallery/*.py, each of which draws the picture beside it   ARGS=poisson executes one
#   make gpu-check     the checks of a machine with a GPU, six minutes   ARGS="--device cpu --tiny" tries them without one
#   make docs          the site, written to docs/_build/html, without a network; warnings are errors
#   make lint          ruff, its formatter, the order of imports, pyright
#   make wheel-check   the wheel, in an empty environment, from another folder
#   make clean         removes build products and caches; keeps the environment and the demo's output
#
# PYTHON chooses the interpreter of a new environment: make test PYTHON=python3.12 VENV=.venv312
# CONSTRAINTS names a file of versions: make test CONSTRAINTS=constraints.txt has those that are known to work together.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?=
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-dev

.PHONY: demo test test-slow test-browser gpu-check notebooks gallery docs lint wheel-check clean venv
.DEFAULT_GOAL := test

demo: $(STAMP)
	@$(BIN)/vipaint demo --out demo-output $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest $(ARGS)

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -m slow -n 0 $(ARGS)

test-browser: $(STAMP)
	@$(BIN)/python -m pytest -m browser -n 0 $(ARGS)

gpu-check: $(STAMP)
	@$(BIN)/python -m benchmarks.gpu_check $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/pyright --pythonpath $(BIN)/python

# Of the metadata only the kernel is kept, so that an unchanged notebook stays the same file; tqdm, which nothing here
# draws with, warns of missing widgets as it is imported.
notebooks: $(STAMP)
	@set -e; for script in notebooks/$(ARGS)*.py; do \
	  echo "Executing $$script ..."; notebook="$${script%.py}.ipynb"; \
	  $(BIN)/python -m jupytext --quiet --update --to ipynb "$$script"; \
	  PYTHONWARNINGS="ignore:IProgress not found" $(BIN)/python -m nbconvert --log-level=ERROR --to notebook \
	    --inplace --execute "$$notebook" \
	    --ExecutePreprocessor.record_timing=False --ClearMetadataPreprocessor.enabled=True \
	    --ClearMetadataPreprocessor.preserve_nb_metadata_mask=kernelspec; done

docs: $(STAMP)
	@$(BIN)/python -m sphinx -b html -E -q -W --keep-going -j auto $(ARGS) docs docs/_build/html
	@echo "The site is at docs/_build/html/index.html."

gallery: $(STAMP)
	@set -e; for script in docs/gallery/$(or $(ARGS),[a-z]*).py; do \
	  echo "Executing $$script ..."; MPLBACKEND=Agg $(BIN)/python "$$script"; done

venv: $(STAMP)

# The stamp is written last, so an interrupted installation is taken up again, in the same folder.
# Of an existing environment only an interpreter that does not start is replaced.
$(STAMP): pyproject.toml
	@$(BIN)/python -c '' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed, this is " + sys.version.split()[0] + "; choose another with: make PYTHON=...")' && \
	  rm -f $(BIN)/python*  && $(PYTHON) -m venv --without-pip $(VENV); }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null || { \
	  echo "pip could not be set up in $(VENV): Python's ensurepip is missing (on Debian and Ubuntu: the package python3-venv)." >&2; exit 1; }
	@echo "Installing pyro_vipaint and its dependencies into $(VENV): once, a few minutes, PyTorch is large ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint '$(CONSTRAINTS)') --editable '.[dev]'
	@touch $@

# build/ goes first: what an older version left there would travel into the wheel.
wheel-check:
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; trap 'exit 130' INT TERM; \
	  $(PYTHON) -m venv "$$folder/venv"; rm -rf build; \
	  echo "Building the wheel and installing it in an empty environment ..."; \
	  "$$folder/venv/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$$folder/dist" .; \
	  "$$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$$folder"/dist/*.whl; \
	  cd "$$folder"; "$$folder/venv/bin/python" -I "$(CURDIR)/.ci/smoke.py"

clean:
	rm -rf build dist docs/_build docs/notebooks docs/api/generated docs/api/modules docs/api/*.rst pyro_vipaint.egg-info .pytest_cache .ruff_cache .coverage htmlcov
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
