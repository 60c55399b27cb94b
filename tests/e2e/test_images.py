"""The images run as production runs them: not root, read-only, without build tools; rebuilds take seconds."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from coding_agent_cluster import images
from coding_agent_cluster.wait import until

from tests.e2e.pods import SECURITY, container, job
from tests.fixtures.cluster import ClusterUnderTest

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

# For a shared machine of two cores; idle it takes five.
REBUILD_S = 40.0

LOOK = """
import importlib, os, shutil, sys
print("uid", os.getuid())
print("imports", *(importlib.import_module(name).__name__ for name in sys.argv[1].split(",")))
print("git", bool(shutil.which("git")))
print("tools", *(name for name in ("cc", "gcc", "uv", "uv-build") if shutil.which(name)))
try:
    import pip
    print("pip is there")
except ImportError:
    print("no pip")
try:
    open("/app/file", "w")
    print("writable")
except OSError:
    print("read-only")
"""

PACKAGES = {
    "receiver": "coding_agent_core,coding_agent_receiver,fastapi",
    "operator": "coding_agent_core,coding_agent_operator",
    "consumer": "coding_agent_core,coding_agent_consumer,pydantic_ai",
}


def run_job(cluster: ClusterUnderTest, namespace: str, name: str, main: dict[str, object]) -> str:
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(job(name, main)))

    def end() -> str:
        conditions = cluster.get("-n", namespace, "job", name)["status"].get("conditions", [])
        return next((c["type"] for c in conditions if c["type"] in ("Complete", "Failed")), "")

    ended = until(f"end of the Job {name}", end, timeout=90, interval=0.2)
    log = cluster.kubectl("-n", namespace, "logs", f"job/{name}")
    assert ended == "Complete", log
    return log


@pytest.mark.parametrize("program", sorted(PACKAGES))
def test_an_image_has_its_program_and_no_tools(
    cluster: ClusterUnderTest, namespace: str, project_images: dict[str, str], program: str
) -> None:
    main = container(
        project_images[program],
        *("python", "-c", LOOK, PACKAGES[program]),
        securityContext=SECURITY | {"readOnlyRootFilesystem": True},
        resources={"requests": {"cpu": "10m"}, "limits": {"memory": "512Mi"}},
    )
    log = run_job(cluster, namespace, program, main)
    lines = log.splitlines()
    assert "uid 10001" in lines
    assert f"imports {PACKAGES[program].replace(',', ' ')}" in lines
    assert "tools" in lines, f"no compiler, no build backend: {log}"
    assert "no pip" in lines
    assert "read-only" in lines
    if program == "consumer":
        assert "git True" in lines


@pytest.mark.parametrize("program", ["receiver", "consumer"])
def test_an_image_starts_the_command_line(
    cluster: ClusterUnderTest, namespace: str, project_images: dict[str, str], program: str
) -> None:
    resources = {"requests": {"cpu": "10m"}, "limits": {"memory": "512Mi"}}
    main = container(project_images[program], args=["--help"], resources=resources)
    assert "--mode" in run_job(cluster, namespace, program, main)


def test_a_changed_source_is_on_the_node_in_seconds(
    cluster: ClusterUnderTest, namespace: str, test_image: str, tmp_path: Path
) -> None:
    # The fixture has built the same layers, so this is a rebuild.
    context = tmp_path / "context"
    shutil.copytree(images.test_image().context, context)
    program = context / "hello.py"
    changed = replace(images.test_image(), context=context, dockerfile=context / "Dockerfile")
    for word in ("salut", "ahoj"):
        program.write_text(program.read_text().replace("hello from", f"{word} from"))
        begin = time.monotonic()
        cluster.provide(replace(changed, name="localhost/cluster-test:changed"))
        assert time.monotonic() - begin < REBUILD_S
        image = container("localhost/cluster-test:changed")
        assert f"{word} from" in run_job(cluster, namespace, word, image)
        program.write_text(program.read_text().replace(f"{word} from", "hello from"))
