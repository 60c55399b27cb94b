"""The policy for nodes: containerd asks the example in examples/containerd before it pulls an image."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from coding_agent_cluster import build
from coding_agent_cluster.commands import run
from coding_agent_cluster.errors import ClusterError

from tests.fixtures.system import until
from tests.sweep.release.conftest import ROOT, VERSION, Published

# Time for what may have to be built first.
pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_linux,
    pytest.mark.timeout(1800),
    pytest.mark.xdist_group("release"),
]

VERIFIER = ROOT / "examples" / "containerd" / "verify-coding-agent"
OPERATOR = "coding-agent-operator"
# A busy machine runs cosign slowly.
CONFIG = """\
version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.cri.v1.images",
  "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri",
]
[grpc]
  address = "{folder}/socket"
[ttrpc]
  address = "{folder}/socket.ttrpc"
[plugins.'io.containerd.internal.v1.opt']
  path = "{folder}/opt"
[plugins.'io.containerd.image-verifier.v1.bindir']
  bin_dir = "{folder}/verifiers"
  per_verifier_timeout = "60s"
"""


@pytest.fixture
def containerd(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a containerd of the test's own, which pulls what the key signed."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "config.toml").write_text(CONFIG.format(folder=folder))
    verifier = folder / "verifiers" / VERIFIER.name
    verifier.parent.mkdir()
    verifier.write_text(adapted(published))
    verifier.chmod(0o755)
    program = build.binaries(["containerd", "ctr"])["containerd"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), "--config", str(folder / "config.toml")], stdout=log, stderr=log
        )
    try:
        until(lambda: answers(folder / "socket"), lambda: (folder / "log").read_text()[-2000:], 60)
        yield folder / "socket"
    finally:
        process.terminate()
        process.wait(30)


def adapted(published: Published) -> str:
    """The example with the lines changed that it says are to be changed."""
    text = VERIFIER.read_text()
    cosign = build.binaries(["cosign"])["cosign"]
    for name, value in {
        "images": f"{published.registry.host}/coding-agent-",
        "key": str(published.key),
        "cosign": f'"{cosign} verify --insecure-ignore-tlog=true --allow-http-registry"',
    }.items():
        text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, name
    return text


def ctr(socket: Path, *arguments: str) -> str:
    program = build.binaries(["ctr"])["ctr"]
    return run([str(program), "--address", str(socket), *arguments], timeout=300)


def answers(socket: Path) -> bool:
    try:
        ctr(socket, "version")
    except ClusterError:
        return False
    return True


def test_a_node_pulls_what_was_signed_and_nothing_else(published: Published, containerd: Path) -> None:
    registry = published.registry
    signed = f"{registry.host}/coding-agent-user-config:{VERSION}"
    ctr(containerd, "images", "pull", "--plain-http", signed)
    assert signed in ctr(containerd, "images", "list", "-q")

    # Somebody who may write to the registry moves a tag to another image.
    own = registry.manifest(OPERATOR, VERSION)
    moved = registry.put(OPERATOR, "moved", {**own, "annotations": {"moved": "yes"}})
    digest = moved.headers["docker-content-digest"]
    for name in (f"{OPERATOR}:moved", f"{OPERATOR}@{digest}"):
        with pytest.raises(ClusterError, match=f"{digest} is not signed by {published.key}"):
            ctr(containerd, "images", "pull", "--plain-http", f"{registry.host}/{name}")
    assert OPERATOR not in ctr(containerd, "images", "list", "-q")

    # Other images are pulled without a signature. This one is not refused, it does not exist.
    with pytest.raises(ClusterError, match="not found"):
        ctr(containerd, "images", "pull", "--plain-http", f"{registry.host}/other:1")
