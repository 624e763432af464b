# make demo       the three scripts on the synthetic set, small, then the verdicts (under 5 minutes on 2 cores)
# make study      a small part of the study: 18 runs, then the report (under 15 minutes on 2 cores); on CIFAR-100 if
#                 data/ holds it, else on the synthetic set
# make test       the quick tests: every module, every script, every bad input; then style. Two processes of one thread
# make test-slow  the other tests: killed processes, several processes, torch.compile, all networks and circuits
# make test-all   both, each test once
# make hardware   installs requirements-hardware.txt (Qiskit, Aer, IBM's runtime) and tests/requirements.txt (ONNX,
#                 TensorBoard), and runs the tests that need them
# make cpu        .venv with torch's CPU build, before any of the above: without CUDA's libraries (4 GB)
# Each creates .venv on first use (5.2 GB), with uv where there is one, else with pip. In an active conda environment
# that has the packages, they use that one.

PYTHON ?= python3
CONDA := $(shell test -n "$$CONDA_PREFIX" && "$$CONDA_PREFIX/bin/python" -c "import torch, pennylane, pytest, xdist" 2>/dev/null && echo "$$CONDA_PREFIX")
BIN := $(if $(CONDA),$(CONDA)/bin,.venv/bin)
READY := $(if $(CONDA),,.venv/installed)
PY := $(BIN)/python
CPU_BUILDS := https://download.pytorch.org/whl/cpu
SMALL := studies/$(if $(wildcard data/cifar-100-python/test),small,small_synthetic).toml
IN_TWO := $(PY) -m pytest -n 2 --dist loadfile
# First, so that neither process waits for the other at the end; xdist would begin with the files of most tests.
LONGEST := tests/test_killed.py tests/test_sweep.py tests/test_distributed.py tests/test_scripts.py
DEMO := --dataset synthetic --weights none --img-size 32 --epochs 4 --run-dir runs/demo --no-resume

.PHONY: cpu demo study test test-slow test-all hardware lint requirements clean
.NOTPARALLEL:  # the tests use both cores of a small machine already, and some have a time limit

demo: $(READY)
	@echo "SYNTHETIC DATA: 3,200 made-up training images, 4 epochs; the numbers say nothing about CIFAR-100"
	$(PY) cifar100_baseline.py $(DEMO)
	$(PY) cifar100_quantum_channels.py $(DEMO)
	$(PY) cifar100_hybrid_Qhead.py $(DEMO) --epochs-warmup 1
	$(PY) compare_runs.py runs/demo || test $$? = 3  # 3: undecided, as one seed must be

study: $(READY)
	$(PY) sweep.py $(SMALL) --keep none
	$(PY) compare_runs.py $(basename $(SMALL:studies/%=runs/%)) || test $$? = 3  # 3: something is undecided, as it should be

test: $(READY)
	$(PY) -m tests.helpers.halves
	@$(MAKE) --no-print-directory lint

test-slow: $(READY)
	$(IN_TWO) --no-loadscope-reorder -m "slow and not hardware" $(LONGEST) tests  # a file's tests share what it has prepared

test-all: test test-slow

hardware: $(BIN)/hardware-installed
	$(IN_TWO) -m hardware tests/hardware
	$(IN_TWO) tests/test_export_head.py tests/test_events.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	rm -rf .venv
	if command -v uv >/dev/null; then \
		uv venv --python $(PYTHON) .venv && uv pip install --compile-bytecode --python $(PY) -r requirements.txt; \
	else \
		$(PYTHON) -m venv .venv && $(PY) -m pip install --disable-pip-version-check -r requirements.txt; \
	fi
	touch $@

$(BIN)/hardware-installed: requirements-hardware.txt tests/requirements.txt $(READY)
	if command -v uv >/dev/null; then \
		uv pip install --compile-bytecode --python $(PY) $(patsubst %,-r %,$(filter %.txt,$^)); \
	else \
		$(PY) -m pip install --disable-pip-version-check $(patsubst %,-r %,$(filter %.txt,$^)); \
	fi
	touch $@

cpu:
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(PY) -m pip install $$(grep -oE '^(torch|torchvision)==[^ ]+' requirements.txt) --index-url $(CPU_BUILDS)
	grep -vE '^(torch|torchvision|triton|nvidia-|cuda-)' requirements.txt > .venv/requirements.txt
	$(PY) -m pip install --disable-pip-version-check -r .venv/requirements.txt
	touch .venv/installed

# Pins every direct and transitive package for Python 3.11 and later on all platforms; needs uv.
requirements: requirements.in
	uv pip compile --universal --python-version 3.11 --no-header --no-emit-index-url requirements.in -o requirements.txt

clean:
	rm -rf .venv runs/demo
