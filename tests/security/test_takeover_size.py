"""Wall: the takeover of work against its size. A patch that unpacks to much is refused before git reads it.

The decoy: git itself, given such a patch, takes many times its size of memory.
"""

import os
import resource
import subprocess
from pathlib import Path

import pytest
from coding_agent_consumer.repository import clone as consumer_repository
from coding_agent_consumer.repository.clone import BareClone
from coding_agent_consumer.repository.commits import InvalidPatchError, require_bounded
from coding_agent_consumer.repository.git_errors import GitFailedError
from coding_agent_consumer.workspace.framing import MAX_FILE, MAX_UNPACKED
from coding_agent_core.forge.values import CommitIdentity

from tests.integration.consumer_workspace.git_server import GitServer, git, permitted

MiB = 2**20
AUTHOR = CommitIdentity("coding agent", "agent@example.com")
BRANCH = "coding-agent/issue-7"


@pytest.fixture
async def repository(git_server: GitServer, tmp_path: Path) -> BareClone:
    git_server.make("large.git", {"large": "a" * (2 * MiB)})
    return await BareClone.clone(
        git_server.credentials("large.git"),
        tmp_path / "agent",
        base="main",
        branch=BRANCH,
        push_check=permitted,
    )


def patch_of(folder: Path, before: dict[str, bytes], after: dict[str, bytes | None]) -> bytes:
    """The binary patch between two states of files; `None`: removed."""
    work = folder / "patched"
    git(folder, "init", "-q", str(work))
    for name, content in before.items():
        (work / name).write_bytes(content)
    git(work, "add", "-A")
    git(work, "commit", "-q", "--allow-empty", "-m", "before")
    for name, changed in after.items():
        (work / name).unlink(missing_ok=True) if changed is None else (work / name).write_bytes(changed)
    git(work, "add", "-A")
    diff = ["git", "diff", "--cached", "--binary", "--full-index", "--no-renames", "HEAD"]
    return subprocess.run(diff, cwd=work, check=True, capture_output=True).stdout


NOISE = os.urandom(MiB)
TOO_LARGE: dict[str, tuple[dict[str, bytes], dict[str, bytes | None]]] = {
    "a new file": ({}, {"big": bytes(MAX_FILE + 1)}),
    "a removed file": ({"big": bytes(MAX_FILE + 1)}, {"big": None}),
    "a delta that grows": ({"big": NOISE}, {"big": NOISE + bytes(MAX_FILE)}),
    "a delta that shrinks": ({"big": NOISE + bytes(MAX_FILE)}, {"big": NOISE}),
}


def test_many_files_within_their_limit_are_refused_together(tmp_path: Path) -> None:
    count = MAX_UNPACKED // MAX_FILE + 1
    patch = patch_of(tmp_path, {}, {f"f{number}": bytes(MAX_FILE) for number in range(count)})
    with pytest.raises(InvalidPatchError, match="MiB of binary files"):
        require_bounded(patch)


@pytest.mark.parametrize("case", TOO_LARGE)
def test_a_patch_with_a_large_file_is_refused_by_name(tmp_path: Path, case: str) -> None:
    patch = patch_of(tmp_path, *TOO_LARGE[case])
    assert len(patch) < 4 * MiB
    if "delta" in case:
        assert b"\ndelta " in patch
    with pytest.raises(InvalidPatchError, match=r"^big has 3[23] MiB"):
        require_bounded(patch)


def test_what_text_says_is_no_header(tmp_path: Path) -> None:
    text = b"GIT binary patch\nliteral 99999999999\n\ndelta 4\ncopy from x\nrename to y\n"
    require_bounded(patch_of(tmp_path, {"a": b"old\n"}, {"a": text}))


HEAD = b"diff --git a/x b/x\nnew file mode 100644\nindex " + b"0" * 40 + b".." + b"1" * 40 + b"\n"


@pytest.mark.parametrize(
    "lines",
    [
        *(b"literal -1\n", b"literal +1\n", b"literal 0x10\n", b"literal \n", b"literal 9999999999999\n"),
        *(b"delta 5\n\n", b"delta 5\nnot data\n\n", b"delta 99999999999\n\n", b"delta 5\nEaaaaa\n\n"),
        *(b"copy from large\ncopy to x\n", b"rename from large\nrename to x\n"),
    ],
)
def test_what_no_git_writes_is_refused(lines: bytes) -> None:
    with pytest.raises(InvalidPatchError):
        require_bounded(HEAD + b"GIT binary patch\n" + lines)


@pytest.mark.long
def test_git_itself_takes_many_times_the_size(tmp_path: Path) -> None:
    """What the limits are for: a patch of 2 MiB, and git with 256 MiB of memory."""
    patch = patch_of(tmp_path, {}, {"big": bytes(300 * MiB)})
    assert len(patch) < 2 * MiB
    apply = subprocess.run(
        ["git", "apply", "--cached", "--binary", "-"],
        cwd=tmp_path / "patched",
        check=False,
        input=patch,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (256 * MiB, 256 * MiB)),
    )
    assert apply.returncode != 0
    assert b"memory" in apply.stderr


async def test_git_has_a_limit_of_memory_and_its_end_is_told(
    repository: BareClone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of changes of one file each hold a copy of it, whatever the size of the patch."""
    patch = b"".join(
        b"diff --git a/large b/large\nold mode 100%d\nnew mode 100%d\n" % modes
        for _ in range(100)
        for modes in ((644, 755), (755, 644))
    )
    monkeypatch.setattr(consumer_repository, "_GIT_MEMORY", 128 * MiB)
    with pytest.raises(InvalidPatchError, match="git apply needed more than 128 MiB of memory"):
        await repository.commit(patch, "Change", AUTHOR)


async def test_a_killed_git_is_told_as_what_it_is(
    repository: BareClone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(GitFailedError, match=r"git gc was killed \(SIGKILL\).*out of memory"):
        await repository._git.local("gc")
