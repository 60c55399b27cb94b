"""A cluster that a person has already (kind, k3d, minikube), for running the same suite on it."""

import os
import shlex
from pathlib import Path

from coding_agent_testbed.cluster import apt
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.errors import MachineError
from coding_agent_testbed.cluster.images import Image

# kind's command; k3d: `k3d image import {image}`, minikube: `minikube image load {image}`.
_LOAD = "kind load docker-image {image}"
_DOCKER_TIMEOUT_S = 1800.0


def kubeconfig(value: str) -> Path:
    """The file that ``E2E_KUBECONFIG`` names.

    Raises:
        MachineError: there is no such file.
    """
    file = Path(value).expanduser()
    if not file.is_file():
        raise MachineError(f"E2E_KUBECONFIG={value}: there is no such file")
    return file.absolute()


def kubectl() -> Path:
    """The kubectl on PATH.

    Raises:
        MachineError: there is none.
    """
    if (found := apt.which("kubectl")) is None:
        raise MachineError("kubectl was not found on PATH (https://kubernetes.io/docs/tasks/tools)")
    return Path(found)


def load_command(image: str, template: str) -> list[str]:
    """The command that gives the cluster's node an image, from ``E2E_LOAD_IMAGE`` or kind's own."""
    return shlex.split((template or _LOAD).replace("{image}", image))


def provide(image: Image) -> None:
    """Build an image with Docker and give it to the cluster's node.

    Raises:
        ClusterError: a command is missing or did not succeed.
    """
    target = ["--target", image.target] if image.target else []
    docker = ["docker", "build", "--file", str(image.dockerfile), *target]
    docker += ["--tag", image.name, str(image.context)]
    run(docker, timeout=_DOCKER_TIMEOUT_S)
    run(load_command(image.name, os.environ.get("E2E_LOAD_IMAGE", "")), timeout=_DOCKER_TIMEOUT_S)
