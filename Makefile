# make demo | test | lint | docs | bench: each makes .venv on first use and is quick after that.
# make native: the C library, into build/native; needs cmake, g++ and nlohmann-json3-dev (docs/native.md).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint docs bench native

demo: $(STAMP)
	$(BIN)/e2e-deploy demo --out demo

# A worker a core, a file at a time; what computes in a worker keeps to one thread.
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
test: $(STAMP)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m benchmarks.readme --check

docs: $(STAMP)
	$(BIN)/python -W error -m pdoc --docformat google --no-show-source --output-directory build/docs e2e_deploy '!e2e_deploy.'

bench: $(STAMP)
	$(BIN)/python -m benchmarks.speed.cpu_vs_diffusers

native:
	native/onnxruntime_headers.sh build/onnxruntime
	cmake -S native -B build/native/release -DONNXRUNTIME_INCLUDE_DIR=$(CURDIR)/build/onnxruntime
	cmake --build build/native/release --parallel
	cmake --install build/native/release --prefix build/native/installed

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('e2e-deploy needs Python 3.11 or later: make PYTHON=python3.11' if sys.version_info < (3, 11) else 0)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,tensorrt-rtx]'
	touch $@
