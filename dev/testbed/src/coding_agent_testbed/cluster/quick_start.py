"""``make try``: the quick start on a cluster of this machine, with a sandbox forge and a scripted model.

Both are the manifests that skaffold.yaml names. Only the images differ: they are built here and handed to the
node, so no registry is needed. Everything else is done by the commands of docs/quick-start.md.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib import request

import yaml

from coding_agent_testbed.cluster import build, cluster, gvisor, images, paths
from coding_agent_testbed.cluster.access import Access
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.progress import note, step

_INSTALL_S = 900
"""Seconds until all pods of the release are ready: a busy machine needs many."""
_PLUGIN_S = 120.0
_REQUEST_S = 20.0
_REPOSITORY, _LABEL = "acme/pricing", "coding agent"
_PERSON_TOKEN, _BOT_TOKEN, _MODEL_KEY = "alice-sandbox-token", "bot-sandbox-token", "sandbox-model-key"
"""The sandbox's credentials (dev/kubernetes/forge.yaml and model.yaml). They give access to nothing else."""
_OWN = {
    "image": {"tag": images.TAG},
    # Forge and model are pods here, so they are in a private network.
    "networkPolicy": {"blocked": ["169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128"]},
}
"""The values file before ``init`` adds its values."""


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


def start(name: str, *, runtime: str = "") -> tuple[cluster.Cluster, str]:
    """Start the cluster and the sandbox, and take the steps of the quick start.

    It can be repeated: then it does what is missing. Pods that run keep their image.

    Args:
        runtime: `gvisor` gives it to the node and to all attempts; empty for the node's own runtime.

    Returns:
        the cluster, and the address of the sandbox's issues.

    Raises:
        ClusterError: a step failed.
    """
    found = cluster.up(name)
    for program in images.PROGRAMS:
        found.provide(images.program_image(program))
    config = configuration()
    namespace = config["deploy"]["kubectl"]["defaultNamespace"]
    with step("sandbox forge and scripted model"):
        forge, model = _sandbox(found.access, config, namespace)
    values = found.root / "coding-agent-values.yaml"
    if runtime == gvisor.RUNTIME_CLASS:
        gvisor.enable(found)
        write_values(values, {"trusted": runtime, "untrusted": runtime})
    note(follow(found.access, namespace, forge, model, values))
    return found, f"{forge}/{_REPOSITORY}/issues"


def follow(access: Access, namespace: str, forge: str, model: str, values: Path) -> str:
    """Take the steps of the quick start and label the first issue; return the output of ``doctor``.

    Args:
        forge: the forge's address, without a path.
        model: that of the model.
        values: the values file; it is written.

    Raises:
        ClusterError: a step failed.
    """
    with step("kubectl agenttask init"):
        if not values.exists():
            write_values(values, {})
        where = ["--api-url", f"{forge}/api/v3", "--repo", _REPOSITORY, "--registry", "localhost"]
        where += ["--model-url", f"{model}/v1", "--model", "scripted", "--provider", "openai"]
        files = ["--values", str(values), "--chart", str(paths.repository_root() / "charts" / "coding-agent")]
        said = _plugin(access, "init", "-n", namespace, "--platform", "github", *where, *files, "--yes")
        [install] = [line for line in said.splitlines() if line.startswith("  helm ")]
    with step("the chart"):
        helm = str(build.binaries(["helm"])["helm"])
        command = [helm, *shlex.split(install)[1:], "--wait", f"--timeout={_INSTALL_S}s"]
        run(command, timeout=_INSTALL_S + 60.0, env=access.environment())
    with step("the label"):
        _label_first_issue(forge)
    return _plugin(access, "doctor", "-n", namespace).rstrip()


def write_values(file: Path, runtime_classes: Mapping[str, str]) -> None:
    """Write the values file that a person has before `init`, with the RuntimeClasses of attempts, if any."""
    own: dict[str, Any] = dict(_OWN)
    if runtime_classes:
        own["config"] = {"operator": {"job": {"runtime_classes": dict(runtime_classes)}}}
    file.write_text(yaml.safe_dump(own), encoding="utf-8")


def _sandbox(access: Access, config: Any, namespace: str) -> tuple[str, str]:
    """Start the forge and the model; return their addresses, which this machine reaches as pods do.

    The forge has to know its own address, for the links that it shows.
    """
    built = {f"coding-agent-{program}": images.program_image(program).name for program in images.PROGRAMS}
    objects = [entry for text in manifests(config, built) for entry in yaml.safe_load_all(text)]
    first = [entry for entry in objects if entry["kind"] in ("Namespace", "Service")]
    access.kubectl("-n", namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all(first))
    services = {name: access.get("-n", namespace, "service", name)["spec"] for name in ("forge", "model")}
    urls = {name: f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}" for name, spec in services.items()}
    text = yaml.safe_dump_all(objects).replace("http://forge:8080", urls["forge"])
    access.kubectl("-n", namespace, "apply", "-f", "-", stdin=text)
    for name in urls:
        access.kubectl("-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=110s")
    return urls["forge"], urls["model"]


def _plugin(access: Access, *arguments: str) -> str:
    """Run the plugin of this checkout as the person of the quick start."""
    credentials = {"GITHUB_PERSONAL_ACCESS_TOKEN": _BOT_TOKEN, "OPENAI_API_KEY": _MODEL_KEY}
    program = str(Path(sys.executable).with_name("kubectl-agenttask"))
    return run([program, *arguments], timeout=_PLUGIN_S, env={**access.environment(), **credentials})


def _label_first_issue(forge: str) -> None:
    """Put the label on the first issue, as a person does, unless it has been there already."""
    url = f"{forge}/api/v3/repos/{_REPOSITORY}/issues/1/labels"
    direct = request.build_opener(request.ProxyHandler({}))
    headers = {"Authorization": f"Bearer {_PERSON_TOKEN}", "Content-Type": "application/json"}
    with direct.open(request.Request(url, headers=headers), timeout=_REQUEST_S) as answer:
        if any(label["name"].startswith(_LABEL) for label in json.load(answer)):
            return
    body = json.dumps({"labels": [_LABEL]}).encode()
    direct.open(request.Request(url, body, headers), timeout=_REQUEST_S).close()
