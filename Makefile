# `make notebooks` and `make test` are all a newcomer needs; the rest is for those who change things.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
SOURCES := saetools tests tools benchmarks notebooks docs
# Two workers of one thread, which get whole files, the longest first: tests/conftest.py has the list.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: notebooks style check test nightly lab site site-test update-outputs lecture lecture-test check-everywhere clean

notebooks: $(VENV)/ready  ## execute every notebook; executed copies and their pages under build/
	@$(BIN)/python tools/notebooks.py run

style: $(VENV)/ready
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

check: style  ## a minute, for while you edit: style, types, doctests, and the quick unit tests
	$(PYTEST) -m "not nightly and not slow" saetools tests

test: style  ## before you push: style, types, all tests, and the notebooks under strict nbval
	$(PYTEST)

nightly: style  ## everything, at full size
	$(PYTEST) -m ""

lab: $(VENV)/ready  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

site: $(VENV)/ready  ## the README, the series and the reference as pages, build/site/index.html
	@$(BIN)/python -m sphinx -W --keep-going -q -c docs -d build/doctrees . build/site

site-test: $(VENV)/browser site  ## every page in Chromium, at two widths, light and dark
	SITE=build/site $(PYTEST) --dist load -m "" -rs tests/site

update-outputs: $(VENV)/ready  ## re-execute the notebooks and rewrite their committed outputs
	@$(BIN)/python tools/notebooks.py update

lecture: $(VENV)/ready  ## lecture-version/: the notebooks without outputs, answers and solutions
	@$(BIN)/python tools/lecture.py

lecture-test: $(VENV)/ready  ## each of them runs, with the solutions put back
	$(PYTEST) -m "" --dist load tests/notebooks/test_lecture.py

check-everywhere: $(VENV)/ready  ## the committed outputs again, with other threads and instruction sets
	@$(BIN)/python tools/check_everywhere.py

# Playwright alone is 165 MB, and the browser comes from elsewhere (Debian: apt install chromium).
$(VENV)/browser: $(VENV)/ready
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[browser]"
	@touch $@

# Made anew when the list of dependencies changes.
$(VENV)/ready: pyproject.toml constraints.txt tools/setup_venv.py
	@command -v "$(PYTHON)" >/dev/null || { echo "set-up: $(PYTHON) was not found: install Python 3.11 or newer, or say make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" tools/setup_venv.py $(VENV)

clean:
	rm -rf $(VENV) build lecture-version
