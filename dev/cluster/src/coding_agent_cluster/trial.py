"""``make try``: what ``skaffold dev`` puts into a cluster, put into this one by kubectl and helm.

skaffold.yaml says which manifests, which release and which values. Only the images differ: they are built
here and handed to the node, so no registry is needed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from coding_agent_cluster import build, cluster, images, paths
from coding_agent_cluster.commands import run
from coding_agent_cluster.progress import step

_INSTALL_S = 900
"""Seconds until all pods of the release are ready: a busy machine needs many."""
_PAGE = "acme/pricing/issues"
"""The issues of the sandbox's repository (dev/kubernetes/forge.yaml)."""


def configuration() -> Any:
    """skaffold.yaml, as data."""
    return yaml.safe_load((paths.repository_root() / "skaffold.yaml").read_text(encoding="utf-8"))


def manifests(config: Any, built: Mapping[str, str]) -> Iterator[str]:
    """The raw manifests as text, with the built images.

    Args:
        built: the images, by their names in skaffold.yaml.
    """
    for path in config["manifests"]["rawYaml"]:
        text = (paths.repository_root() / path).read_text(encoding="utf-8")
        for name, image in built.items():
            text = text.replace(f"image: {name}\n", f"image: {image}\n")
        yield text


def release_arguments(config: Any, built: Mapping[str, str]) -> list[str]:
    """The release's name, chart and values, as arguments of ``helm install`` or ``helm upgrade``."""
    root = paths.repository_root()
    [release] = config["deploy"]["helm"]["releases"]
    arguments = [release["name"], str(root / release["chartPath"])]
    for file in release["valuesFiles"]:
        arguments += ["--values", str(root / file)]
    for key, template in release["setValueTemplates"].items():
        name = next(name for name in built if f"_{name.replace('-', '_')}}}" in template)
        repository, _, tag = built[name].rpartition(":")
        arguments += ["--set-string", f"{key}={repository if 'IMAGE_REPO' in template else tag}"]
    return arguments


def start(name: str) -> tuple[cluster.Cluster, str]:
    """Start the cluster, build the images, and install sandbox forge, scripted model and chart.

    It can be repeated: then it does what is missing. Pods that run keep their image.

    Returns:
        the cluster, and the address of the sandbox's issues.

    Raises:
        ClusterError: a step failed.
    """
    found = cluster.up(name)
    for program in images.PROGRAMS:
        found.provide(images.program_image(program))
    config = configuration()
    built = {f"coding-agent-{program}": images.program_image(program).name for program in images.PROGRAMS}
    access, namespace = found.access, config["deploy"]["kubectl"]["defaultNamespace"]
    with step("sandbox forge and scripted model"):
        for text in manifests(config, built):
            access.kubectl("-n", namespace, "apply", "-f", "-", stdin=text)
    with step("the chart"):
        helm = str(build.binaries(["helm"])["helm"])
        flags = ["--namespace", namespace, "--wait", f"--timeout={_INSTALL_S}s"]
        run(
            [helm, "upgrade", "--install", *release_arguments(config, built), *flags],
            timeout=_INSTALL_S + 60.0,
            env=access.environment(),
        )
    for deployment in ("forge", "model"):
        access.kubectl("-n", namespace, "rollout", "status", f"deployment/{deployment}", "--timeout=110s")
    address = access.get("-n", namespace, "service", "forge")["spec"]["clusterIP"]
    return found, f"http://{address}:8080/{_PAGE}"
