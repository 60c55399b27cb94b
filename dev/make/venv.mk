# The virtual environment: made with uv from a hash-pinned lock; uv itself is installed if it is absent.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
EDITABLE := $(addprefix -e ./,$(PACKAGES))
MANIFESTS := $(addsuffix /pyproject.toml,$(PACKAGES))

.uv/bin/uv:
	@dev/progress.sh "Making .uv/venv" python3 -m venv .uv/venv
	@dev/progress.sh "Installing uv into .uv" dev/again.sh .uv/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@mkdir -p .uv/bin && mv .uv/venv/bin/uv .uv/bin/uv

$(VENV)/.dev: requirements/dev.txt $(MANIFESTS) | $(filter .uv/%,$(UV))
	@$(UV) venv --quiet --allow-existing --python 3 $(VENV)
	@dev/progress.sh "Installing the Python packages for development into $(VENV)" dev/again.sh $(UV) pip sync --quiet --python $(PY) --require-hashes requirements/dev.txt
	@dev/progress.sh "Installing the project's packages" dev/again.sh $(UV) pip install --quiet --compile-bytecode --python $(PY) --no-deps $(EDITABLE)
	@touch $(VENV)/.dev $(VENV)/.demo

# What `make demo` needs is part of what development needs; it is just quicker to install.
$(VENV)/.demo: requirements/demo.txt $(MANIFESTS) | $(filter .uv/%,$(UV))
	@$(UV) venv --quiet --allow-existing --python 3 $(VENV)
	@dev/progress.sh "Installing the Python packages for the demo into $(VENV)" dev/again.sh $(UV) pip install --quiet --python $(PY) --require-hashes -r requirements/demo.txt
	@dev/progress.sh "Installing the project's packages" dev/again.sh $(UV) pip install --quiet --python $(PY) --no-deps $(EDITABLE)
	@touch $(VENV)/.demo

.PHONY: venv
venv: $(VENV)/.dev ## make the virtual environment for development and tests
