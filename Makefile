# `make demo` and `make test` do all the set-up themselves: a virtual environment in .venv, and pip install.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA := data/digitscenes
RUN := runs/demo/pretrain
LAB := runs/lab/digitscenes
TASKS := retrieval vqa ve nlvr_pretrain nlvr grounding

.PHONY: demo demo-tasks lab test test-cuda lint clean

demo: $(STAMP)
	$(BIN)/python tools/make_demo_data.py --out $(DATA) --val 100
	rm -rf $(RUN)
	$(BIN)/python tools/train.py configs/demo/pretrain.yaml output_dir=$(RUN)
	$(BIN)/python tools/evaluate.py $(RUN) --split test
	$(BIN)/python tools/flops.py --config configs/demo/pretrain.yaml
	@echo "Look at: the patches that captions keep in $(RUN)/sheets,"
	@echo "         the curves with $(BIN)/tensorboard --logdir runs/demo,"
	@echo "         each step in $(RUN)/log.jsonl, and the figures in $(RUN)/eval."

# Each task twice, from what the demo has learnt and from nothing; nlvr starts from nlvr_pretrain, as published.
demo-tasks: $(STAMP)
	test -e $(RUN)/best.pt || $(MAKE) demo
	rm -rf runs/demo/scratch runs/demo/tuned
	set -e; for task in $(TASKS); do \
	    from=$(RUN); if [ $$task = nlvr ]; then from=runs/demo/tuned/nlvr_pretrain; fi; \
	    $(BIN)/python tools/train.py configs/demo/$$task.yaml --init $$from output_dir=runs/demo/tuned/$$task; \
	    $(BIN)/python tools/evaluate.py runs/demo/tuned/$$task; \
	    $(BIN)/python tools/train.py configs/demo/$$task.yaml output_dir=runs/demo/scratch/$$task; \
	    $(BIN)/python tools/evaluate.py runs/demo/scratch/$$task; \
	done
	$(BIN)/python tools/compare.py --column 'no pre-training=runs/demo/scratch' --column ours=runs/demo/tuned

# All reducers at one budget with five seeds: one to two hours on two cores. Stopped, it goes on where it was.
lab: $(STAMP)
	$(BIN)/python tools/make_demo_data.py --out data/digitscenes-cluttered --image-size 96 --clutter 1 --val 100 --test 400
	$(BIN)/python tools/sweep.py configs/lab/digitscenes.yaml --jobs 2 --out $(LAB)
	@echo "The report is $(LAB)/report.md, with its pictures and results.csv beside it."

test: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist worksteal

# What needs a GPU, and what it brings there: time and memory of a training step as ratios to that without reduction.
test-cuda: $(STAMP)
	$(BIN)/python -m pytest -q -rs tests/cuda
	if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	    $(BIN)/python tools/benchmark.py --config configs/pretrain.yaml reducer.name=none --amp bf16 --memory \
	        --against configs/pretrain.yaml --reducer tome --reducer evit --with train.recompute=light; \
	else \
	    echo "There is no CUDA device here: nothing was measured."; \
	fi

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
