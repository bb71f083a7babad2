VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
VIDEOS ?= ../shared/data/natural
FOOTAGE ?= ../shared/data/train
PHOTOS ?= $(FOOTAGE)/photos
CACHE ?= cache/train
PRECISION ?= bf16
RUNS ?= runs
LPIPS ?= ../shared/metrics/lpips_squeeze.safetensors
INSTALLED = $(VENV)/.installed

help: ## Say what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/'

setup: $(INSTALLED) ## Make the virtual environment and install videotok into it

$(INSTALLED): pyproject.toml
	[ -x $(PYTHON) ] || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(INSTALLED) ## Encode and decode a sample clip, measure it, and say where to look
	mkdir -p demo
	$(VENV)/bin/videotok sample demo/clip.mp4 --force
	$(VENV)/bin/videotok encode demo/clip.mp4 --force
	$(VENV)/bin/videotok decode demo/clip.vtok -o demo/out.mp4 --compare demo/clip.mp4 --force
	$(VENV)/bin/videotok inspect demo/clip.vtok --tokens --source demo/clip.mp4 -o demo/tokens.html --force
	@echo
	@echo "Source, warped keyframes and result side by side: demo/out-compare.mp4"
	@echo "Keyframes, kept patches and motion of every clip:  demo/tokens.html"
	@echo "Next, a video of your own: $(VENV)/bin/videotok encode VIDEO, then decode; --help lists the options"

check: $(INSTALLED) ## Lint, format, types, import directions
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m pyright --pythonpath $(PYTHON)
	$(VENV)/bin/lint-imports

test: $(INSTALLED) ## The tests: CPU, offline, a few minutes
	$(PYTHON) -m pytest

bench: $(INSTALLED) ## Rate and quality of the reconstruction of VIDEOS
	$(PYTHON) -m benchmarks.reconstruction $(VIDEOS) --json results/reconstruction.json

figures: $(INSTALLED) ## Measure what changed since and renew the tables of README and cards (docs/figures.json)
	$(PYTHON) -m benchmarks.figures $(VIDEOS) --lpips $(LPIPS)

tree: ## Renew the list of files in docs/architecture.md
	$(PYTHON) docs/tree.py

train: $(INSTALLED) ## Train all three models from FOOTAGE (hours on a CPU) into RUNS/bundle, for --model
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

.PHONY: help setup demo check test bench figures tree train
