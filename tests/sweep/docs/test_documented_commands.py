"""Every documented command that can run here does, in the order of its page, and prints what it says."""

from pathlib import Path

import pytest
from coding_agent_docs.blocks import blocks
from coding_agent_docs.paths import ROOT

from tests.sweep.docs.conftest import MakeShell
from tests.sweep.docs.played import pages_with

# A page may run two demos, and start a control plane of its own; helm may have to be built first.
pytestmark = pytest.mark.timeout(1200)

CHANGING = ("docs/kubectl.md", "docs/operations/index.md", "docs/troubleshooting.md")
"""Pages whose commands change the tasks of a cluster."""


@pytest.mark.parametrize("page", pages_with("checkout"))
def test_commands_of_a_checkout(page: str, checkout: MakeShell) -> None:
    assert checkout().play(blocks(ROOT / page), "checkout")


@pytest.mark.parametrize("page", pages_with("copy"))
def test_commands_in_a_copy_of_a_checkout(page: str, copy: MakeShell) -> None:
    assert copy().play(blocks(ROOT / page), "copy")


@pytest.mark.parametrize("page", pages_with("receiver"))
def test_commands_beside_a_receiver(page: str, receiver: MakeShell) -> None:
    assert receiver().play(blocks(ROOT / page), "receiver")


def clusters_with_tasks() -> list[list[str]]:
    """The pages that share a cluster: one for each page that changes its tasks, one for all others."""
    changing = [page for page in pages_with("tasks") if page in CHANGING]
    return [[page] for page in changing] + [[page for page in pages_with("tasks") if page not in CHANGING]]


@pytest.mark.parametrize("sharing", clusters_with_tasks(), ids=", ".join)
def test_commands_on_a_cluster_with_tasks(sharing: list[str], tasks: MakeShell) -> None:
    shell = tasks()
    for page in sharing:
        assert shell.play(blocks(ROOT / page), "tasks"), page


@pytest.mark.parametrize("page", pages_with("install"))
def test_commands_on_an_empty_cluster(page: str, install_plane: MakeShell) -> None:
    assert install_plane().play(blocks(ROOT / page), "install")


@pytest.mark.parametrize("page", pages_with("release"))
def test_commands_beside_a_release(page: str, release: MakeShell) -> None:
    assert release().play(blocks(ROOT / page), "release")


def test_a_page_that_says_something_else_is_found(tmp_path: Path, checkout: MakeShell) -> None:
    stale = tmp_path / "stale.md"
    stale.write_text("<!-- run: checkout -->\n```sh\necho new\n```\n<!-- prints -->\n```\nold\n```\n")
    with pytest.raises(pytest.fail.Exception, match="does not show what is printed now"):
        checkout().play(blocks(stale), "checkout")
