"""File operations and the patch, through the socket."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from coding_agent_consumer.repository.commits import require_bounded
from coding_agent_consumer.workspace.framing import Patch, Seed
from coding_agent_consumer.workspace.launch import launch_workspace
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceRequestError
from coding_agent_core.settings.attempt_settings import WorkspaceSettings

from tests.integration.consumer_workspace.git_server import git


@pytest.fixture
async def workspace(base_dir: Path, seed: Seed) -> AsyncIterator[Workspace]:
    async with launch_workspace(WorkspaceSettings(), base_dir=base_dir) as client:
        await client.seed(seed)
        yield client


def applied(patch: bytes, tmp_path: Path) -> Path:
    copy = tmp_path / "applied"
    git(tmp_path, "clone", "-q", "-b", "work", str(tmp_path / "seed"), str(copy))
    (tmp_path / "patch").write_bytes(patch)
    git(copy, "apply", "--index", "--binary", str(tmp_path / "patch"))
    return copy


async def test_a_file_is_read_edited_written_listed_and_found(workspace: Workspace) -> None:
    assert await workspace.read_file("calc.py") == "     1\tdef add(a, b):\n     2\t    return a - b"
    assert await workspace.read_file("calc.py", start_line=2, line_count=1) == "     2\t    return a - b"
    assert "[1 more lines; continue from line 2]" in await workspace.read_file("calc.py", line_count=1)
    await workspace.edit_file("calc.py", "a - b", "a + b")
    await workspace.write_file("new/deep/日本.txt", "こんにちは\n")
    await workspace.run("touch noise.log")
    assert await workspace.list_files() == ".gitignore\ncalc.py\nlogo.bin\nnew/deep/日本.txt"
    assert await workspace.list_files("new") == "new/deep/日本.txt"
    assert await workspace.search(r"return \w \+") == "calc.py:2:     return a + b"
    assert await workspace.search("こん", "new") == "new/deep/日本.txt:1: こんにちは"
    assert await workspace.search("nowhere") == "(no match)"


async def test_paths_out_of_the_tree_are_refused(workspace: Workspace) -> None:
    await workspace.run("ln -s /etc out; ln -s /etc/passwd link; ln -s ../home/made made")
    for path in ("../secret", "/etc/passwd", "a/../../x", "out/passwd", "link", "\ud800", "a" * 5000, "x\0y"):
        for act in (
            workspace.read_file(path),
            workspace.write_file(path, "x"),
            workspace.edit_file(path, "root", "x"),
            workspace.list_files(path),
            workspace.search("x", path),
        ):
            with pytest.raises(WorkspaceRequestError):
                await act
    with pytest.raises(WorkspaceRequestError, match="outside"):
        await workspace.write_file("made", "through a link to nothing yet")


async def test_what_is_no_text_file_is_refused_in_words(workspace: Workspace) -> None:
    await workspace.run("mkfifo pipe; mkdir folder; truncate -s 20M large; ln -s /dev/zero zero")
    for path, word in [
        ("pipe", "not a regular"),
        ("folder", "folder"),
        ("large", "larger"),
        ("zero", "outside"),
        ("logo.bin", "binary"),
        ("absent", "no file"),
    ]:
        with pytest.raises(WorkspaceRequestError, match=word):
            await workspace.read_file(path)


async def test_an_edit_must_fit_exactly_once(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceRequestError, match="does not occur"):
        await workspace.edit_file("calc.py", "nothing", "x")
    with pytest.raises(WorkspaceRequestError, match="occurs 2 times"):
        await workspace.edit_file("calc.py", "b", "x")
    await workspace.run("printf 'one\\r\\ntwo\\r\\n' > dos.txt; chmod 755 dos.txt")
    await workspace.edit_file("dos.txt", "one\ntwo", "1\n2")
    assert (
        "1\\r\\n2\\r\\n"
        in (await workspace.run('python3 -c \'print(repr(open("dos.txt",newline="").read()))\'')).output
    )
    assert (await workspace.run("test -x dos.txt")).exit_code == 0


async def test_the_patch_holds_every_kind_of_change(workspace: Workspace, seed: Seed, tmp_path: Path) -> None:
    assert (await workspace.diff()).data == b""
    await workspace.run(
        "printf 'x\\n' >> calc.py; chmod +x calc.py; head -c 3000 /dev/urandom > logo.bin; rm .gitignore;"
        "echo n > 'new name.txt'; ln -s /etc/passwd shadow; head -c 100 logo.bin | sha256sum > sum"
    )
    copy = applied((await workspace.diff()).data, tmp_path)
    assert (copy / "calc.py").stat().st_mode & 0o100
    assert (copy / "logo.bin").stat().st_size == 3000
    assert not (copy / ".gitignore").exists()
    assert (copy / "new name.txt").read_text() == "n\n"
    assert (copy / "shadow").readlink() == Path("/etc/passwd")


@pytest.mark.parametrize(
    "sabotage",
    [
        "git add -A; git commit -qm mine; git checkout -q --orphan other; git reset -q; >.git/index.lock",
        "echo calc.py >> .git/info/exclude; git update-index --assume-unchanged calc.py",
        "rm -rf .git; touch ../git/index.lock",
    ],
)
async def test_the_work_is_not_lost_whatever_is_done_to_the_trees_git(
    workspace: Workspace, sabotage: str
) -> None:
    await workspace.edit_file("calc.py", "a - b", "a + b")
    await workspace.run(sabotage)
    assert b"+    return a + b" in (await workspace.diff()).data


async def test_what_is_no_work_is_left_out_and_stops_nothing(workspace: Workspace) -> None:
    """Ignored and unreadable files, leftovers of test runs, and repositories made inside."""
    await workspace.run(
        "mkdir build; echo x > build/x; echo a > a.log; echo k > kept; echo s > s; chmod 000 s; mkfifo p;"
        "git init -q dep; cd dep; echo x > x; git add x; git commit -qm x; cd .."
    )
    patch = (await workspace.diff()).data
    assert re.findall(rb"^diff --git a/(\S+)", patch, re.MULTILINE) in ([b"kept"], [b"kept", b"s"])
    await workspace.run(
        "rm .gitignore; mkdir -p __pycache__ node_modules/x; echo x > __pycache__/calc.cpython-311.pyc;"
        "echo x > node_modules/x/y; rm -f ../git/info/exclude"
    )
    patch = (await workspace.diff()).data
    assert b"b/kept" in patch
    assert b"__pycache__" not in patch
    assert b"node_modules" not in patch


async def test_a_file_that_is_too_large_hides_no_other_whatever_its_name_is(workspace: Workspace) -> None:
    """A line of an exclude file cannot name it: `/a` and `b.md` would be two patterns there."""
    names = r"$'a\nb.md' $'*\n*' $'c\n!d' ':(top)e' '\x' '[a-z]' '#f' 'g '"
    large = f'for n in {names}; do truncate -s 33M -- "$n"; done'
    await workspace.run(f"{large}; echo x | tee a b.md c d e x f g")
    patch = await workspace.diff()
    shown = re.findall(r"^diff --git a/(\S+) ", patch.data.decode(), re.MULTILINE)
    assert shown == ["a", "b.md", "c", "d", "e", "f", "g", "x"]
    assert len(patch.left_out) == 8


async def test_binary_files_that_git_could_not_hold_are_left_out(workspace: Workspace) -> None:
    await workspace.run("for n in 1 2 3 4 5; do truncate -s 30000000 huge$n; done; echo x > x")
    patch = await workspace.diff()
    assert patch.left_out == ("huge1 (29 MiB)",)
    require_bounded(patch.data)
    assert b"b/x" in patch.data


async def test_files_that_are_too_large_are_named_and_the_rest_is_kept(workspace: Workspace) -> None:
    await workspace.run("echo kept > kept; truncate -s 700M 'core dump'; fallocate -l 33M logo.bin")
    patch = await workspace.diff()
    assert patch.left_out == ("core dump (700 MiB)", "logo.bin (33 MiB)")
    assert re.findall(rb"^diff --git a/(\S+)", patch.data, re.MULTILINE) == [b"kept"]
    await workspace.run("git checkout -q logo.bin; echo small > 'core dump'")
    patch = await workspace.diff()
    assert patch.left_out == ()
    assert b"b/core dump" in patch.data


async def test_a_change_of_text_alone_may_be_too_large(workspace: Workspace) -> None:
    await workspace.run("for n in 1 2 3; do yes 'a line of text' | head -c 27000000 > text$n; done")
    patch = await workspace.diff()
    assert [name.split()[0] for name in patch.left_out] == ["text1", "text2"]
    assert b"b/text3" in patch.data


COMMITS = "git commit -qam Work && git checkout -q work"
ELSEWHERE = {
    "a stash": ("sed -i s/-/+/ calc.py && echo n > new && git stash -qu", "a stash"),
    "a worktree": (
        "git worktree add -q ../home/wt && cd ../home/wt && sed -i s/-/+/ calc.py && echo n > new",
        "the worktree ",
    ),
    "its own branch, which is not checked out": (
        "sed -i s/-/+/ calc.py && git commit -qam Work && git checkout -q HEAD~1",
        "the branch work",
    ),
    "the newest of two branches": (
        "git checkout -qb old && echo old > old && git add old"
        " && GIT_COMMITTER_DATE=2001-01-01T00:00 git commit -qm Old"
        f" && git checkout -q work && git checkout -qb side && sed -i s/-/+/ calc.py && {COMMITS}",
        "the branch side",
    ),
}


@pytest.mark.parametrize("where", ELSEWHERE)
async def test_work_that_is_not_checked_out_is_not_lost(workspace: Workspace, where: str) -> None:
    command, source = ELSEWHERE[where]
    await workspace.run("git branch without-work; git tag v1; git worktree add -q ../home/none")
    assert await workspace.diff() == Patch()
    ran = await workspace.run(command)
    assert ran.exit_code == 0, ran.output
    patch = await workspace.diff()
    assert b"+    return a + b" in patch.data
    assert b"b/old" not in patch.data
    assert (b"b/new" in patch.data) == ("new" in command.split())
    assert patch.source.startswith(source)
    await workspace.run("echo y > y")
    patch = await workspace.diff()
    assert (patch.source, b"calc.py" in patch.data) == ("", False), "what is checked out comes first"


@pytest.mark.parametrize(
    "trap",
    [
        "rm -rf .git; mkfifo .git",
        "mkdir -p .git/worktrees/{x,y,z}; mkfifo .git/worktrees/x/gitdir; echo /etc/passwd >"
        " .git/worktrees/y/gitdir; echo /.git > .git/worktrees/z/gitdir; echo junk > .git/refs/heads/work",
        "echo '[core' > .git/config",
        "git branch side; rm -rf .git/objects",
    ],
)
async def test_a_trap_for_that_search_finds_nothing_and_ends(workspace: Workspace, trap: str) -> None:
    await workspace.run(trap)
    async with asyncio.timeout(100):
        assert (await workspace.diff()).left_out == ()
    await workspace.run("echo y > y")
    assert b"b/y" in (await workspace.diff()).data


async def test_it_is_seeded_once_and_with_whole_packs(base_dir: Path, seed: Seed, tmp_path: Path) -> None:
    junk = tmp_path / seed.packs[0].name
    for file in (junk, junk.with_suffix(".idx")):
        file.write_bytes(b"junk")
    other = tmp_path / "other.pack"
    for file in (other, other.with_suffix(".idx")):
        file.write_bytes(b"junk")
    async with launch_workspace(WorkspaceSettings(), base_dir=base_dir) as client:
        with pytest.raises(WorkspaceRequestError, match="no repository yet"):
            await client.diff()
        with pytest.raises(WorkspaceRequestError):
            await client.seed(replace(seed, packs=(junk,)))
        with pytest.raises(WorkspaceRequestError, match="not a pack's"):
            await client.seed(replace(seed, packs=(other,)))
        with pytest.raises(WorkspaceRequestError):
            await client.seed(replace(seed, commit="1" * 40))
        await client.seed(seed)
        with pytest.raises(WorkspaceRequestError, match="already"):
            await client.seed(seed)


async def test_a_seed_that_cannot_be_kept_is_refused_whatever_of_it_was_read(
    base_dir: Path, tmp_path: Path, seed: Seed
) -> None:
    large = tmp_path / seed.packs[0].name
    large.write_bytes(bytes(8 * 2**20))  # more than fits between the two while nobody reads
    large.with_suffix(".idx").touch()
    async with launch_workspace(WorkspaceSettings(), base_dir=base_dir) as client:
        root = '"$(cd .. && pwd)"'
        assert (await client.run(f"chmod 555 {root}")).exit_code == 0
        with pytest.raises(WorkspaceRequestError, match="cannot do that"):
            await client.seed(replace(seed, packs=(large,)))
        await client.run(f"chmod 755 {root}")
