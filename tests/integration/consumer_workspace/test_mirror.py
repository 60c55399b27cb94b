"""The mirror of a repository: it saves fetching, and nothing that happens to it makes a clone fail."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from coding_agent_consumer.repository import mirror as module
from coding_agent_consumer.repository.clone import BareClone
from coding_agent_consumer.repository.mirror import Mirror
from coding_agent_testbed.until import until

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
        server.credentials(), folder, base="main", branch=branch, mirror=mirror, push_check=permitted
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


def cut_packs(packs: Path) -> None:
    for pack in packs.glob("*.pack"):
        os.truncate(pack, pack.stat().st_size // 2)


def flip_a_bit(packs: Path) -> None:
    for pack in packs.glob("*.pack"):
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)


def cut_indexes(packs: Path) -> None:
    for index in packs.glob("*.idx"):
        os.truncate(index, index.stat().st_size // 2)


def lose_a_pack(packs: Path) -> None:
    next(packs.glob("*.pack")).unlink()


def swap_packs(packs: Path) -> None:
    """Each is whole, but not the one of its name."""
    shutil.copyfile(*sorted(packs.glob("*.pack"))[:2])


def break_the_manifest(packs: Path) -> None:
    (packs / "manifest.json").write_text("{")


def name_a_commit_that_is_not_there(packs: Path) -> None:
    manifest = packs / "manifest.json"
    text = manifest.read_text()
    commit = json.loads(text)["bases"]["main"]
    manifest.write_text(text.replace(commit, "1" * 40))


@pytest.mark.long
@pytest.mark.parametrize(
    "damage",
    [
        cut_packs,
        flip_a_bit,
        cut_indexes,
        lose_a_pack,
        swap_packs,
        break_the_manifest,
        name_a_commit_that_is_not_there,
    ],
)
async def test_a_broken_mirror_is_replaced(
    server: GitServer, tmp_path: Path, mirror: Mirror, damage: Callable[[Path], None]
) -> None:
    await clone(server, tmp_path / "one", mirror)
    push(server, "second")
    await clone(server, tmp_path / "one-more", mirror)
    assert len(list(mirror.packs.glob("*.pack"))) == 2
    damage(mirror.packs)
    push(server, "new")
    await clone(server, tmp_path / "two", mirror)
    assert_whole(server, tmp_path / "two")
    await clone(server, tmp_path / "three", mirror)  # if that one could go on without noticing
    del server.packed[:]
    await clone(server, tmp_path / "four", mirror)
    assert_whole(server, tmp_path / "four")
    assert server.packed == []


_CUT_OFF = """
import asyncio, sys, time
from pathlib import Path
from coding_agent_consumer.repository import mirror as module
from coding_agent_consumer.repository.clone import BareClone
from tests.integration.consumer_workspace.git_server import GitServer, permitted

_, root, port, folder, mirror = sys.argv

def half(source, target):
    if Path(mirror) in target.parents:
        target.with_name(f"{target.name}.new").write_bytes(source.read_bytes()[:100])
        Path(mirror, "half").touch()
        time.sleep(300)  # not a wait
    return whole(source, target)

whole, module._copy = module._copy, half
asyncio.run(
    BareClone.clone(
        GitServer(Path(root), int(port)).credentials(), Path(folder), base="main", branch="work",
        mirror=module.Mirror(Path(mirror)), push_check=permitted,
    )
)
"""


@pytest.mark.long
async def test_an_agent_that_is_killed_in_mid_update_leaves_nothing_that_matters(
    server: GitServer, tmp_path: Path, mirror: Mirror
) -> None:
    await clone(server, tmp_path / "one", mirror)
    push(server, "new")
    arguments = (server.root, server.port, tmp_path / "two", mirror.directory)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CUT_OFF, *map(str, arguments)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    await asyncio.to_thread(until, "it copies", (mirror.directory / "half").exists, timeout=60)
    # While it holds the lock, others go on without.
    await clone(server, tmp_path / "meanwhile", mirror)
    assert_whole(server, tmp_path / "meanwhile")
    process.kill()
    await process.wait()
    await clone(server, tmp_path / "three", mirror)
    assert_whole(server, tmp_path / "three")
    assert not list(mirror.directory.rglob("*.new"))
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
    assert len(list(mirror.packs.glob("*.pack"))) <= 2, "they do not pile up"
    # What another attempt takes from it alone is whole.
    del server.packed[:]
    await clone(server, tmp_path / "last", mirror)
    assert_whole(server, tmp_path / "last")
    assert server.packed == []
