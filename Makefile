# Targets. Each sets up what it needs, in .venv and build/; one library for sound, at
# the end, lies elsewhere.
# Needs Python 3.11 or newer, a C++20 compiler, make, and a package registry that pip can reach.

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TESTS ?= tests
# Many tests mostly wait, for servers to start and to stop: two files at a time. `ARGS="-n 0 -s"` is one.
PARALLEL := -n 2 --dist loadfile

# The first of these that is new enough makes the virtual environment; PYTHON=/path/to/python3.12 decides.
PYTHONS := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11

# A change in any of these, or a file added or removed, compiles and installs again (incrementally).
NATIVE := CMakeLists.txt rwkv_native/_build.py $(shell find native -type d -o -name '*.h' -o \
	-name '*.cpp' -o -name '*.inl' -o -name CMakeLists.txt)

CXX_FILES = $(shell find native tests/native tests/fuzz -name '*.h' -o -name '*.cpp' -o -name '*.inl')

# Tests look for cmake and ninja on the path.
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.PHONY: FORCE build serve test soak lint bench peers clean help

build: $(VENV)/.installed $(VENV)/.browser-files  ## set everything up: .venv with the package, editable (the default)

serve: build $(VENV)/.sound  ## serve the demo model on http://127.0.0.1:8000 (ARGS="--port 8001 --model X.pth")
	@$(BIN)/rwkv-native serve $(ARGS)

test: build $(VENV)/.sound  ## run all tests with reduced counts (TESTS=tests/unit ARGS="-k name")
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS) $(ARGS)

soak: build $(VENV)/.sound  ## run all tests with full counts
	RWKV_SOAK=1 $(BIN)/python -m pytest $(TESTS) $(ARGS)

lint: build  ## check style and formatting; `make lint ARGS=--fix` repairs what it can
	$(BIN)/ruff check $(ARGS) .
	$(BIN)/ruff format $(if $(filter --fix,$(ARGS)),,--check) .
	$(BIN)/clang-format $(if $(filter --fix,$(ARGS)),-i,--dry-run -Werror) $(CXX_FILES)

bench: build  ## print the benchmark tables (minutes; wants an idle machine)
	$(BIN)/python benchmarks/model.py $(ARGS)
	$(BIN)/python benchmarks/bindings.py

peers: build  ## print our speed beside llama.cpp and others (long; ARGS="--only 0.1B")
	$(BIN)/python benchmarks/peers.py $(ARGS)

clean:  ## remove everything that make made
	rm -rf $(VENV) build dist web/static/vendor .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Four steps, each with a stamp, so that a second `make` is instant and a changed kernel costs only its
# own compilation. The build runs without isolation: an isolated one would unpack CMake every time.

$(BIN)/python:
	@found=; for p in $(PYTHONS); do \
	  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	  then found=$$p; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo "make: Python 3.11 or newer was not found; name one with: make PYTHON=/path/to/python3"; \
	  exit 1; fi; \
	include=$$($$found -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	if [ ! -f "$$include/Python.h" ]; then \
	  echo "make: the headers of $$found are missing ($$include/Python.h);" \
	    "Debian and Ubuntu: apt install python3-dev"; \
	  exit 1; fi; \
	if ! command -v $${CXX:-c++} >/dev/null 2>&1; then \
	  echo "make: no C++ compiler ($${CXX:-c++}) was found; Debian and Ubuntu: apt install g++"; \
	  exit 1; fi; \
	echo "[1/4] a virtual environment, $(VENV)"; \
	if ! $$found -m venv $(VENV); then \
	  rm -rf $(VENV); \
	  echo "make: $$found cannot make a virtual environment;" \
	    "Debian and Ubuntu: apt install python3-venv"; \
	  exit 1; fi

$(VENV)/.tools: pyproject.toml | $(BIN)/python
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))\
	["build-system"]["requires"], sep="\n")' >$(VENV)/build-requires.txt
	@echo "[2/4] tools to build with (half a minute)"
	@$(BIN)/pip install --quiet --requirement $(VENV)/build-requires.txt
	@touch $@

# Without npm or a network this says what is missing, and the rest goes on; the next make tries again.
$(VENV)/.browser-files: web/static/_build.py web/static/package.json web/static/package-lock.json \
		| $(BIN)/python
	@echo "[3/4] libraries of the pages in the browser"
	@if $(BIN)/python web/static/_build.py; then touch $@; fi

# An editable install knows each module by its place: one that has moved is installed anew.
$(VENV)/.modules: FORCE | $(BIN)/python
	@find rwkv_native web -name '*.py' | LC_ALL=C sort >$@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(VENV)/.installed: $(VENV)/.tools $(VENV)/.modules pyproject.toml $(NATIVE) | $(VENV)/.browser-files
	@echo "[4/4] the engine, compiled for every instruction set, and what it needs (two to five minutes)"
	@$(BIN)/pip install --quiet --no-build-isolation --editable '.[test]'
	@touch $@

# The one thing outside of .venv and build: the library that turns MIDI into sound, where root and apt
# can get it without asking anybody. Tried once; everything but sound works without it.
$(VENV)/.sound: | $(BIN)/python
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && \
	    ! ldconfig -p 2>/dev/null | grep -q 'libfluidsynth\.so'; then \
	  echo "installing libfluidsynth3, for sound"; \
	  export DEBIAN_FRONTEND=noninteractive; get="apt-get -q -o DPkg::Lock::Timeout=60"; \
	  { timeout 120 $$get update && timeout 300 $$get install -y --no-install-recommends \
	    libfluidsynth3; } >/dev/null 2>&1 </dev/null || echo "not installed: libfluidsynth3"; \
	fi
	@touch $@
