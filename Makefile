# Two commands: `make demo` and `make test`. Both set everything up on their own, in .venv.
#
#   PYTHON=python3.12   another interpreter (3.11 or newer)
#   TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"   another build of PyTorch
#   OUT=folder          where the demo writes

PYTHON ?= python3
TORCH ?= torch==2.13.0
OUT ?= demo
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test lint bench clean

demo: $(VENV)/ready
	$(BIN)/ed2 demo --out $(OUT)

test: $(VENV)/ready lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/ready
	for part in decode train index; do $(BIN)/ed2 bench $$part || exit; done

# PyTorch first and by itself: as a dependency, pip would take the newest build with gigabytes of CUDA.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("ed2rec needs Python 3.11 or newer, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,tune,gpu]'
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
