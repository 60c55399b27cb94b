"""Looks whether a registry has the images of this release, and builds them from a checkout if it has none."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
from coding_agent_core.runtime.tls import client_context

from kubectl_agenttask import PluginError
from kubectl_agenttask.answers import Asker

_TIMEOUT = 10.0
_NONE = frozenset({"MANIFEST_UNKNOWN", "NAME_UNKNOWN"})
"""The codes with which a registry says that it has no such image, or not even its repository:
https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
"""
_ACCEPT = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


def wanted_images(flag: str, earlier: Mapping[str, Any]) -> tuple[str, str]:
    """Return the registry and the tag of the images; the registry is empty if none is named.

    Args:
        flag: what `--registry` says.
        earlier: the values of an earlier file.
    """
    image = earlier.get("image") or {}
    return flag or image.get("registry") or "", image.get("tag") or version("kubectl-agenttask")


def lacks_images(registry: str, tag: str) -> bool:
    """Whether the registry says that it has no image of the operator.

    It is false if the registry cannot be reached from here, or asks for a login, because nodes may pull.
    """
    host, _, folder = registry.partition("/")
    name = f"{folder}/coding-agent-operator".lstrip("/")
    url = f"{_scheme(host)}://{host}/v2/{name}/manifests/{tag}"
    try:
        answer = httpx2.get(url, headers={"accept": _ACCEPT}, timeout=_TIMEOUT, verify=client_context())
        errors = answer.json().get("errors") or [] if answer.status_code == 404 else []
        return any(error.get("code") in _NONE for error in errors)
    except (httpx2.HTTPError, ValueError, AttributeError):
        return False


def _scheme(host: str) -> str:
    """Return the scheme of a registry. Docker and containerd speak HTTP to this machine."""
    name = host.partition(":")[0]
    try:
        local = ip_address(name).is_loopback
    except ValueError:
        local = name == "localhost"
    return "http" if local else "https"


def provide_images(asker: Asker, registry: str, tag: str, chart: str) -> str:
    """Build the images if the registry has none and a person agrees; return what is left to do, as text.

    Raises:
        PluginError: they could not be built and pushed.
    """
    if not registry or not lacks_images(registry, tag):
        return ""
    script = build_script(chart)
    lacking = f"{registry} has no images of {tag}."
    if script is not None and asker.interactive:
        answer = asker.text(f"{lacking} Build and push them now? [Y/n]", "--yes", "")
        if answer.lower() in ("", "y", "yes"):
            build_images(script, registry)
            return ""
    return f"\n{lacking} Build and push them first:\n\n  make images REGISTRY={registry}"


def build_script(chart: str) -> Path | None:
    """Return the script that builds the images, if the chart is that of a checkout."""
    script = Path(chart).resolve().parent.parent / "dev" / "images.sh"
    return script if script.is_file() else None


def build_images(script: Path, registry: str) -> None:
    """Build and push the images. This takes minutes and prints its progress.

    Raises:
        PluginError: an image could not be built or pushed.
    """
    try:
        done = subprocess.run([str(script), registry], check=False)
    except OSError as error:
        raise PluginError(f"{script} cannot be started: {error.strerror}") from error
    if done.returncode:
        raise PluginError(
            f"the images were not pushed to {registry}. Correct what is shown above, and run "
            f"make images REGISTRY={registry}"
        )
