# Workspace images with a CLI coding agent: one target for each (docs/runners.md).
#     docker build -f consumer/runners.Dockerfile --target codex --build-arg BASE_IMAGE=my-toolchain -t my-codex .
# BASE_IMAGE: the image with the project's toolchain, in which commands run; it needs git and a shell, and for
# `gemini` Node.js 20 or later. NODE_IMAGE: any Debian with npm; nothing of it stays but Gemini's own files.
ARG BASE_IMAGE=node:22-bookworm-slim
ARG NODE_IMAGE=node:22-bookworm-slim

FROM ${NODE_IMAGE} AS npm
# Their programs for this machine are packages of their own, and no script has to run.
ENV NPM_CONFIG_IGNORE_SCRIPTS=true NPM_CONFIG_AUDIT=false NPM_CONFIG_FUND=false NPM_CONFIG_UPDATE_NOTIFIER=false \
    NPM_CONFIG_CACHE=/tmp/npm NPM_CONFIG_PREFIX=/opt/runner
WORKDIR /opt/runner

FROM npm AS claude-code-package
ARG CLAUDE_CODE_VERSION=2.1.332
RUN npm install --global @anthropic-ai/claude-code@${CLAUDE_CODE_VERSION} && mkdir bin-only \
    && find lib -path '*/claude-code-linux-*/claude' -exec cp {} bin-only/claude \; && test -x bin-only/claude

FROM npm AS codex-package
ARG CODEX_VERSION=0.171.0
RUN npm install --global @openai/codex@${CODEX_VERSION} && mkdir bin-only \
    && cp -r "$(find lib -path '*/codex-linux-*/vendor/*' -prune)" bin-only/codex && test -x bin-only/codex/bin/codex

FROM npm AS opencode-package
ARG OPENCODE_VERSION=1.18.33
RUN npm install --global opencode-ai@${OPENCODE_VERSION} && mkdir bin-only \
    && find lib -path '*/opencode-linux-x64/bin/opencode' -o -path '*/opencode-linux-arm64/bin/opencode' \
        | xargs -I{} cp {} bin-only/opencode && test -x bin-only/opencode

FROM npm AS gemini-package
ARG GEMINI_VERSION=0.61.0
RUN npm install --global @google/gemini-cli@${GEMINI_VERSION} && test -e bin/gemini

FROM ${BASE_IMAGE} AS base
# The public base has no git; a base that has it needs no package server.
RUN command -v git >/dev/null || { apt-get update && apt-get install -y --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*; }
# A number, so that the kubelet can see that it is not root (runAsNonRoot).
USER 10001:10001

FROM base AS claude-code
COPY --from=claude-code-package /opt/runner/bin-only/claude /usr/local/bin/claude

FROM base AS codex
COPY --from=codex-package /opt/runner/bin-only/codex /opt/codex
ENV PATH=/opt/codex/bin:$PATH

FROM base AS opencode
COPY --from=opencode-package /opt/runner/bin-only/opencode /usr/local/bin/opencode

FROM base AS gemini
COPY --from=gemini-package /opt/runner /opt/runner
ENV PATH=/opt/runner/bin:$PATH
