# `make demo` and `make test` are all that a fresh machine needs: Python 3.11 or later, make, and (for speed) a C++ compiler.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
NATIVE := $(wildcard pmsm_cli/runtime/native/*) setup.py pyproject.toml
DEMO := out/demo

# A copy of the package whose library is checked while it runs: addresses, and what C++ leaves undefined.
SANITIZED := build/sanitized
# FLAGS=-DPMSM_PORTABLE checks the loops for any processor instead of those for this one.
FLAGS ?=
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

.PHONY: demo test lint sanitize clean

demo: $(VENV)/.core
	@mkdir -p $(DEMO)
	$(VENV)/bin/pmsm convert sample_models/digits.onnx --data sample_models/digits/calibration --preprocess none \
		--timesteps 1 -o $(DEMO)/digits.snn.onnx
	$(VENV)/bin/pmsm eval $(DEMO)/digits.snn.onnx sample_models/digits/test --against sample_models/digits.onnx
	$(VENV)/bin/pmsm report $(DEMO)/digits.snn.onnx --data sample_models/digits/test

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

sanitize: $(VENV)/.test
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED) && cp -r pmsm_cli $(SANITIZED)/
	rm -f $(SANITIZED)/pmsm_cli/runtime/_native*
	$(CXX) -std=c++17 -O1 -g $(FLAGS) $(SANITIZERS) -ffp-contract=off -fno-trapping-math -fPIC -shared -fvisibility=hidden \
		pmsm_cli/runtime/native/*.cpp -o $(SANITIZED)/pmsm_cli/runtime/_native.so
	PYTHONPATH=$(SANITIZED) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		$(VENV)/bin/python -m pytest -p no:cacheprovider -o pythonpath='$(SANITIZED) tests' \
		tests/runtime tests/lowering

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "pmsm needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.python $(NATIVE)
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.python $(NATIVE)
	$(PIP) install --quiet --editable ".[test]"
	@touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) build out *.egg-info pmsm_cli/runtime/_native*.so
