# demo, test, bench, lint and clean. Each sets up .venv from constraints.txt by itself, once, and reuses it.
# Needed on the machine: Python 3.11 or newer with venv, make, and a C++ compiler for the op library (optional).

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
OPS_SOURCES := CMakeLists.txt $(wildcard albert_fast/csrc/*)
comma := ,
# TensorRT-RTX, which builds engine files without a GPU, where there are wheels of it.
RTX := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(comma)tensorrt-rtx)
RESULT = benchmarks/results/$$(date +%Y-%m-%d)-$$(git rev-parse --short HEAD).json

GRID := quick

.DEFAULT_GOAL := help
.PHONY: help demo test bench grid lint ops runner torch-tensorrt clean

help:
	@echo "make demo    the embedded model, from checkpoint to engine files to predictions"
	@echo "make test    lint, then every test; options for pytest: make test PYTEST='-k tokenizer'"
	@echo "make bench   every benchmark, into benchmarks/results/; options: make bench PYTEST='-k encoder'"
	@echo "make grid    engines and peers at every shape, into benchmarks/results/, and the pages of it; GRID=full for more"
	@echo "make lint    ruff and mypy"
	@echo "make ops     the op library, into albert_fast/"
	@echo "make runner  build/cpp/albert-fast-run, which answers token ids from an engine file without Python"
	@echo "make torch-tensorrt  Torch-TensorRT-RTX, for tests of what it makes of the graphs, into a folder of its own"
	@echo "make clean   remove what was built and cached; the environment .venv stays"

demo: ops
	@$(BIN)/albert-fast demo

test: lint ops $(if $(RTX),torch-tensorrt)
	@$(BIN)/python -m pytest --durations=15 $(PYTEST)

bench: ops $(VENV)/.dev
	@mkdir -p benchmarks/results
	@$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-json=$(RESULT) $(PYTEST)

# The peers are those of the package index; all of them are timed in turns in one run, on a machine that does nothing else.
grid: ops $(VENV)/.peers
	@$(BIN)/python benchmarks/test_engines.py --grid $(GRID) $(if $(COMPARE),--compare $(COMPARE)) \
	  -o benchmarks/results/$(if $(filter quick,$(GRID)),engines,engines-$(GRID)).json
	@$(BIN)/python benchmarks/report.py

runner: $(VENV)/.run
	@$(BIN)/cmake -S export/cpp -B build/cpp -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	  -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" >/dev/null
	@$(BIN)/cmake --build build/cpp

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:
	rm -rf build dist .torch-tensorrt .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks $(VENV)/.ops albert_fast/*.so
	find albert_fast tests benchmarks tools -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# --- the environment --------------------------------------------------------------------------------------------------

# The first Python that is new enough; `make PYTHON=/path/to/python` names one.
$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "setting up $(VENV) with $$($$python --version)"; $$python -m venv $(VENV) && exit; \
	    rm -rf $(VENV); exit 1; \
	  fi; \
	done; \
	echo "albert-fast needs Python 3.11 or newer, found $$(python3 --version 2>/dev/null || echo none):" \
	  "install python3.11 with its venv module, or name one with make PYTHON=/path/to/python3.11" >&2; exit 1

# What running needs. torch goes first and alone, so that the machine's own choice of build (CPU or CUDA) stands.
$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing torch"
	@$(PIP) $$(grep '^torch==' constraints.txt)
	@echo "installing albert-fast from this tree, with ONNX Runtime$(if $(RTX), and TensorRT-RTX)"
	@$(PIP) -c constraints.txt scikit-build-core cmake ninja $(if $(RTX),tensorrt-rtx-cu13)
	@$(PIP) -c constraints.txt --no-build-isolation --editable '.[onnx$(RTX)]'
	@touch $@

# What testing, linting and benchmarking need beyond that.
$(VENV)/.dev: $(VENV)/.run
	@echo "installing what the tests need"
	@$(PIP) -c constraints.txt --no-build-isolation --editable '.[dev,hub,bench,tensorflow,tflite,onnx$(RTX)]'
	@touch $@

# What the engines are timed beside.
$(VENV)/.peers: $(VENV)/.dev
	@echo "installing the peers of the benchmarks"
	@$(PIP) -c constraints.txt --no-build-isolation --editable '.[dev,peers,tflite$(RTX)]'
	@touch $@

# Importing it would put its own TensorRT-RTX in the place of the one that .venv holds, so only subprocesses of the
# tests see this folder. It uses the torch in .venv: --no-deps keeps another one away.
torch-tensorrt: .torch-tensorrt/.installed

.torch-tensorrt/.installed: $(VENV)/.run
	@echo "installing Torch-TensorRT-RTX into .torch-tensorrt"
	@rm -rf .torch-tensorrt
	@$(PIP) --no-deps --target .torch-tensorrt torch-tensorrt-rtx==2.13.0 tensorrt_rtx_cu13==1.5.0.114 \
	  tensorrt_rtx_cu13-bindings==1.5.0.114 tensorrt_rtx_cu13-libs==1.5.0.114 psutil==7.2.2 dllist==2.0.0
	@touch $@

ops: $(VENV)/.ops

$(VENV)/.ops: $(VENV)/.run $(OPS_SOURCES)
	@if command -v "$${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null; then \
	  echo "building the op library" && \
	  $(BIN)/cmake -S . -B build/ops -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	    -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" -DALBERT_FAST_IN_PLACE=ON >/dev/null && \
	  $(BIN)/cmake --build build/ops && touch $@; \
	else \
	  echo "no C++ compiler here (c++, g++ or clang++): the op library is left out, attention runs on sdpa"; \
	fi
