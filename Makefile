# The environment is .venv: made once, made anew when the pinned requirements change.
#   PYTHON         the Python it is made from (3.11 or newer)
#   TORCH          cpu: the CPU build of PyTorch, which on Linux is not the default (200 MB instead of 6 GB)
#   TORCH_OPTIONS  further pip options for PyTorch alone: see requirements/torch.txt
# bench reads so many TOKENS of CORPUS with MODEL (a name, or a folder: where that holds only a config.json,
# with random weights and the tokenizer in the folder TOKENIZER), for all of its PARTS or those named.

PYTHON ?= python3
TORCH ?=
TORCH_OPTIONS ?=
UV ?= uv

# Packages come without bytecode: where Python is told not to write any, each command would compile for 10 s.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
# Bytecode is made when a module is first imported, as most of them never are.
PIP := -m pip --disable-pip-version-check install -qq --no-compile
LOCKED := --no-deps --require-hashes --no-build-isolation
PINS := requirements/build.txt requirements/lock.txt requirements/torch.txt

CORPUS ?= ingest/embedded/corpus.jsonl
MODEL ?= neox-2m
TOKENIZER ?=
TOKENS ?= 30000
# Test files that neither start processes nor annotate a corpus for long; all others take minutes.
FAST := pythia spreadsheets tokens permutation held_out formats characters_shown phrase wheel fused score_intervals \
	storable spans broken_models gguf harmless_output every_type hostile_endpoint environment release tools docs
PARTS ?=

.DEFAULT_GOAL := help
.PHONY: help demo app test test-fast coverage soak mutants lint docs notebook site bench wheel-check release lock clean

help:
	@echo "make demo         annotate the embedded corpus with the embedded model, into demo.duckdb"
	@echo "make app          open demo.duckdb in the browser"
	@echo "make test         run the tests"
	@echo "make test-fast    run those that take a minute and a half together"
	@echo "make coverage     run them, and print which share of the lines they reach"
	@echo "make soak         run them with every member of their long lists of parameters (an hour)"
	@echo "make mutants      make each wrong change of tests/mutants, and see that a test fails (half an hour)"
	@echo "make lint         check style, format and types"
	@echo "make docs         write the tables of docs/ from code, schema and figures"
	@echo "make notebook     run examples/tutorial.ipynb, and write what it prints and docs/tutorial.md"
	@echo "make site         build the pages of docs/ as a site, into build/site"
	@echo "make bench        measure, some minutes, and write the figures into benchmarks/RESULTS.md"
	@echo "make wheel-check  build the wheel, install it apart and run its demo outside the checkout"
	@echo "make release      build and check what is to be published, into dist, and list it"
	@echo "make lock         choose the pinned versions anew (needs uv); UPGRADE= keeps those there"
	@echo "make clean        remove the environment, caches and what was built; databases stay"
	@echo
	@echo "make demo TORCH=cpu takes the CPU build of PyTorch: 200 MB instead of 6 GB on Linux."
	@echo "demo, test, mutants, lint, docs, notebook, site and bench first make $(VENV), with $(PYTHON); PYTHON=… names another one."

demo: $(VENV)/installed
	$(VENV)/bin/annotate demo --db demo.duckdb

app: $(VENV)/installed
	$(VENV)/bin/annotate app --db demo.duckdb

# Three workers for two cores, because many tests wait for processes, files and browsers.
test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(FAST:%=tests/test_%.py)

coverage: $(VENV)/installed
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --cov --cov-report=term $(FAST:%=tests/test_%.py)

soak: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --every

mutants: $(VENV)/installed
	$(VENV)/bin/python -m tools.mutants

# mypy finds the folders by the names that they are imported by.
LINKS := build/links/annotate_transformer
lint: $(VENV)/installed
	@mkdir -p $(LINKS)
	@ln -sfn $(addprefix $(CURDIR)/,package/__init__.py app ingest store) $(LINKS)/
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m ruff format --check
	$(VENV)/bin/python -m mypy

docs: $(VENV)/installed
	$(VENV)/bin/python -m tools.docs

notebook: $(VENV)/installed
	$(VENV)/bin/python -m tools.notebook

# Every warning is an error.
site: $(VENV)/installed
	$(VENV)/bin/python -m sphinx -q -W --keep-going -E -a -d build/doctrees docs build/site

bench: $(VENV)/installed
	$(VENV)/bin/python benchmarks/suite.py "$(CORPUS)" --model "$(MODEL)" --tokens $(TOKENS) \
		$(if $(TOKENIZER),--tokenizer "$(TOKENIZER)") $(if $(PARTS),--parts $(PARTS))

$(VENV)/installed: $(PINS) pyproject.toml
	@$(call make_environment,$(VENV))
	@echo "Installing annotate itself, editable"
	@$(VENV)/bin/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# The wheel must do by itself, in an environment and a folder that never saw the checkout: this one
# has $(VENV)'s packages by a path at the end, and paths there do not lead on to an editable install.
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
wheel-check: $(VENV)/installed
	@set -e; apart=$$(mktemp -d); trap 'rm -rf "$$apart"' EXIT; mkdir "$$apart/empty"; \
	echo "Building the wheel and installing it"; \
	$(VENV)/bin/python -m pip --disable-pip-version-check wheel -qq \
		--no-deps --no-build-isolation -w "$$apart" .; \
	$(VENV)/bin/python -m venv --without-pip "$$apart/venv"; \
	$(VENV)/bin/python -c '$(PURELIB)' > \
		"$$("$$apart/venv/bin/python" -c '$(PURELIB)')/locked.pth"; \
	"$$apart/venv/bin/python" $(PIP) --no-deps --ignore-installed "$$apart"/*.whl; \
	"$$apart/venv/bin/python" -m pip --disable-pip-version-check check; \
	cd "$$apart/empty"; "$$apart/venv/bin/python" -c \
		'import annotate_transformer as at, sys; assert at.__file__.startswith(sys.prefix), at.__file__'; \
	echo "annotate demo --db demo.duckdb, in an empty folder"; \
	"$$apart/venv/bin/annotate" demo --db demo.duckdb

# Refused while the changelog has no dated section for the version.
release: $(VENV)/installed
	@$(VENV)/bin/python -m tools.release
	@$(MAKE) --no-print-directory wheel-check
	@rm -rf dist
	@$(VENV)/bin/python -m tools.release dist

# $(1): the environment's folder. PyTorch comes last: all it needs but CUDA is then there, pinned.
define make_environment
	set -e; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "This needs Python 3.11 or newer, and $(PYTHON) is not: name one, as in make PYTHON=python3.11"; exit 1; }; \
	$(check_torch); \
	echo "Making the environment $(1)"; \
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1); \
	$(1)/bin/python $(PIP) $(LOCKED) -r requirements/build.txt; \
	echo "Installing the locked dependencies"; \
	$(1)/bin/python $(PIP) $(LOCKED) -r requirements/lock.txt; \
	$(call install_torch,$(1))
endef

# Told before anything is downloaded.
define check_torch
	case "$(TORCH)" in \
		"") ;; \
		cpu) test -n "$(TORCH_OPTIONS)" || command -v $(UV) >/dev/null || { echo "TORCH=cpu needs uv, which is not \
	installed. Install it, or name PyTorch's CPU index in TORCH_OPTIONS: see requirements/torch.txt"; exit 1; } ;; \
		*) echo "TORCH=$(TORCH): only cpu can be chosen"; exit 1 ;; \
	esac
endef

ifeq ($(shell uname -s)$(TORCH_OPTIONS),Linux)
TORCH_SIZE := : with CUDA a download of about 6 GB. Without a GPU stop here, and add TORCH=cpu for 200 MB
endif

# A build of the pinned version that is already there is kept, whatever TORCH says.
TORCH_PIN := $(shell sed -n 's/^torch==//p' requirements/torch.txt)
HAS_TORCH := from importlib.metadata import version; assert version("torch").split("+")[0] == "$(TORCH_PIN)"
define install_torch
	if $(1)/bin/python -c '$(HAS_TORCH)' 2>/dev/null; then \
		echo "PyTorch $(TORCH_PIN) is there, and its build is kept"; \
		$(1)/bin/python $(PIP) -r requirements/torch.txt; \
	elif test "$(TORCH)" = cpu && test -z "$(TORCH_OPTIONS)"; then \
		echo "Installing the CPU build of PyTorch, a download of about 200 MB"; \
		$(UV) pip install -q --python $(1)/bin/python --torch-backend cpu -r requirements/torch.txt; \
	else \
		echo "Installing PyTorch$(TORCH_SIZE)"; \
		$(1)/bin/python $(PIP) $(TORCH_OPTIONS) -r requirements/torch.txt; \
	fi
endef

# Hashes, and neither addresses nor PyTorch and what only its CUDA build needs.
# UPGRADE= keeps the pins that are there and adds what is missing.
UPGRADE ?= --upgrade
COMPILE := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate $(UPGRADE)
WITHOUT := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-, \
	cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse \
	cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)

lock:
	$(COMPILE) --extra dev pyproject.toml $(addprefix --no-emit-package ,$(WITHOUT)) \
		-c requirements/constraints.txt -c requirements/torch.txt -o requirements/lock.txt
	$(COMPILE) requirements/build.in -c requirements/lock.txt -o requirements/build.txt
	@! grep -n -E '^(nvidia|cuda|triton|torch)|://|file:|index' requirements/lock.txt requirements/build.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find app ingest package store tests -name __pycache__ -prune -exec rm -rf {} +
