# One target for each image, except for the receiver and the consumer, which have Dockerfiles of their own:
#     docker build --target operator -t coding-agent-operator .
# BASE_IMAGE: any Debian with Python 3.11 or later, venv, pip and ca-certificates; the local cluster passes its own.
ARG BASE_IMAGE=python:3.13-slim@sha256:9662417aace5ae7b8e2609cce472b72a8958e134ba372808abe9cc1a0c0125e6

FROM ${BASE_IMAGE} AS tools
COPY requirements/uv.txt /tmp/
RUN python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/uv.txt
# A RUN must not be the last step: buildah 1.28 mounts a stage that it has in its cache without the last one.
COPY requirements/build-app.sh requirements/build-environment.sh /opt/tools/bin/
# Trust the machine's certificates, for mirrors that use a company's own certificate authority.
ENV UV_NO_CACHE=1 UV_SYSTEM_CERTS=1 PATH=/opt/tools/bin:$PATH
WORKDIR /src

# Per-user settings over HTTP, from files that are mounted at /etc/coding-agent/users.
FROM tools AS user-config-app
COPY core core
COPY forges forges
COPY services services
RUN build-app.sh ./core ./forges ./services:coding_agent_user_config

FROM ${BASE_IMAGE} AS user-config
COPY requirements/user-config.txt /opt/requirements.txt
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/build-environment.sh /opt/requirements.txt
COPY --from=user-config-app /opt/app /opt/app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app
# A number, so that the kubelet can see that it is not root (runAsNonRoot).
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["env", "--block-signal=TERM", "python", "-m", "coding_agent_user_config"]
CMD ["--host", "0.0.0.0", "--directory", "/etc/coding-agent/users"]
# Last, because they change with every build.
ARG VERSION=dev REVISION="" SOURCE=""
LABEL org.opencontainers.image.title="coding-agent-user-config" \
      org.opencontainers.image.description="Serves the per-user settings of the coding agent from files" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

# The egress proxy: Squid, and the program that configures it and identifies its users.
FROM tools AS egress-app
COPY core core
COPY forges forges
COPY services services
RUN build-app.sh ./core ./forges ./services:coding_agent_egress

FROM ${BASE_IMAGE} AS egress
# A base that has Squid needs no package server.
RUN command -v squid >/dev/null || { apt-get update && apt-get install -y --no-install-recommends squid \
    && apt-get clean && rm -rf /var/lib/apt/lists/*; }
COPY requirements/egress.txt /opt/requirements.txt
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/build-environment.sh /opt/requirements.txt
COPY --from=egress-app /opt/app /opt/app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app
USER 10001:10001
EXPOSE 3128
ENTRYPOINT ["env", "--block-signal=TERM", "python", "-m", "coding_agent_egress"]
ARG VERSION=dev REVISION="" SOURCE=""
LABEL org.opencontainers.image.title="coding-agent-egress" \
      org.opencontainers.image.description="The forward proxy of the coding agent's attempts" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

# For development only: a sandbox forge with real git repositories and a scripted model, for use in a cluster.
FROM tools AS sandbox-app
COPY dev/testbed/pyproject.toml dev/testbed/
COPY dev/testbed/src/coding_agent_testbed/__init__.py dev/testbed/src/coding_agent_testbed/
COPY dev/testbed/src/coding_agent_testbed/forge dev/testbed/src/coding_agent_testbed/forge
COPY dev/testbed/src/coding_agent_testbed/model dev/testbed/src/coding_agent_testbed/model
RUN build-app.sh ./dev/testbed

FROM ${BASE_IMAGE} AS sandbox
# The public base has no git. A base that has git needs no package server.
RUN command -v git >/dev/null || { apt-get update && apt-get install -y --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*; }
COPY requirements/sandbox.txt /opt/requirements.txt
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/build-environment.sh /opt/requirements.txt
COPY --from=sandbox-app /opt/app /opt/app
COPY dev/testbed/samples /app/samples
COPY dev/testbed/scripts /app/scripts
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["python", "-m"]
CMD ["coding_agent_testbed.forge", "--help"]
ARG VERSION=dev REVISION="" SOURCE=""
LABEL org.opencontainers.image.title="coding-agent-sandbox" \
      org.opencontainers.image.description="Sandbox forge and scripted model, for developing the coding agent" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

# The operator, which makes Jobs from tasks, and the reporter, which shows their state on the forge.
FROM tools AS operator-app
COPY core core
COPY forges forges
COPY operator operator
RUN build-app.sh ./core ./forges ./operator

FROM ${BASE_IMAGE} AS operator
COPY requirements/operator.txt /opt/requirements.txt
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/build-environment.sh /opt/requirements.txt
COPY --from=operator-app /opt/app /opt/app
COPY main.py /app/
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /app
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["env", "--block-signal=TERM", "python", "main.py"]
CMD ["--mode", "operator"]
ARG VERSION=dev REVISION="" SOURCE=""
LABEL org.opencontainers.image.title="coding-agent-operator" \
      org.opencontainers.image.description="Turns tasks of the coding agent into Jobs, and shows their state on the forge" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
