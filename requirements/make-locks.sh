#!/usr/bin/env bash
# Writes the hash-pinned locks, one per program. They name no host: `--no-emit-index-url`, and uv writes none by default.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() { # NAME FILE...
    local name=$1; shift
    uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-package coding-agent-core \
        --no-emit-package coding-agent-forges \
        --no-emit-package coding-agent-receiver --no-emit-package coding-agent-operator \
        --no-emit-package coding-agent-consumer --no-emit-package coding-agent-services \
        --no-emit-package kubectl-agenttask --no-emit-package coding-agent-testbed --no-emit-package coding-agent-demo \
        --no-emit-package coding-agent-docs --no-emit-package coding-agent-release \
        --no-header --no-annotate --output-file "requirements/$name.txt" "$@"
}
lock receiver receiver/pyproject.toml services/pyproject.toml --extra tokens
lock operator operator/pyproject.toml
lock consumer consumer/pyproject.toml
lock user-config services/pyproject.toml --extra user-config
lock egress services/pyproject.toml
lock sandbox dev/testbed/pyproject.toml
lock demo receiver/pyproject.toml consumer/pyproject.toml dev/testbed/pyproject.toml dev/demo/pyproject.toml
lock dev pyproject.toml dev/*/pyproject.toml --group dev
lock release --group pyproject.toml:release
lock fuzz --group pyproject.toml:fuzz
lock local-model --no-deps --group pyproject.toml:local-model
lock uv - <<< "uv==0.13.9"
