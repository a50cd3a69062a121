# The handful of commands of this project; CI calls only these.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faiss-side test-torch-side test-faults test-operations images-check bench bench-paper \
	bench-paper-quick check check-deploy serve docs dashboards protos requirements sbom demo-checkpoint

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECKOV := .venv-checkov
TRAINING := embedder_service/demo_checkpoint/training
# Where a CPU build of torch comes from, if the default index has none: TORCH_PIP_OPTIONS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_PIP_OPTIONS ?=
ART ?= $(HOME)/.cache/eyebright/art
RUN ?= $(HOME)/.cache/eyebright/training-run
BENCH ?= $(HOME)/.cache/eyebright/benchmarks
SBOM ?= dist
REQUIREMENTS := deploy/docker/requirements
CYCLONEDX = $(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible

help: ## Show this list.
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: $(STAMP) $(VENV)/.prometheus ## Create .venv and install everything into it; Prometheus too, as root on Debian.

$(STAMP): pyproject.toml constraints.txt hatch_build.py protos/generate.py $(shell find protos/eyebright -name '*.proto')
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, not $$($(PYTHON) --version)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "venv is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(TORCH_PIP_OPTIONS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Looked for once: without it the tests that run it are skipped, and say so.
$(VENV)/.prometheus: tests/operations/install_prometheus.sh | $(STAMP)
	@tests/operations/install_prometheus.sh
	@touch $@

demo: setup ## Index the bundled gallery, search it by caption and picture, write a contact sheet.
	$(BIN)/eyebright demo

# Two processes side by side: torch and FAISS bring an OpenMP runtime each, and don't share one.
test: setup ## Run every test in its short form.
	@$(MAKE) --jobs=2 --output-sync=target --no-print-directory --keep-going test-faiss-side test-torch-side

test-faiss-side:
	$(BIN)/python -m pytest -q tests/contract tests/deploy tests/faults tests/migration tests/operations tests/security tests/unit tests/integration --ignore-glob='*/embedder_service'

test-torch-side:
	$(BIN)/python -m pytest -q tests/unit/embedder_service tests/integration/embedder_service tests/conformance tests/recall tests/e2e

test-faults: setup ## Run in long form: faults, drawn requests, the storm of pictures, and snapshots through a real S3 server.
	$(BIN)/python -m pytest -q tests/faults tests/security tests/integration/index_service -m long -s
	$(BIN)/python -m pytest -q tests/integration/embedder_service -m long -s

test-operations: setup ## Run in long form: images and their environments; alerts, a bad network, restarts and a soak (half an hour).
	@if [ "$$(id -u)" = 0 ] && ! { command -v ip && command -v iptables; } >/dev/null; then \
		apt-get install --yes -qq --no-install-recommends iproute2 iptables || true; fi
	$(BIN)/python -m pytest -q tests/deploy tests/operations -m long -s

images-check: setup ## Build the images without Docker and search in them (as root on Debian, with buildah and mmdebstrap).
	$(BIN)/python -m pytest -q tests/deploy/test_image_builds.py -m long -s

bench: setup ## Measure the embedder, the index engine, and both under load (over an hour, 30 GB of disk); write docs/results and the plots.
	$(BIN)/python -m benchmarks.towers --output docs/results/embedder.md
	OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=1000 $(BIN)/python -m benchmarks.embedder --work $(BENCH) --output docs/results/embedder.md
	$(BIN)/python -m benchmarks.traps --output docs/embedding.md
	$(BIN)/python -m benchmarks.towers --no-speed --output docs/embedding.md
	$(BIN)/python -m benchmarks.tracing --output docs/tracing.md
	$(BIN)/python -m benchmarks.engine --work $(BENCH) --output docs/results/engine.md
	$(BIN)/python -m benchmarks.engine --work $(BENCH) --output docs/results/engine.md --scenes --rows 100000
	$(BIN)/python -m benchmarks.growth --work $(BENCH) --output docs/results/engine.md --picture docs/images/growth.png
	$(BIN)/python -m benchmarks.accuracy --work $(BENCH) --output docs/accuracy.md --picture docs/images/recall-latency.png
	$(BIN)/python -m benchmarks.call_cost --output docs/results/operations.md
	$(BIN)/python -m benchmarks.load --work $(BENCH) --output docs/results/operations.md
	$(BIN)/python -m benchmarks.load --work $(BENCH) --output docs/results/operations.md --target-recall 0.99

bench-paper: setup ## Measure the paper's tables beside Eyebright's, a million pictures (hours, 20 GB; resumable); write docs/results/paper.md.
	$(BIN)/python -m benchmarks.paper_tables --work $(BENCH) --output docs/results/paper.md --pictures docs/images

bench-paper-quick: setup ## The same in small, in under 10 minutes; write to $(BENCH)/paper-quick.
	$(BIN)/python -m benchmarks.paper_tables --quick --work $(BENCH) --output $(BENCH)/paper-quick/paper.md \
		--pictures $(BENCH)/paper-quick

check: setup ## Format, lint, types, contract.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code --path protos/eyebright
	$(BIN)/buf breaking --against protos/released.binpb
	@$(MAKE) --no-print-directory check-deploy

check-deploy: setup $(CHECKOV)/.installed ## Lint what is deployed, by checkov in an environment of its own.
	mkdir -p build
	for overlay in local production gpu; do $(BIN)/kubectl kustomize deploy/kubernetes/overlays/$$overlay > build/$$overlay.yaml; done
	$(CHECKOV)/bin/checkov --config-file deploy/checkov.yaml --skip-download \
		--file build/local.yaml build/production.yaml build/gpu.yaml deploy/docker/Dockerfile

# checkov names exact versions of some fifty libraries, so it gets an environment of its own (290 MB).
$(CHECKOV)/.installed: Makefile
	test -x $(CHECKOV)/bin/python || $(PYTHON) -m venv $(CHECKOV)
	$(CHECKOV)/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30
	touch $@

serve: setup ## Run both services on loopback until Ctrl-C; data in ./eyebright-data.
	$(BIN)/eyebright serve

docs: setup ## Write anew what follows from the code: pages, dashboards, the rules for Kubernetes.
	$(BIN)/python -m docs.generate
	$(BIN)/python -m deploy.grafana.generate
	$(BIN)/python -m deploy.kubernetes.generate

dashboards: setup ## Write the dashboards anew, and draw them from a real Prometheus under traffic (8 minutes).
	$(BIN)/python -m deploy.grafana.generate
	$(BIN)/python -m benchmarks.dashboards --output docs/images/dashboards

protos: setup ## Generate the Python stubs anew.
	$(BIN)/python protos/generate.py

requirements: setup ## Pin what each image installs, with hashes (deploy/docker/requirements-*.txt).
	$(BIN)/python deploy/docker/lock.py

sbom: setup ## Write a CycloneDX bill of materials of each image's Python packages to dist/.
	mkdir -p $(SBOM)
	cat $(REQUIREMENTS)-torch-cpu.txt $(REQUIREMENTS)-embedder.txt | $(CYCLONEDX) --output-file $(SBOM)/eyebright-embedder.cdx.json -
	cat $(REQUIREMENTS)-torch-cuda.txt $(REQUIREMENTS)-embedder.txt | $(CYCLONEDX) --output-file $(SBOM)/eyebright-embedder-cuda.cdx.json -
	$(CYCLONEDX) --output-file $(SBOM)/eyebright-index.cdx.json $(REQUIREMENTS)-index.txt
	$(CYCLONEDX) --output-file $(SBOM)/eyebright-client.cdx.json $(REQUIREMENTS)-client.txt

demo-checkpoint: setup ## Train the demo checkpoint again and export it with its gallery (hours; needs npm; resumable).
	mkdir -p $(ART) && cp $(TRAINING)/package.json $(ART)/ && npm install --prefix $(ART) --no-audit --no-fund --ignore-scripts
	$(BIN)/python -m embedder_service.demo_checkpoint.training.train --node-modules $(ART)/node_modules --folder $(RUN)
	$(BIN)/python -m embedder_service.demo_checkpoint.training.export --run $(RUN) --node-modules $(ART)/node_modules \
		--checkpoint embedder_service/demo_checkpoint --gallery client/eyebright_cli/demo_gallery/noto.tar
	$(BIN)/python -m embedder_service.demo_checkpoint.training.evaluate --node-modules $(ART)/node_modules \
		--checkpoint embedder_service/demo_checkpoint
