"""A workspace that starts over, or is restored, whatever the code of a commit did in it before."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from coding_agent_consumer.workspace.framing import Seed
from coding_agent_consumer.workspace.launch import connect_sidecar
from coding_agent_consumer.workspace.protocol import Workspace, WorkspaceRequestError
from coding_agent_core.settings.attempt_settings import WorkspaceSettings

from tests.fixtures.repositories import seed_of
from tests.integration.consumer_attempt.place import WorkspaceProcess
from tests.integration.consumer_workspace.git_server import git

FILES = {"a.md": "bad\n", "b/c.md": "bad\n", ".gitignore": ".deps/\n"}
REQUESTS = """
import json, socket, struct
session = socket.socket(socket.AF_UNIX)
session.connect(SOCKET)
for number in range(60):
    ours, theirs = socket.socketpair()
    asked = ({"op": "diff", "body": 0}, {"op": "write_file", "path": "a.md", "body": 5})[number % 2]
    head = json.dumps(asked).encode()
    ours.sendall(struct.pack(">I", len(head)) + head + b"good\\n"[: asked["body"]])
    socket.send_fds(session, [b"x"], [theirs.fileno()])
"""
"""Leaves requests to the workspace's server, which would answer them before the next command."""
FAKES = {
    "rewrites the tree": "echo good > a.md; mkdir -p made; echo x > made/new.md",
    "leaves a process": (
        "setsid sh -c 'while :; do echo good > a.md; sleep 0.01; done' >/dev/null 2>&1 & sleep 0.3"
    ),
    "commits": "echo good > a.md; git commit -qam better; git checkout -qb other",
    "hides its change from git": (
        "git update-index --skip-worktree a.md; git update-index --assume-unchanged b/c.md; echo good > a.md;"
        "echo '*' > .git/info/exclude; echo 'a.md ident' > .git/info/attributes"
    ),
    "changes the repositories": (
        "echo good > a.md; blob=$(git hash-object -w a.md); git update-index --cacheinfo 100644,$blob,a.md;"
        "tree=$(git write-tree); commit=$(git commit-tree $tree -m x);"
        "git -C ../git fetch -q ../tree $commit;"
        "git -C ../git update-ref refs/workspace/seed $commit; git update-ref HEAD $commit; mkdir .git/hooks;"
        "git config core.fsmonitor 'echo good > a.md'; echo 'echo good > a.md' > .git/hooks/post-checkout;"
        "chmod +x .git/hooks/post-checkout; echo /nothing > .git/objects/info/alternates"
    ),
    "replaces files by links and folders": (
        "mkdir ../other; echo good > ../other/c.md; rm -r b; ln -s ../other b; rm a.md; mkdir a.md"
    ),
    "replaces the tree": (
        "cp -r ../tree ../other; echo good > ../other/a.md; mv ../tree ../old; ln -s other ../tree"
    ),
    "leaves attributes": "mkdir -p b; echo '* text eol=crlf' > b/.gitattributes",
    "leaves files in HOME and TMPDIR": (
        "echo '[core]\n\tworktree = /' > ~/.gitconfig; echo good > a.md; "
        "echo x > $TMPDIR/mark; echo x > ../mark"
    ),
    "takes rights away": "echo good > a.md; mkdir -p b/deep/er; chmod 000 b/deep b; chmod 555 .deps",
    "leaves requests": "python3 ~/requests.py; sleep 0.5",
}
CHECK = "grep -q good a.md || grep -q good b/c.md; echo $?; git status --porcelain 2>&-; git rev-parse HEAD"


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[WorkspaceProcess]:
    made = WorkspaceProcess(tmp_path)
    made.fresh()
    yield made
    made.end()


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    source = tmp_path / "source"
    for name, text in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    subprocess.run(["git", "init", "-q", "-b", "main", str(source)], check=True)
    git(source, "add", "-A")
    git(source, "-c", "user.name=A", "-c", "user.email=a@example.com", "commit", "-qm", "bad")
    return seed_of(source, "main")


async def fake(process: WorkspaceProcess, seed: Seed, way: str) -> tuple[Workspace, str]:
    """A workspace in which code of the commit ran, and what the check tells of the commit itself."""
    workspace = await connect_sidecar(WorkspaceSettings(), process.socket)
    await workspace.start_over(seed)
    clean = (await workspace.run(CHECK)).output
    assert clean.startswith("1\n")
    (process.root / "home/requests.py").write_text(REQUESTS.replace("SOCKET", repr(str(process.socket))))
    await workspace.run("mkdir -p .deps/lib; echo x > .deps/lib/made; echo x > ~/installed")
    await workspace.run(FAKES[way])
    return workspace, clean


@pytest.mark.parametrize("way", FAKES)
async def test_nothing_is_left_when_it_starts_over(process: WorkspaceProcess, seed: Seed, way: str) -> None:
    workspace, clean = await fake(process, seed, way)
    await workspace.start_over(seed)
    assert (await workspace.run(CHECK)).output == clean
    left = await workspace.run("ls -A ~ $TMPDIR; test ! -e .deps; echo $?; ls -A ..")
    # git's errors, and the packs, have no name here.
    assert left.output.split("\n")[-7:] == ["0", "git", "home", "seeded", "tmp", "tree", ""], left.output
    assert len(left.output.splitlines()) == 9, left.output


@pytest.mark.parametrize("way", FAKES)
async def test_only_files_that_git_does_not_track_are_left_when_it_is_restored(
    process: WorkspaceProcess, seed: Seed, way: str
) -> None:
    workspace, clean = await fake(process, seed, way)
    await workspace.restore(seed)
    untracked = {"rewrites the tree": "made/", "leaves attributes": "b/.gitattributes"}.get(way, "")
    # Once only: the commit's id can end with this digit too.
    expected = clean.replace("1\n", f"1\n?? {untracked}\n", 1) if untracked else clean
    if "HOME" in way:
        await workspace.run("rm ~/.gitconfig")
    assert (await workspace.run(CHECK)).output == expected
    kept = await workspace.run("cat .deps/lib/made ~/installed")
    assert kept.exit_code == 0 or way == "replaces the tree"
    assert (process.root / "tree/b/c.md").read_text() == "bad\n"


async def test_a_file_that_cannot_be_removed_is_an_error(process: WorkspaceProcess, seed: Seed) -> None:
    workspace, _ = await fake(process, seed, "commits")
    (process.root / "home").chmod(0o700)
    process.root.chmod(0o500)
    try:
        with pytest.raises(WorkspaceRequestError):
            await workspace.start_over(seed)
    finally:
        process.root.chmod(0o700)
