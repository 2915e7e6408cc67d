# `make run` and `make test` do all the set-up themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Two processes, each with whole files of tests: TensorFlow traces on one core.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: run examples test test-all lint docs clean

run: $(VENV)/installed
	$(BIN)/python model.py inference --weights weights --input_folder input_folder --output_folder output_folder

# The images that the README shows.
examples: $(VENV)/installed
	$(BIN)/python model.py inference --weights weights --input_folder input_folder --output_folder output_folder/examples --save overlay
	cp output_folder/examples/*.png test_examples/

test: lint
	$(PYTEST) -m "not slow"

# Then the slow ones, and the documentation: what CI runs.
test-all: test docs
	$(PYTEST) -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Strict: a dead link or a name that can't be documented fails.
docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/installed: requirements.txt
	@PYTHON="$(PYTHON)" sh scripts/make_venv.sh $(VENV) requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@PYTHON="$(PYTHON)" sh scripts/make_venv.sh $(VENV) requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) output_folder/* site
