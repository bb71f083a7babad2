VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
VIDEOS ?= ../shared/data/natural
FOOTAGE ?= ../shared/data/train
PHOTOS ?= $(FOOTAGE)/photos
CACHE ?= cache/train
PRECISION ?= bf16
RUNS ?= runs

help:   ## Say what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/'

setup:  ## Make the virtual environment and install videotok into it
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install -e '.[dev]'

check:  ## Lint, format, types, import directions
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m pyright --pythonpath $(PYTHON)
	$(VENV)/bin/lint-imports

test:   ## The tests: CPU, offline, a few minutes
	$(PYTHON) -m pytest

bench:  ## The ladder of reconstruction on VIDEOS
	$(PYTHON) -m benchmarks.reconstruction $(VIDEOS) --json results/reconstruction.json

tree:   ## Renew the list of files in docs/architecture.md
	$(PYTHON) docs/tree.py

train:  ## Train all three models from FOOTAGE (hours on a CPU) into RUNS/bundle, for --model
	if [ -d $(PHOTOS) ]; then \
		$(VENV)/bin/videotok train synthesize $(PHOTOS) $(CACHE)-synthetic --videos $(FOOTAGE) && \
		$(VENV)/bin/videotok train prepare $(CACHE)-synthetic $(CACHE); \
	fi
	$(VENV)/bin/videotok train prepare $(FOOTAGE) $(CACHE)
	$(VENV)/bin/videotok train motion $(CACHE) --out $(RUNS)/motion --precision $(PRECISION)
	$(VENV)/bin/videotok train keyframes $(CACHE) --out $(RUNS)/keyframes --precision $(PRECISION)
	$(VENV)/bin/videotok train detokenizer $(CACHE) --out $(RUNS)/detokenizer --tokenizer $(RUNS)/motion/best \
		--precision $(PRECISION)
	for model in motion keyframes detokenizer; do \
		$(VENV)/bin/videotok train export $$model $(RUNS)/$$model $(RUNS)/bundle/$$model || exit; \
	done

.PHONY: help setup check test bench tree train
