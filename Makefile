# One command per habit. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
PACKAGES := core receiver operator consumer user-config dev/forge dev/model dev/demo dev/cluster
SOURCES := $(addsuffix /src,$(PACKAGES)) main.py

include dev/make/venv.mk
-include dev/cluster/cluster.mk

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'
