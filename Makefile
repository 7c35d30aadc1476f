SHELL = bash -o pipefail
.SHELLFLAGS = -ec
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export KVARN_CACHE ?= $(HOME)/.cache/kvarn
PYTHON ?= $(shell command -v python3.11 || command -v python3)
STEP := hack/step
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
# Bytecode that is never kept costs each process seconds, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

##@ The two that matter

.PHONY: demo
demo: setup ## Serve a model from a quantised cache on a real Kubernetes, scale it, roll it, delete it (ARGS="--keep --json")
	$(PY) -m demo $(ARGS)

# Examples of the property tests are the same in each run; test-fast looks for new ones.
.PHONY: test
test: setup check served ## Every test: unit, real API server, real vLLM, end to end in the cluster
	@$(STEP) "vLLM 0.33 for the CPU (cached)" $(PY) -m hack.vllm_overlay > /dev/null
	@$(STEP) "Triton 3.7 and 3.8 (cached)" $(PY) -m hack.triton_overlay > /dev/null
	$(PY) -m pytest -n 2 --hypothesis-profile=ci $(ARGS)

# What every test in the cluster stands on.
.PHONY: served
served: setup
	@$(STEP) "Kubernetes (one binary, cached)" $(PY) -m hack.cluster build
	@$(STEP) "Serving and operator images (cached)" $(PY) -m hack.images build
	@$(STEP) "Demo model (cached)" $(PY) -m demo.train

##@ Every day

.PHONY: setup
setup: $(VENV)/.complete ## Make .venv from the locked requirements

.PHONY: test-fast
test-fast: setup ## The daily loop: no vLLM, no API server, no cluster; four minutes on two cores
	$(PY) -m pytest -n 2 -m "not serving and not apiserver and not cluster and not gpu" $(ARGS)

.PHONY: test-keda
test-keda: setup served ## Scaling by KEDA itself, which takes long to compile and is not in `make test`
	@$(STEP) "KEDA and Prometheus (cached)" $(PY) -m hack.keda > /dev/null
	$(PY) -m pytest -m keda $(ARGS)

.PHONY: test-gpu
test-gpu: ## The kernels compiled and vLLM's traces, in this machine's own Python: needs a GPU, vLLM and pytest
	$(PYTHON) -m pytest -c /dev/null --rootdir . -p no:cacheprovider --import-mode=importlib \
	  tests/engine/test_host_syncs.py tests/kernels/test_cuda_decode.py tests/kernels/test_cuda_store.py \
	  tests/kernels/test_cuda_step.py tests/kernels/test_dense_prefill.py tests/kernels/test_rehearsal.py $(ARGS)

.PHONY: check
check: setup ## Lint, format, types, layers, generated files
	@$(STEP) "ruff check" $(VENV)/bin/ruff check -q
	@$(STEP) "ruff format" $(VENV)/bin/ruff format -q --check
	@$(STEP) "mypy --strict" $(VENV)/bin/mypy
	@$(STEP) "mypy --strict images" $(VENV)/bin/mypy images/serving-cpu/*.py
	@$(STEP) "import-linter" $(VENV)/bin/lint-imports --no-logo
	@$(STEP) "generated CRDs" $(PY) -m kvarn_operator.crd --check

.PHONY: format
format: setup ## Format the code and sort its imports
	$(VENV)/bin/ruff check -q --fix
	$(VENV)/bin/ruff format -q

.PHONY: crds
crds: setup ## Write crds/ from the pydantic models
	$(PY) -m kvarn_operator.crd

.PHONY: footprint
footprint: setup ## Memory, image sizes, times and idle writes against their limits
	$(PY) -m bench.footprint $(ARGS)

##@ The local cluster

.PHONY: cluster-up
cluster-up: setup ## Start a single-node Kubernetes on this machine
	$(PY) -m hack.cluster up

.PHONY: cluster-down
cluster-down: setup ## Stop it; no process, mount, interface or rule stays
	$(PY) -m hack.cluster down

.PHONY: cluster-status
cluster-status: setup ## What runs, and how much memory it takes
	$(PY) -m hack.cluster status

.PHONY: images
images: setup ## Build the operator's and the CPU serving image
	$(PY) -m hack.images build

##@ Dependencies

COMPILE = $(UV) pip compile -q --no-annotate --generate-hashes --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --custom-compile-command "make lock"
# torch for the CPU comes from a wheel made here, so the serving locks leave it out.
TORCH_CPU = $(PYTHON) images/serving-cpu/torch_cpu.py --cache $(KVARN_CACHE)/wheels
COMPILE_CPU = $(COMPILE) --find-links $(KVARN_CACHE)/wheels --no-emit-package torch \
	--override requirements/serving-cpu.overrides.txt

.PHONY: lock
lock: setup ## Resolve requirements/*.txt again
	$(COMPILE) pyproject.toml --extra operator -o requirements/operator.txt
	$(COMPILE_CPU) --override requirements/serving-cpu.image-overrides.txt requirements/serving-cpu.in -o requirements/serving-cpu.txt
	$(COMPILE_CPU) requirements/serving-cpu.in pyproject.toml --extra operator --extra dev -o requirements/dev.txt
	{ echo "# make lock: the installer of everything else."; \
	  sed -n '/^uv==/,/^[^ ]/p' requirements/dev.txt | sed -n '1p;/^ /p'; } > requirements/bootstrap.txt

$(VENV)/.complete: requirements/dev.txt requirements/bootstrap.txt pyproject.toml images/serving-cpu/torch_cpu.py
	@$(STEP) "System packages" hack/system-packages
	@test -x $(PY) || $(STEP) "Virtual environment" $(PYTHON) -m venv $(VENV)
	@$(STEP) "uv" $(PY) -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/bootstrap.txt
	@$(STEP) "torch for the CPU (cached)" $(TORCH_CPU) > $(VENV)/torch-wheel
	@$(STEP) "Locked packages" $(UV) pip install -q --no-deps --require-hashes -r requirements/dev.txt
	@$(STEP) "torch" $(UV) pip install -q --no-deps "$$(cat $(VENV)/torch-wheel)"
	@$(STEP) "kvarn, editable" $(UV) pip install -q --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
	  /^[a-z-]+:.*##/ {printf "  \033[36m%-16s\033[0m%s\n", $$1, $$2}' $(MAKEFILE_LIST)
