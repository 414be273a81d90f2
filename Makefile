# `make notebooks` and `make test` are all a newcomer needs; the rest is for those who change things.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := saetools tests tools benchmarks notebooks docs

.PHONY: notebooks test lab docs update-outputs check-everywhere clean

notebooks: $(VENV)/ready  ## execute every notebook; executed copies and HTML under build/
	@$(BIN)/python tools/notebooks.py run

test: $(VENV)/ready  ## style, types, unit tests, doctests, and the notebooks under strict nbval
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

lab: $(VENV)/ready  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

docs: $(VENV)/ready  ## the reference from the docstrings, build/reference/saetools.html
	@$(BIN)/python tools/reference.py

update-outputs: $(VENV)/ready  ## re-execute the notebooks and rewrite their committed outputs
	@$(BIN)/python tools/notebooks.py update

check-everywhere: $(VENV)/ready  ## the committed outputs again, with other threads and instruction sets
	@$(BIN)/python tools/check_everywhere.py

# Made anew when the list of dependencies changes.
$(VENV)/ready: pyproject.toml constraints.txt tools/setup_venv.py
	@command -v "$(PYTHON)" >/dev/null || { echo "set-up: $(PYTHON) was not found: install Python 3.11 or newer, or say make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" tools/setup_venv.py $(VENV)

clean:
	rm -rf $(VENV) build
