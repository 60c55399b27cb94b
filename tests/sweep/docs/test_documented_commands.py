"""Every documented command that can run here does, in the order of its page, and prints what it says."""

import re
from pathlib import Path

import pytest
from coding_agent_docs.blocks import blocks, script
from coding_agent_docs.paths import ROOT, pages

from tests.sweep.docs.conftest import MakeShell

# A page may run two demos, and start a control plane of its own; helm may have to be built first.
pytestmark = pytest.mark.timeout(1200)

SETTINGS = ("checkout", "receiver", "tasks", "install", "release")
ELSEWHERE = ("cluster",)
"""Run by test_docs_install.py on a real node."""
CHANGING = ("docs/kubectl.md", "docs/operations/index.md", "docs/troubleshooting.md")
"""Pages whose commands change the tasks of a cluster."""


def to_do(page: Path, setting: str) -> frozenset[tuple[str, str]]:
    """The page's commands of this setting without their comments, each with what it says that they print."""
    done, last = [], False
    for block in blocks(page):
        if block.word == "run":
            last = block.what == setting
            if last:
                done.append((re.sub(r"\s+#.*", "", script(block)), ""))
        elif block.word == "prints" and last:
            done[-1] = (done[-1][0], block.text)
    return frozenset(done)


def pages_with(setting: str) -> list[str]:
    """The pages that have blocks to be run in this setting, without those of which another one has all."""
    found: dict[Path, frozenset[tuple[str, str]]] = {}
    # Translations come last.
    for page in sorted(pages(), key=lambda page: page.name.endswith(".ja.md")):
        work = to_do(page, setting)
        if work and not any(work <= more for more in found.values()):
            found[page] = work
    return [str(page.relative_to(ROOT)) for page in found]


@pytest.mark.parametrize("page", pages_with("checkout"))
def test_commands_of_a_checkout(page: str, checkout: MakeShell) -> None:
    assert checkout().play(blocks(ROOT / page), "checkout")


@pytest.mark.parametrize("page", pages_with("receiver"))
def test_commands_beside_a_receiver(page: str, receiver: MakeShell) -> None:
    assert receiver().play(blocks(ROOT / page), "receiver")


def clusters_with_tasks() -> list[list[str]]:
    """The pages that share a cluster: one for each page that changes its tasks, one for all others."""
    changing = [page for page in pages_with("tasks") if page in CHANGING]
    return [[page] for page in changing] + [[page for page in pages_with("tasks") if page not in CHANGING]]


@pytest.mark.xdist_group("docs-tasks")
@pytest.mark.parametrize("sharing", clusters_with_tasks(), ids=", ".join)
def test_commands_on_a_cluster_with_tasks(sharing: list[str], tasks: MakeShell) -> None:
    shell = tasks()
    for page in sharing:
        assert shell.play(blocks(ROOT / page), "tasks"), page


@pytest.mark.xdist_group("docs-tasks")
@pytest.mark.parametrize("page", pages_with("install"))
def test_commands_on_an_empty_cluster(page: str, install_plane: MakeShell) -> None:
    assert install_plane().play(blocks(ROOT / page), "install")


@pytest.mark.xdist_group("docs-tasks")
@pytest.mark.parametrize("page", pages_with("release"))
def test_commands_beside_a_release(page: str, release: MakeShell) -> None:
    assert release().play(blocks(ROOT / page), "release")


def test_no_block_is_marked_for_a_setting_that_nobody_runs() -> None:
    marked = {
        (str(page.relative_to(ROOT)), block.what)
        for page in pages()
        for block in blocks(page)
        if block.word == "run"
    }
    assert {what for _, what in marked} <= {*SETTINGS, *ELSEWHERE}, marked
    assert ("README.md", "checkout") in marked


def test_a_page_that_says_something_else_is_found(tmp_path: Path, checkout: MakeShell) -> None:
    stale = tmp_path / "stale.md"
    stale.write_text("<!-- run: checkout -->\n```sh\necho new\n```\n<!-- prints -->\n```\nold\n```\n")
    with pytest.raises(pytest.fail.Exception, match="does not show what is printed now"):
        checkout().play(blocks(stale), "checkout")
