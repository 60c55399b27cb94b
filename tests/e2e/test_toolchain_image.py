"""Commands run in an image that has nothing of ours."""

from pathlib import Path

import pytest
from coding_agent_testbed.cluster import apt, oci, paths
from coding_agent_testbed.cluster.cluster import Cluster

from tests.fixtures.system import REPOSITORY
from tests.fixtures.system_in_pods import StartPods, with_container
from tests.integration.main_job.scripts import finish, run, script

pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]


def test_a_toolchain_image_needs_neither_python_nor_git_nor_a_c_library(
    start_pods: StartPods, own_cluster: Cluster
) -> None:
    image = bare_image(own_cluster)
    look = "ls / /bin; python3 --version; echo made > made.md; git status --short; echo $TOOLCHAIN"
    system = start_pods(
        "github",
        script(run(look), finish()),
        job={
            "workspace": {"images": {REPOSITORY: image}},
            **with_container(name="workspace", env=[{"name": "TOOLCHAIN", "value": "of my own"}]),
        },
    )
    system.put_label(1)
    system.wait_for_phase("Succeeded")
    told = str(system.model.requests[1]["messages"][-1]["content"])
    assert "python3: not found" in told
    assert "?? made.md" in told, "git is there: ours"
    assert "of my own" in told
    assert "lib64" not in told, "no loader of the image's own"
    assert system.file_at("coding-agent/issue-1", "made.md") == "made\n"


def bare_image(cluster: Cluster) -> str:
    """An image of one static program, as alpine has it: a shell and some commands, and no library at all."""
    apt.ensure({"busybox": "busybox-static"})
    busybox = Path(str(apt.which("busybox")))
    name = "localhost/toolchain-without-anything:1"
    archive = paths.cache_root() / "images" / "toolchain-without-anything.tar"
    oci.write(archive, name, {f"/bin/{entry}": busybox for entry in ("sh", "ls", "cat")}, ["/bin/sh"])
    cluster.node.import_image(archive)
    return name
