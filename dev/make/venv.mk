# The virtual environment: made with uv from a hash-pinned lock; uv itself is installed if it is absent.
UV := $(shell command -v uv 2>/dev/null || echo .cache/uv/bin/uv)
UV_VERSION := 0.13.9
EDITABLE := $(addprefix -e ./,$(PACKAGES))
MANIFESTS := $(addsuffix /pyproject.toml,$(PACKAGES))

.cache/uv/bin/uv:
	@echo "Installing uv $(UV_VERSION) into .cache/uv"
	@python3 -m venv .cache/uv && .cache/uv/bin/pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"

$(VENV)/.dev: requirements/dev.txt $(MANIFESTS) | $(filter .cache/%,$(UV))
	@$(UV) venv --quiet --allow-existing --python 3 $(VENV)
	@$(UV) pip sync --quiet --python $(PY) --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --python $(PY) --no-deps $(EDITABLE)
	@touch $(VENV)/.dev $(VENV)/.demo

# What `make demo` needs is part of what development needs; it is just quicker to install.
$(VENV)/.demo: requirements/demo.txt $(MANIFESTS) | $(filter .cache/%,$(UV))
	@$(UV) venv --quiet --allow-existing --python 3 $(VENV)
	@$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements/demo.txt
	@$(UV) pip install --quiet --python $(PY) --no-deps $(EDITABLE)
	@touch $(VENV)/.demo

.PHONY: venv
venv: $(VENV)/.dev ## make the virtual environment for development and tests
