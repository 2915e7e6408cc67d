# `make run` and `make test` do all the set-up themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: run examples test lint clean

run: $(VENV)/installed
	$(BIN)/python model.py inference --weights weights --input_folder input_folder --output_folder output_folder

# The pictures that the README shows.
examples: $(VENV)/installed
	$(BIN)/python model.py inference --weights weights --input_folder input_folder --output_folder output_folder/examples --save overlay
	cp output_folder/examples/*.png test_examples/

# Two processes, each with whole files of tests: TensorFlow traces on one core.
test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/installed: requirements.txt
	@PYTHON="$(PYTHON)" sh scripts/make_venv.sh $(VENV) requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@PYTHON="$(PYTHON)" sh scripts/make_venv.sh $(VENV) requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) output_folder/*
