#!/usr/bin/env bash
# Build the image of each program and push it: dev/images.sh REGISTRY. It takes docker, podman or buildah, the first that works.
# TAG replaces the chart's version, BASE_IMAGE the Python image to build on, and PLAIN_HTTP=1 is for a registry without TLS
# (Docker instead needs `insecure-registries` in its daemon.json).
set -euo pipefail
cd "$(dirname "$0")/.."
registry=${1:-}
if [ -z "$registry" ]; then
    echo "Give a registry: make images REGISTRY=registry.example.com/team" >&2
    exit 2
fi
tag=${TAG:-$(sed -n 's/^appVersion: *"\{0,1\}\([^" ]*\)"\{0,1\}.*/\1/p' charts/coding-agent/Chart.yaml)}

# The program alone is not enough: Docker's client is often installed where no daemon runs.
builder=
for one in docker podman buildah; do
    if command -v "$one" >/dev/null && "$one" info >/dev/null 2>&1; then
        builder=$one
        break
    fi
done
if [ -z "$builder" ]; then
    echo "Neither docker, podman nor buildah works here. Install one of them, or start Docker's daemon." >&2
    exit 1
fi
arguments=()
[ -z "${BASE_IMAGE:-}" ] || arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
insecure=()
[ -z "${PLAIN_HTTP:-}" ] || [ "$builder" = docker ] || insecure=(--tls-verify=false)

# All are built before the first is pushed, so that a failure leaves no half release in the registry.
images=()
while read -r program file; do
    image=$registry/coding-agent-$program:$tag
    echo "$builder builds $image"
    "$builder" build "${arguments[@]}" --build-arg "VERSION=$tag" --file "$file" --target "$program" --tag "$image" .
    images+=("$image")
done <<'EOF'
receiver Dockerfile.receiver
consumer Dockerfile.consumer
operator Dockerfile
user-config Dockerfile
egress Dockerfile
EOF
for image in "${images[@]}"; do
    "$builder" push "${insecure[@]}" "$image"
done
echo "Pushed ${#images[@]} images. Give --registry $registry to kubectl agenttask init, or set image.registry."
