# `make demo` and `make test` do all the set-up themselves: a virtual environment in .venv, and pip install.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA := data/digitscenes
RUN := runs/demo/pretrain

.PHONY: demo test lint clean

demo: $(STAMP)
	$(BIN)/python tools/make_demo_data.py --out $(DATA) --val 100
	rm -rf $(RUN)
	$(BIN)/python tools/train.py configs/demo/pretrain.yaml output_dir=$(RUN)
	$(BIN)/python tools/evaluate.py $(RUN) --split test
	$(BIN)/python tools/flops.py --config configs/demo/pretrain.yaml
	@echo "Look at: the patches that captions keep in $(RUN)/pictures,"
	@echo "         the curves with $(BIN)/tensorboard --logdir runs/demo,"
	@echo "         each step in $(RUN)/log.jsonl, and the figures in $(RUN)/eval."

test: $(STAMP)
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy elip reducers tasks tools

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PIP_ARGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[demo,dev]'
	@touch $(STAMP)
