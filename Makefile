# Everything happens in .venv and build/ of this folder; both may be deleted at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := build
# Python compiles what is imported, once; most of PyTorch never is. Images of containers often set this variable, by which
# each process would compile PyTorch again.
unexport PYTHONDONTWRITEBYTECODE
# Without setuptools' lines on editable installations in general, which a new pip shows although it is to be quiet.
PIP_INSTALL = PYTHONWARNINGS='ignore:Editable installation' $(BIN)/python -m pip install --quiet --no-compile

# Tests run as two processes on machines of two cores and more; each network then keeps to one thread.
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1

# Where there is no screen, a virtual one.
SCREEN := $(if $(DISPLAY),,$(if $(shell command -v xvfb-run),xvfb-run -a -s '-screen 0 1600x1200x24'))

.PHONY: demo test test-long test-slicer fuzz lint bench release clean
.DELETE_ON_ERROR:

# The base install predicts with ONNX Runtime; no torch is downloaded for a first look.
demo: $(VENV)/.installed-base
	@$(BIN)/vfm-transfer demo -o $(OUT)/demo

# A process of pytest that crashed is not replaced: with its files on another one, pytest-xdist 3.8 would never end.
PYTEST = $(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) --dist loadfile --max-worker-restart 0

test: $(VENV)/.installed-dev
	$(PYTEST)

# The trainings that take long, which `make test` leaves out.
test-long: $(VENV)/.installed-dev
	$(PYTEST) -m long

# Inside a real Slicer: make test-slicer SLICER=<its start script>. Once with a main window, and what needs none without.
SLICER ?= Slicer
IN_SLICER = $(SCREEN) "$(SLICER)" --testing --no-splash --disable-cli-modules \
  --additional-module-paths "$(CURDIR)/VFMTransfer"

test-slicer:
	$(IN_SLICER) --python-script Testing/slicer/run.py $(TESTS)
	$(IN_SLICER) --no-main-window --python-script Testing/slicer/run.py test_module test_console

# Damaged files for every reader, so many each.
FUZZ_INPUTS ?= 20000
fuzz: $(VENV)/.installed-dev
	FUZZ_INPUTS=$(FUZZ_INPUTS) $(PYTEST) Testing/library/test_hostile_files.py

# Wheel, source archive, what they need (CycloneDX) and checksums, in dist/; SIGN=<key> signs the checksums by gpg.
release:
	rm -rf dist $(OUT)/release
	$(PYTHON) -m venv $(OUT)/release/tools
	$(OUT)/release/tools/bin/python -m pip install --quiet build 'cyclonedx-bom>=5'
	$(OUT)/release/tools/bin/python -m build --outdir dist .
	$(PYTHON) -m venv --without-pip $(OUT)/release/installed
	$(OUT)/release/tools/bin/python -m pip --python $(OUT)/release/installed/bin/python install --quiet dist/*.whl
	$(OUT)/release/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/sbom.cdx.json $(OUT)/release/installed/bin/python
	cd dist && $(if $(shell command -v sha256sum),sha256sum,shasum -a 256) * > SHA256SUMS
	$(if $(SIGN),gpg --local-user $(SIGN) --armor --detach-sign dist/SHA256SUMS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python Testing/weight.py

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks -o $(OUT)/benchmarks.json
	$(BIN)/python -m benchmarks.figure $(OUT)/benchmarks.json $(OUT)/performance.svg

# The shipped pairs again, from images: make bundles DATA=<folder with a folder for each case>, or one of them, as
# bundle-super-resolution. Stopped, it goes on where it was. Hours on two cores; the recipes say everything else, but
# for SEED=1: by another seed, into a folder of its own.
TRAINING := $(OUT)/training
RECIPES := Resources/Training
# Where a pair's pretrained arm starts.
START_super-resolution := start-provicnet-synthetic
START_distortion-correction := start-provicnet-contrastive
START_adc-translation := start-provicnet-contrastive
START_lesion-segmentation := start-provicnet-contrastive
START_classification := start-provicnet-contrastive
PAIRS := super-resolution distortion-correction adc-translation lesion-segmentation classification
PAIRS_AT = $(TRAINING)$(if $(SEED),/seed-$(SEED))
FINETUNE = $(BIN)/vfm-transfer finetune "$(DATA)" -o $(PAIRS_AT) $(if $(SEED),--seed $(SEED)) --recipe
.PHONY: bundles $(PAIRS:%=bundle-%) bundle-anatomy-segmentation data-given
bundles: $(PAIRS:%=bundle-%) bundle-anatomy-segmentation

data-given:
	@test -n "$(DATA)" || { echo 'Set DATA to the folder of cases: make $(MAKECMDGOALS) DATA=<folder>' >&2; exit 1; }

bundle-anatomy-segmentation: data-given $(VENV)/.installed-dev
	$(BIN)/vfm-transfer pretrain "$(DATA)" --recipe $(RECIPES)/anatomy-segmentation.json -o $(PAIRS_AT) $(if $(SEED),--seed $(SEED))
	$(FINETUNE) $(RECIPES)/anatomy-segmentation.json --arm scratch
	$(FINETUNE) $(RECIPES)/anatomy-segmentation.json --arm pretrained --encoder $(PAIRS_AT)/encoder.safetensors

.SECONDEXPANSION:
$(PAIRS:%=bundle-%): bundle-%: data-given $(VENV)/.installed-dev | $(TRAINING)/$$(START_$$*)
	$(FINETUNE) $(RECIPES)/$*.json --arm scratch
	$(FINETUNE) $(RECIPES)/$*.json --arm pretrained --init $(TRAINING)/$(START_$*)

$(TRAINING)/start-provicnet-contrastive: | $(VENV)/.installed-dev
	$(BIN)/vfm-transfer pretrain --pretext contrastive --phantoms 160 --steps 900 -o $@

$(TRAINING)/start-provicnet-synthetic: | $(VENV)/.installed-dev
	$(BIN)/vfm-transfer pretrain --pretext synthetic --encoder provicnet --phantoms 60 --steps 1000 -o $@

clean:
	rm -rf $(VENV) $(OUT) dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'VFM Transfer needs Python 3.11 or newer: make PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv --upgrade-deps $(VENV)  # a new pip installs in half the time of old ones

$(VENV)/.installed-base: pyproject.toml setup.py | $(BIN)/python
	@echo 'Installing into $(VENV); this downloads about 200 MB once.'
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml setup.py | $(BIN)/python
	@echo 'Installing the development tools and PyTorch into $(VENV); this downloads up to 1 GB once.'
	$(PIP_INSTALL) --editable '.[dev]'
	touch $(VENV)/.installed-base $@
