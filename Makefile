# Each target sets up its own .venv first; only Python >= 3.11, venv, pip and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test paper-smoke paper-smoke-1 paper-smoke-2 lint types docs bench clean

$(VENV)/.package: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tools: $(VENV)/.package
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,dev,docs]'
	touch $@

quickstart: $(VENV)/.package
	$(BIN)/morphkit run gin/quickstart.gin --out runs/quickstart --overwrite

test: $(VENV)/.tools
	$(BIN)/python -m pytest

# Most of its time is compilation, which keeps one core busy: hence two processes, as little of it as
# in the tests (tests/conftest.py), and a cache for what is forgotten between runs. Figures of one
# sweep have to be in one process; the first comes late to MNIST, whose extractor the second trains.
SMOKE := OMP_NUM_THREADS=1 JAX_DISABLE_MOST_OPTIMIZATIONS=1 JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_COMPILATION_CACHE_DIR=.pytest_cache/jax-paper \
	XLA_FLAGS=--xla_cpu_use_fusion_emitters=false \
	$(BIN)/morphkit paper --scale smoke --out runs/paper/smoke
paper-smoke: $(VENV)/.tools
	$(MAKE) --jobs=2 paper-smoke-1 paper-smoke-2
paper-smoke-1:
	$(SMOKE) 10B 11 15 19 20 6 16 17 18
paper-smoke-2:
	$(SMOKE) 4 5 7 8 9 12

lint: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tools
	$(BIN)/pyright

docs: $(VENV)/.tools
	$(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.tools
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/local.py
	$(BIN)/python benchmarks/geodesic.py
	$(BIN)/python benchmarks/square.py
	$(BIN)/python benchmarks/balance.py
	$(BIN)/python benchmarks/batches.py
	$(BIN)/python benchmarks/claims.py
	$(BIN)/python benchmarks/choice.py
	$(BIN)/python benchmarks/recorded.py
	$(BIN)/python benchmarks/morphs.py
	$(BIN)/python benchmarks/unpaired.py
	$(BIN)/python benchmarks/outsiders.py
	$(BIN)/python benchmarks/densities.py
	$(BIN)/python benchmarks/arrays.py
	$(BIN)/python benchmarks/performance.py
	$(BIN)/python benchmarks/thin.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/scale_devices.py
	$(BIN)/morphkit paper --out runs/paper/cpu
	$(BIN)/python benchmarks/paper.py

clean:
	rm -rf $(VENV) site
