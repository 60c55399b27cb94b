"""`init`: the hosts that the package managers of a workspace image fetch from, as values of the chart.

A short-lived pod of the image asks them (`hosts.sh`). It has no credential, no service account's token and no
file of a repository, because a file of a repository could name any host.
"""

from __future__ import annotations

import re
from argparse import Namespace
from importlib.resources import files
from typing import Any

from kubectl_agenttask import PluginError
from kubectl_agenttask.cluster import Body
from kubectl_agenttask.commands import Session, waiting_for

_POLL = 1.0
"""Seconds between two reads of the pod."""
_DEADLINE = 300
"""Seconds for the image's pull and the script, after which the cluster ends the pod."""
_CANNOT_START = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerError", "RunContainerError"}
)
_CONTAINER = "package-managers"
_HOME = "/tmp"  # noqa: S108 - in the container
_USER = 20_000
"""One of the settings' `WORKSPACE_USERS`; to import those would cost each command a tenth of a second."""
_HOST = re.compile(r"^    - ([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?)$", re.MULTILINE)
_NO_SHELL = 128
"""Exit status with which the container runtime reports that it cannot start `sh`."""


def init(session: Session, arguments: Namespace) -> None:
    """`init`: print `egress.allow` for an image.

    Raises:
        PluginError: the pod cannot run, or the image names no host.
    """
    image: str = arguments.image
    name = session.cluster.create_pod(pod(image, arguments.pull_secret))
    session.notes.print(f"Pod {name} asks the package managers of {image}.", soft_wrap=True)
    try:
        code = _wait(session, name, image)
        said = b"".join(session.cluster.log(name, _CONTAINER, follow=False)).decode(errors="replace")
    finally:
        session.cluster.delete_pod(name)
    # The image's programs wrote the output: nothing but names of hosts is repeated.
    hosts = sorted(set(_HOST.findall(said)))
    if not hosts:
        raise PluginError(
            f"the package managers of {image} name no host (exit status {code}). The image needs one of pip, "
            "npm, Go, cargo and apt."
        )
    session.out.print("\n".join(["egress:", "  allow:", *(f"    - {host}" for host in hosts)]))


def pod(image: str, pull_secret: str | None = None) -> Body:
    """The pod, which the restricted Pod Security Standard admits."""
    script = files("kubectl_agenttask").joinpath("hosts.sh").read_text(encoding="utf-8")
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _DEADLINE,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "home", "emptyDir": {"sizeLimit": "256Mi"}}],
        "containers": [
            {
                "name": _CONTAINER,
                "image": image,
                "command": ["sh", "-c", script],
                # As in a workspace: what is set in the home of one of the image's users does not count.
                "env": [{"name": "HOME", "value": _HOME}],
                "resources": {
                    "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "16Mi"},
                    "limits": {"cpu": "1", "memory": "512Mi", "ephemeral-storage": "512Mi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "home", "mountPath": _HOME}],
            }
        ],
    }
    if pull_secret is not None:
        spec["imagePullSecrets"] = [{"name": pull_secret}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "agenttask-init-",
            "labels": {"app.kubernetes.io/name": "kubectl-agenttask"},
        },
        "spec": spec,
    }


def _wait(session: Session, name: str, image: str) -> int:
    """Wait for the pod's end; the exit status of its script."""
    end = session.monotonic() + _DEADLINE
    while True:
        found = session.cluster.pod(name)
        states = [
            one.get("state") or {} for one in (found.get("status") or {}).get("containerStatuses") or ()
        ]
        ended = next((state["terminated"] for state in states if "terminated" in state), None)
        if ended is not None and ended.get("exitCode") == _NO_SHELL:
            raise PluginError(f"{image} cannot run `sh`: {ended.get('message') or ended.get('reason')}")
        if ended is not None:
            return int(ended["exitCode"])
        why = waiting_for(found)
        if why in _CANNOT_START:
            raise PluginError(
                f"{image} cannot start: {why}. Check its name, and give --pull-secret for a private registry."
            )
        if session.monotonic() > end:
            raise PluginError(f"{image} did not end within {_DEADLINE} s: its pod shows {why}.")
        session.sleep(_POLL)
