VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
# the first Python on the path that is new enough
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
SYSTEM_PYTHON = $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c '$(NEW_ENOUGH)' 2>/dev/null && echo $(name))))
VIDEOS ?= ../shared/data/natural
FOOTAGE ?= ../shared/data/train
PHOTOS ?= $(FOOTAGE)/photos
CACHE ?= cache/train
PRECISION ?= bf16
RUNS ?= runs
LPIPS ?= ../shared/metrics/lpips_squeeze.safetensors
TEST_PROCESSES ?= 2
INSTALLED = $(VENV)/.installed
SOURCES = $(shell find codec motion_vq unet3d videotok -name '*.py' -o -name '*.safetensors')

help: ## Say what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /	/'

setup: $(INSTALLED) ## Make the virtual environment and install videotok into it

$(INSTALLED): pyproject.toml
	@[ -x $(PYTHON) ] || [ -n "$(SYSTEM_PYTHON)" ] || { echo "videotok needs Python 3.11 or later: none is on the path" >&2; exit 1; }
	[ -x $(PYTHON) ] || $(SYSTEM_PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): some minutes, and gigabytes where PyTorch comes with CUDA"
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: demo/figures.txt demo/tokens.html ## Encode and decode a sample clip, measure it, and say where to look
	@cat demo/figures.txt
	@echo
	@echo "Source, warped keyframes and result side by side: demo/out-compare.mp4"
	@echo "Keyframes, kept patches and motion of every clip:  demo/tokens.html"
	@echo "Next, a video of your own: $(VENV)/bin/videotok encode VIDEO, then decode; --help lists the options"

# each step runs again when what it is made from has changed: the code, the weights or the step before
demo/clip.mp4: $(INSTALLED)
	@mkdir -p demo
	$(VENV)/bin/videotok sample $@ --force

demo/clip.vtok: demo/clip.mp4 $(SOURCES)
	$(VENV)/bin/videotok encode demo/clip.mp4 -o $@ --force

demo/figures.txt: demo/clip.vtok
	$(VENV)/bin/videotok decode demo/clip.vtok -o demo/out.mp4 --compare demo/clip.mp4 --force > $@.part
	@mv $@.part $@

demo/tokens.html: demo/clip.vtok
	$(VENV)/bin/videotok inspect demo/clip.vtok --tokens --source demo/clip.mp4 -o $@ --force

check: $(INSTALLED) ## Lint, format, types, import directions
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m pyright --pythonpath $(PYTHON)
	$(VENV)/bin/lint-imports

# each process runs a file at a time, in order, since the tests of a file share what they make; one thread each
test: $(INSTALLED) ## The tests: CPU, offline, a few minutes
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

bench: $(INSTALLED) ## Rate and quality of the reconstruction of VIDEOS
	$(PYTHON) -m benchmarks.reconstruction $(VIDEOS) --json results/reconstruction.json

figures: $(INSTALLED) ## Measure what changed since and renew the tables of README and cards (docs/figures.json)
	$(PYTHON) -m benchmarks.figures $(VIDEOS) --lpips $(LPIPS)

docs: $(VENV)/.installed-docs ## The documents as a site in site/; needs no network once it is set up
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet
	@echo "The site: site/index.html"

$(VENV)/.installed-docs: $(INSTALLED)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

package: $(INSTALLED) ## The wheel, alone in an empty environment: does it run, are its types seen?
	.ci/package $(PYTHON)

tree: ## Renew the list of files in docs/architecture.md
	$(PYTHON) docs/tree.py

train: $(RUNS)/bundle/.done ## Train all three models from FOOTAGE (hours on a CPU) into RUNS/bundle, for --model

# A run that was stopped goes on with the same command. LPIPS, a network that is not part of the package, makes keyframes and
# frames sharper; without the file, what needs it is left out. MINUTES is a time limit for each run. KEYFRAMES_CONFIG names a
# JSON file with the options of another keyframe tokenizer than the small default one.
TRAIN = $(VENV)/bin/videotok train
OPTIONS = --precision $(PRECISION) $(if $(MINUTES),--max-minutes $(MINUTES)) $(if $(wildcard $(@D)/checkpoint*),--resume)
WITH_LPIPS = $(if $(wildcard $(LPIPS)),--lpips $(LPIPS))
KEYFRAME_RUNS = $(RUNS)/keyframes/.done $(if $(WITH_LPIPS),$(RUNS)/keyframes-adversarial/.done)

$(CACHE)/.done: | $(INSTALLED)
	if [ -d $(PHOTOS) ]; then \
		$(TRAIN) synthesize $(PHOTOS) $(CACHE)-synthetic --videos $(FOOTAGE) $(if $(SYNTHETIC),--count $(SYNTHETIC)) && \
		$(TRAIN) prepare $(CACHE)-synthetic $(CACHE); \
	fi
	$(TRAIN) prepare $(FOOTAGE) $(CACHE)
	touch $@

$(RUNS)/keyframes/.done: $(CACHE)/.done
	$(TRAIN) keyframes $(CACHE) --out $(@D) $(if $(KEYFRAMES_CONFIG),--config $(KEYFRAMES_CONFIG)) $(WITH_LPIPS) $(OPTIONS)
	touch $@

# against a discriminator, the detokenizer alone
$(RUNS)/keyframes-adversarial/.done: $(RUNS)/keyframes/.done
	$(TRAIN) keyframes $(CACHE) --out $(@D) --from $(RUNS)/keyframes/best --adversarial $(WITH_LPIPS) $(OPTIONS)
	touch $@

$(RUNS)/motion/.done: $(CACHE)/.done
	$(TRAIN) motion $(CACHE) --out $(@D) $(OPTIONS)
	touch $@

# the mixture of motion candidates
$(RUNS)/mixture/.done: $(RUNS)/motion/.done
	$(TRAIN) detokenizer $(CACHE) --out $(@D) --tokenizer $(RUNS)/motion/best $(OPTIONS)
	touch $@

# the refiner after it, on keyframes decoded from tokens
$(RUNS)/detokenizer/.done: $(RUNS)/mixture/.done $(RUNS)/bundle/keyframes/config.json
	$(TRAIN) detokenizer $(CACHE) --out $(@D) --from $(RUNS)/mixture/best --tokenizer $(RUNS)/motion/best \
		--keyframes $(RUNS)/bundle/keyframes --refiner-widths 32,64,96,128 --refiner-blocks 1,2,3,2 --refiner-only \
		$(WITH_LPIPS) $(OPTIONS)
	touch $@

$(RUNS)/bundle/keyframes/config.json: $(KEYFRAME_RUNS)
	$(TRAIN) export keyframes $(RUNS)/keyframes $(@D) \
		$(if $(WITH_LPIPS),--interpolate-with $(RUNS)/keyframes-adversarial --share 0.7)

$(RUNS)/bundle/.done: $(RUNS)/detokenizer/.done
	$(TRAIN) export motion $(RUNS)/motion $(RUNS)/bundle/motion
	$(TRAIN) export detokenizer $(RUNS)/detokenizer $(RUNS)/bundle/detokenizer
	touch $@

.PHONY: help setup demo check test bench figures docs package tree train
