"""The mirror of a repository: it saves fetching, and nothing that happens to it makes a clone fail."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from coding_agent_consumer.repository import mirror as module
from coding_agent_consumer.repository.clone import BareClone
from coding_agent_consumer.repository.mirror import Mirror
from coding_agent_testbed.cluster.wait import until

from tests.integration.consumer_workspace.git_server import GitServer, git, permitted

FILES = 10
"""Of the repository, each with a commit of its own."""


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    (tmp_path / "mirror").mkdir()
    return Mirror(tmp_path / "mirror")


@pytest.fixture
def server(git_server: GitServer) -> GitServer:
    push(git_server, *(f"file-{number}" for number in range(FILES)))
    return git_server


def push(server: GitServer, *names: str) -> None:
    work, bare = server.root / "sample.git.work", server.root / "sample.git"
    for name in names:
        (work / name).write_text(f"{name} {'x' * 1000}\n")
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", name)
    git(work, "push", "-q", str(bare), "HEAD:main")


async def clone(server: GitServer, folder: Path, mirror: Mirror, branch: str = "work") -> BareClone:
    return await BareClone.clone(
        server.credentials(), folder, base="main", branch=branch, mirror=mirror, permit=permitted
    )


def assert_whole(server: GitServer, folder: Path, commit: str = "main") -> None:
    """The clone has all of a commit, by default of the forge's newest, and depends on nothing else."""
    repository = folder / "repository.git"
    assert not (repository / "objects" / "info" / "alternates").exists()
    tip = git(server.root / "sample.git", "rev-parse", commit)
    assert git(repository, "rev-parse", "refs/remotes/origin/main") == tip
    git(repository, "fsck", "--full", "--strict")
    assert len(git(repository, "rev-list", tip).split()) >= FILES


async def test_an_attempt_fetches_only_what_no_earlier_one_has_fetched(
    server: GitServer, tmp_path: Path, mirror: Mirror
) -> None:
    await clone(server, tmp_path / "one", mirror)
    [first] = server.packed
    assert first > 3 * FILES
    push(server, "new")
    await clone(server, tmp_path / "two", mirror)
    assert server.packed == [first, 3], "a commit, a tree and a file"
    await clone(server, tmp_path / "three", mirror)
    assert server.packed == [first, 3], "the second has brought them"
    shutil.rmtree(mirror.directory)
    assert_whole(server, tmp_path / "one", "main~1")
    for name in ("two", "three"):
        assert_whole(server, tmp_path / name)


async def test_a_mirror_that_cannot_be_written_to_is_read(
    server: GitServer, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    await clone(server, tmp_path / "one", mirror)
    push(server, "new")
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = sorted(mirror.directory.rglob("*"))
    for name in ("two", "three"):
        await clone(server, tmp_path / name, mirror)
        assert_whole(server, tmp_path / name)
    assert server.packed[1:] == [3, 3]
    assert sorted(mirror.directory.rglob("*")) == before


def cut_packs(repository: Path) -> None:
    for pack in repository.glob("objects/pack/*.pack"):
        pack.chmod(0o600)
        os.truncate(pack, pack.stat().st_size // 2)


def break_references(repository: Path) -> None:
    for file in repository.glob("refs/base/*"):
        file.write_text("no commit\n")


def break_settings(repository: Path) -> None:
    (repository / "config").write_text("[core\n")


@pytest.mark.long
@pytest.mark.parametrize("damage", [cut_packs, break_references, break_settings])
async def test_a_broken_mirror_is_replaced(
    server: GitServer, tmp_path: Path, mirror: Mirror, damage: Callable[[Path], None]
) -> None:
    await clone(server, tmp_path / "one", mirror)
    damage(mirror.repository)
    push(server, "new")
    await clone(server, tmp_path / "two", mirror)
    assert_whole(server, tmp_path / "two")
    await clone(server, tmp_path / "three", mirror)  # if that one could go on without noticing
    del server.packed[:]
    await clone(server, tmp_path / "four", mirror)
    assert_whole(server, tmp_path / "four")
    assert server.packed == []


_UPDATE = """
import asyncio, sys
from pathlib import Path
from coding_agent_consumer.repository.git import Git
from coding_agent_consumer.repository.mirror import Mirror

async def nobody():
    raise AssertionError

asyncio.run(Mirror(Path(sys.argv[1])).update(Git(Path(sys.argv[2]), nobody), "main"))
"""
_SLOW_GIT = """#!/bin/sh
# Half a pack and a lock, as of a git that is killed while it fetches.
case "$*" in *" fetch "*)
    echo half > "$2/objects/pack/tmp_pack_half"
    mkdir -p "$2/refs/base"
    for file in HEAD packed-refs config; do echo > "$2/$file.lock"; done
    echo $$ > "$2/../killed"
    exec sleep 300
esac
exec {git} "$@"
"""


@pytest.mark.long
async def test_an_agent_that_is_killed_in_mid_update_leaves_nothing_that_matters(
    server: GitServer, tmp_path: Path, mirror: Mirror
) -> None:
    await clone(server, tmp_path / "one", mirror)
    push(server, "new")
    (tmp_path / "other").mkdir()
    await clone(server, tmp_path / "two", Mirror(tmp_path / "other"))
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(_SLOW_GIT.format(git=shutil.which("git")))
    slow.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _UPDATE, str(mirror.directory), str(tmp_path / "two" / "repository.git")),
        env={**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"},
    )
    marker = mirror.directory / "killed"
    await asyncio.to_thread(
        until, "git fetches", lambda: marker.exists() and marker.read_text().strip(), timeout=60
    )
    # While it holds the lock, others go on without.
    await clone(server, tmp_path / "meanwhile", mirror)
    assert_whole(server, tmp_path / "meanwhile")
    process.kill()
    await process.wait()
    os.kill(int(marker.read_text()), signal.SIGKILL)
    await clone(server, tmp_path / "three", mirror)
    assert_whole(server, tmp_path / "three")
    assert not list(mirror.directory.rglob("*.lock")) + list(mirror.directory.rglob("tmp_*"))
    git(mirror.repository, "fsck", "--full", "--strict")
    del server.packed[:]
    await clone(server, tmp_path / "four", mirror)
    assert server.packed == []


@pytest.mark.long
async def test_attempts_at_the_same_time(
    server: GitServer, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_PACKS", 2)
    for turn in range(3):
        push(server, f"turn-{turn}")
        names = [f"{turn}-{number}" for number in range(4)]
        await asyncio.gather(*(clone(server, tmp_path / name, mirror) for name in names))
        for name in names:
            assert_whole(server, tmp_path / name)
    assert len(list(mirror.repository.glob("objects/pack/*.pack"))) <= 2, "they do not pile up"
    git(mirror.repository, "fsck", "--full", "--strict")
