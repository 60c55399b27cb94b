"""The images run as production runs them: small, not root, read-only, without build tools."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from coding_agent_testbed.cluster import cluster as local
from coding_agent_testbed.cluster import images, layout
from coding_agent_testbed.until import until

from tests.e2e.pods import SECURITY, container, job, job_end
from tests.fixtures.cluster import ClusterUnderTest

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

LOOK = """
import importlib, importlib.util, os, shutil, sys
print("uid", os.getuid())
print("imports", *(importlib.import_module(name).__name__ for name in sys.argv[1].split(",")))
print("too much", *(name for name in sys.argv[2].split(",") if importlib.util.find_spec(name)))
print("git", bool(shutil.which("git")))
print("tools", *(name for name in ("cc", "gcc", "uv", "uv-build") if shutil.which(name)))
try:
    import pip
    print("pip is there")
except ImportError:
    print("no pip")
try:
    open("/opt/app/file", "w")
    print("writable")
except OSError:
    print("read-only")
"""


@dataclass(frozen=True)
class Contents:
    """What an image must and must not have.

    Attributes:
        imports: modules.
        lacks: modules of other programs, and libraries that only those need.
        megabytes: at most so many of its own, above the base image, as they go over the network.
    """

    imports: str
    lacks: str
    megabytes: int


AGENT = "pydantic_ai,openai,coding_agent_consumer"
IMAGES = {
    "receiver": Contents(
        "coding_agent_core,coding_agent_receiver,coding_agent_tokens,cryptography,fastapi,httpx2,kubernetes.aio,pika",
        f"httpx,kopf,jinja2,coding_agent_operator,coding_agent_user_config,{AGENT}",
        megabytes=52,
    ),
    "operator": Contents(
        "coding_agent_core,coding_agent_operator.reporter,kopf,httpx2,jwt",
        "fastapi,httpx,limits,pika,jinja2,rich,kubectl_agenttask,coding_agent_receiver,coding_agent_user_config,"
        f"{AGENT}",
        megabytes=48,
    ),
    "consumer": Contents(
        "coding_agent_core,coding_agent_consumer,pydantic_ai,httpx2",
        "kopf,kubernetes,limits,jinja2,coding_agent_receiver,coding_agent_operator",
        megabytes=74,
    ),
    "user-config": Contents(
        "coding_agent_core,coding_agent_user_config,fastapi",
        f"kopf,kubernetes,pika,httpx,httpx2,coding_agent_receiver,coding_agent_operator,{AGENT}",
        megabytes=17,
    ),
    "egress": Contents(
        "coding_agent_core,coding_agent_egress",
        f"kopf,kubernetes,pika,httpx,httpx2,coding_agent_receiver,coding_agent_operator,{AGENT}",
        megabytes=70,
    ),
    "sandbox": Contents(
        "coding_agent_testbed.forge,coding_agent_testbed.model",
        f"kopf,kubernetes,pika,coding_agent_core,coding_agent_testbed.cluster,{AGENT}",
        megabytes=24,
    ),
}
"""The receiver's has pika for RabbitMQ, which it publishes to."""


def run_job(cluster: ClusterUnderTest, namespace: str, name: str, main: dict[str, object]) -> str:
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(job(name, main)))
    end = partial(job_end, cluster, namespace, name)
    ended = until(f"end of the Job {name}", end, timeout=180, interval=0.2)
    log = cluster.kubectl("-n", namespace, "logs", f"job/{name}")
    assert ended == "Complete", log
    return log


@pytest.mark.parametrize("program", sorted(IMAGES))
def test_an_image_has_its_program_and_no_tools(
    cluster: ClusterUnderTest, namespace: str, project_images: dict[str, str], program: str
) -> None:
    main = container(
        project_images[program],
        *("python", "-c", LOOK, IMAGES[program].imports, IMAGES[program].lacks),
        securityContext=SECURITY | {"readOnlyRootFilesystem": True},
        resources=resources("512Mi"),
    )
    log = run_job(cluster, namespace, program, main)
    lines = log.splitlines()
    assert "uid 10001" in lines
    assert f"imports {IMAGES[program].imports.replace(',', ' ')}" in lines
    assert "too much" in lines, log
    assert "tools" in lines, f"no compiler, no build backend: {log}"
    assert "no pip" in lines
    assert "read-only" in lines
    if program in ("consumer", "sandbox"):
        assert "git True" in lines


def test_an_image_is_small_and_says_what_it_is(
    own_cluster: local.Cluster, project_images: dict[str, str]
) -> None:
    layers = {program: layers_of(name) for program, name in project_images.items()}
    base = set.intersection(*(set(layer) for layer in layers.values()))
    assert base, "they stand on the same base"
    for program, own in layers.items():
        size = sum(size for digest, size in own.items() if digest not in base) / 1e6
        print(f"{program}: {size:.1f} MB of its own")
        assert size < IMAGES[program].megabytes, program
        config = document(manifest(project_images[program])["config"]["digest"])["config"]
        assert config["User"] == "10001:10001"
        labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items()}
        assert labels["title"] == f"coding-agent-{program}"
        assert labels.keys() >= {"version", "revision", "source"}


def layers_of(name: str) -> dict[str, int]:
    """The digests of an image's layers, and their bytes as they go over the network."""
    return {layer["digest"]: layer["size"] for layer in manifest(name)["layers"]}


def manifest(name: str) -> Any:
    """The manifest of an image that was given to the node."""
    folder = images.layout_folder()
    return document(layout.manifest_entry(folder, name)["digest"])


def document(digest: str) -> Any:
    """A JSON document among the blobs of the images that were given to the node."""
    return json.loads(layout.blob(images.layout_folder(), digest).read_text(encoding="utf-8"))


def resources(memory: str) -> dict[str, Any]:
    return {"requests": {"cpu": "10m"}, "limits": {"memory": memory}}
