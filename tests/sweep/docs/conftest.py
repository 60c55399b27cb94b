"""The settings in which documented commands run: a checkout, a running receiver, a cluster with tasks."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from coding_agent_core.task.reasons import Reason
from coding_agent_docs.blocks import Block, blocks
from coding_agent_docs.paths import DOCS, ROOT
from coding_agent_testbed.cluster import build, parts, paths, standalone

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.system import SECRET, StartSystem
from tests.integration.operator.pod_driver import Ends, PodDriver, reported
from tests.integration.operator.world import OperatorProcess, World
from tests.sweep.docs.running_pods import RunningPods
from tests.sweep.docs.shell import Shell

NAMESPACE = "-n coding-agent"
"""How the documentation says the namespace."""
REPOSITORY = "acme/pricing"
MakeShell = Callable[[], Shell]


@pytest.fixture
def checkout(tmp_path: Path) -> MakeShell:
    """A checkout with its virtual environment and the built programs, and nothing configured."""
    return lambda: Shell(tmp_path, environment={"CODING_AGENT_CACHE": str(paths.cache_root().parent)})


@pytest.fixture
def copy(tmp_path: Path) -> MakeShell:
    """The files of a checkout that commands of the documentation copy or change, in a folder of their own."""
    (tmp_path / ".env.example").write_text((ROOT / ".env.example").read_text())
    return lambda: Shell(tmp_path, directory=tmp_path)


@pytest.fixture
def receiver(tmp_path: Path, start_system: StartSystem) -> MakeShell:
    """`main.py --mode webhook` on port 8000, with the secret that the shell knows, over a sandbox forge."""

    def make() -> Shell:
        system = start_system("github", [])
        port = system.start_webhook().port()
        return Shell(
            tmp_path,
            here={
                "localhost:8000": f"127.0.0.1:{port}",
                "https://coding-agent.example.com": f"http://127.0.0.1:{port}",
                "https://github.com": system.forge.base_url,
            },
            environment={"GITHUB_WEBHOOK_SECRET": SECRET},
        )

    return make


@pytest.fixture
def install_plane(tmp_path: Path) -> Iterator[MakeShell]:
    """An API server and its controllers, with nothing of ours in it; helm, and the files of install.md."""
    root = tmp_path / "plane"
    programs = build.binaries(["helm", "kubectl"])
    try:
        plane = standalone.up(root, parts.CONTROL_PLANE, owner=os.getpid())
        for name, path in programs.items():
            (tmp_path / name).symlink_to(path)
        for name in ("our-authority.pem", "webhook-secret", "github-token", "model-key"):
            (tmp_path / name).write_text(f"{name}-of-a-person\n")
        page = blocks(DOCS / "install.md")
        values = next(block.text for block in page if block.what == "my-values.yaml")
        (tmp_path / "my-values.yaml").write_text(values)
        with RunningPods(PlaneUnderTest(plane), None, only="check"):
            yield lambda: Shell(tmp_path, environment={"KUBECONFIG": str(plane.kubeconfig)})
    finally:
        standalone.down(root)


@pytest.fixture
def release(tmp_path: Path) -> Iterator[MakeShell]:
    """The release as docs/install.md installs it, with pods that are ready and have logs."""
    root = tmp_path / "plane"
    programs = build.binaries(["helm", "kubectl"])
    try:
        plane = standalone.up(root, parts.CONTROL_PLANE, owner=os.getpid())
        for name, path in programs.items():
            (tmp_path / name).symlink_to(path)
        under_test = PlaneUnderTest(plane)
        with RunningPods(under_test, "coding-agent"):
            shell = Shell(tmp_path, environment={"KUBECONFIG": str(plane.kubeconfig)})
            yield lambda: _installed(shell, under_test)
    finally:
        standalone.down(root)


def until_installed() -> list[Block]:
    """The blocks of docs/install.md up to the one that installs the chart of a checkout."""
    page = blocks(DOCS / "install.md")
    marked = (number for number, block in enumerate(page) if (block.word, block.what) == ("run", "install"))
    return page[: next(number for number in marked if "helm install" in page[number].text) + 1]


def _installed(shell: Shell, plane: PlaneUnderTest) -> Shell:
    shell.play(until_installed(), "install")
    plane.wait_until_established("agenttasks.coding-agent.dev")
    ready = "kubectl wait -n coding-agent --for=condition=Available deployment --all --timeout=250s"
    wait = Block(DOCS / "install.md", 0, "sh", ready, "run", "release")
    shell.play([wait], "release")
    return shell


@pytest.fixture
def tasks(tmp_path: Path, control_plane: PlaneUnderTest, namespace: str) -> Iterator[MakeShell]:
    """A cluster where the operator has one place: a task has succeeded, one failed, one runs, one waits."""
    with ExitStack() as stack:
        yield lambda: _tasks(stack, tmp_path, control_plane, namespace)


def _tasks(stack: ExitStack, folder: Path, plane: PlaneUnderTest, namespace: str) -> Shell:
    install(plane)
    world = World(plane, namespace)
    stack.enter_context(PodDriver(plane, namespace, _ends))
    operator = OperatorProcess(plane.kubeconfig, namespace, folder, {"limits": {"global": 1}}).start()
    stack.callback(operator.stop)
    for number, phase in ((7, "Succeeded"), (9, "Failed"), (12, "Running"), (15, "Queued")):
        world.until_phase(world.create(number, repository=REPOSITORY), phase, timeout=150)
    (folder / "kubectl").symlink_to(plane.plane.binaries["kubectl"])
    (folder / "private-key.pem").write_text("the key of an App\n")
    return Shell(
        folder,
        here={NAMESPACE: f"-n {namespace}"},
        shown={namespace: "coding-agent"},
        environment={"KUBECONFIG": str(plane.kubeconfig)},
    )


def _ends(job: str) -> Ends | None:
    """How the pod of a Job ends, by the number of its issue."""
    if "-issue-7-" in job:
        return reported(
            Reason.COMPLETED,
            "The pull request is open.",
            branch="coding-agent/issue-7",
            change_url="https://github.com/acme/pricing/pull/8",
        )
    if "-issue-9-" in job:
        return reported(
            Reason.FORGE_REFUSED, "The forge refused to push: the token lacks the right to write contents."
        )
    return None
