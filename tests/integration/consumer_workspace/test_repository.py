"""The agent's clone, over real HTTP: resume, push, and what the forge may answer."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from coding_agent_consumer.item.push_check import PushNotAllowedError
from coding_agent_consumer.repository.clone import BareClone
from coding_agent_consumer.repository.commits import InvalidPatchError
from coding_agent_consumer.repository.git_errors import GitFailedError, RemoteMovedError
from coding_agent_consumer.repository.ssh_signatures import SshSigner
from coding_agent_core.errors import (
    ForgeNotFoundError,
    ForgeRefusedError,
    ForgeUnavailableError,
    SettingsError,
)
from coding_agent_core.forge.values import CloneSource, CommitIdentity
from coding_agent_forges.rest.signed_commits import FileChanges

from tests.integration.consumer_workspace.git_server import TOKEN, GitServer, git, permitted, serve

AUTHOR = CommitIdentity("coding agent", "agent@example.com")
BRANCH = "coding-agent/issue-7"


async def clone(server: GitServer, directory: Path, base: str = "main", **source: str) -> BareClone:
    return await BareClone.clone(
        server.credentials(**source), directory, base=base, branch=BRANCH, push_check=permitted
    )


def patch_of(server: GitServer, changes: dict[str, str], start: str = "main") -> bytes:
    """What a workspace seeded with `start` would give after these changes."""
    work = server.root / "sample.git.work"
    git(work, "fetch", "-q", str(server.root / "sample.git"), start)
    git(work, "checkout", "-q", "-f", "FETCH_HEAD")
    for path, text in changes.items():
        (work / path).write_text(text)
    git(work, "add", "-A")
    patch = git(work, "diff", "--cached", "--binary", "--full-index", "HEAD") + "\n"
    git(work, "reset", "-q", "--hard")
    return patch.encode()


async def test_a_file_that_was_not_checked_out_cannot_be_removed(
    git_server: GitServer, tmp_path: Path
) -> None:
    files = {"a/b/c": "1\n", "a/d/e": "1\n", "a/f": "1\n", "g": "1\n", "ab/c": "1\n"}
    git_server.make("wide.git", files)
    repository = await clone(git_server, tmp_path / "agent", name="wide.git")
    seed = repository.seed(["a/b"])
    assert seed.folders == ("a/b",)

    def removing(path: str) -> bytes:
        work = git_server.root / "wide.git.work"
        git(work, "rm", "-q", path)
        patch = git(work, "diff", "--cached", "--binary", "--full-index", "HEAD") + "\n"
        git(work, "reset", "-q", "--hard")
        return patch.encode()

    for path in ("a/d/e", "ab/c"):
        with pytest.raises(InvalidPatchError, match=f"removes {path}, which `checkout`"):
            await repository.commit(removing(path), "Remove", AUTHOR)
    for path in ("a/b/c", "a/f", "g"):
        assert await repository.commit(removing(path), "Remove", AUTHOR)
    repository.seed()
    assert await repository.commit(removing("a/d/e"), "Remove", AUTHOR), "all was checked out"


async def test_a_change_is_committed_and_pushed_without_any_checkout(
    git_server: GitServer, tmp_path: Path
) -> None:
    repository = await clone(git_server, tmp_path / "agent")
    assert not repository.resumed
    patch = patch_of(git_server, {"calc.py": "def add(a, b):\n    return a + b\n"})
    commit = await repository.commit(patch, "Fix add", AUTHOR)
    await repository.push()
    bare = git_server.root / "sample.git"
    assert git(bare, "rev-parse", BRANCH) == commit
    assert "a + b" in git(bare, "show", f"{BRANCH}:calc.py")
    assert (
        git(bare, "log", "-1", "--format=%an <%ae> %s", BRANCH) == "coding agent <agent@example.com> Fix add"
    )
    assert not list((tmp_path / "agent").rglob("calc.py"))


async def test_the_content_of_a_file_for_git_lfs_is_not_committed(
    git_server: GitServer, tmp_path: Path
) -> None:
    """Whether the file is new or was a pointer, and whether the rule is old or part of the change."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3\n"
    rules = {".gitattributes": "[attr]big filter=lfs diff=lfs -text\n*.bin big\n", "old.bin": pointer}
    changes = {**rules, "new.bin": "raw\n", "a b.bin": "raw\n", "a.txt": "raw\n", "none.bin": ""}
    repository = await clone(git_server, tmp_path / "agent")
    with pytest.raises(InvalidPatchError, match=r"gitattributes`, a b\.bin, new\.bin would .* Git LFS"):
        await repository.commit(patch_of(git_server, changes), "Add", AUTHOR)
    kept = {path: text for path, text in changes.items() if "raw" not in text or path == "a.txt"}
    assert await repository.commit(patch_of(git_server, kept), "Add", AUTHOR)
    await repository.push()
    large = {"old.bin": "x" * 5000, ".gitattributes": "*.bin filter=lfs\n", "sub.txt": "x\n"}
    again = await clone(git_server, tmp_path / "again")
    with pytest.raises(InvalidPatchError, match=r"old\.bin would have to be uploaded"):
        await again.commit(patch_of(git_server, large, BRANCH), "Change", AUTHOR)


async def test_a_later_patch_of_the_same_attempt_follows_the_first_commit(
    git_server: GitServer, tmp_path: Path
) -> None:
    repository = await clone(git_server, tmp_path / "agent")
    first = await repository.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
    await repository.push()
    both = patch_of(git_server, {"a.txt": "1\n", "b.txt": "2\n"})
    second = await repository.commit(both, "Two", AUTHOR)
    await repository.push()
    assert await repository.commit(both, "Again", AUTHOR) is None
    await repository.push()
    bare = git_server.root / "sample.git"
    assert git(bare, "rev-parse", BRANCH) == second
    assert git(bare, "rev-parse", f"{BRANCH}^") == first


async def test_a_branch_that_moved_meanwhile_is_not_overwritten(
    git_server: GitServer, tmp_path: Path
) -> None:
    ours = await clone(git_server, tmp_path / "ours")
    theirs = await clone(git_server, tmp_path / "theirs")
    await theirs.commit(patch_of(git_server, {"a.txt": "theirs\n"}), "Theirs", AUTHOR)
    await theirs.push()
    await ours.commit(patch_of(git_server, {"a.txt": "ours\n"}), "Ours", AUTHOR)
    with pytest.raises(RemoteMovedError):
        await ours.push()
    assert git(git_server.root / "sample.git", "rev-parse", BRANCH) == theirs.tip


async def test_a_branch_without_work_of_its_own_is_not_resumed(git_server: GitServer, tmp_path: Path) -> None:
    git(git_server.root / "sample.git", "branch", BRANCH, "main")
    repository = await clone(git_server, tmp_path / "agent")
    assert (repository.exists, repository.resumed) == (True, False)
    commit = await repository.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
    await repository.push()
    assert git(git_server.root / "sample.git", "rev-parse", BRANCH) == commit
    assert (await clone(git_server, tmp_path / "again")).resumed


async def conflicting(server: GitServer, folder: Path) -> tuple[BareClone, str, str]:
    """A clone of a work branch that is in conflict with main, and the tips of both."""
    ours = await clone(server, folder / "ours")
    await ours.commit(patch_of(server, {"calc.py": "ours\n"}), "Ours", AUTHOR)
    await ours.push()
    theirs = await BareClone.clone(
        server.credentials(), folder / "theirs", base="main", branch="main", push_check=permitted
    )
    base = await theirs.commit(patch_of(server, {"calc.py": "theirs\n", "new.txt": "n\n"}), "Theirs", AUTHOR)
    await theirs.push()
    assert base is not None
    repository = await clone(server, folder / "again")
    return repository, ours.tip, base


class NoCommits:
    """A forge that is asked for nothing."""

    async def create_branch(self, branch: str, commit: str) -> None:
        raise AssertionError

    async def append(self, branch: str, expected: str, message: str, changes: FileChanges) -> None:
        raise AssertionError


async def test_a_merge_is_refused_if_the_forge_makes_the_commits(
    git_server: GitServer, tmp_path: Path
) -> None:
    repository = await BareClone.clone(
        *(git_server.credentials(), tmp_path / "agent"),
        base="main",
        branch=BRANCH,
        push_check=permitted,
        commits=NoCommits(),
    )
    with pytest.raises(InvalidPatchError, match="it signs no merge"):
        await repository.merge(repository.base, "Merge main\n", AUTHOR)


async def test_a_conflict_is_merged_with_both_parents_and_only_without_markers(
    git_server: GitServer, tmp_path: Path
) -> None:
    repository, head, base = await conflicting(git_server, tmp_path)
    assert await repository.merge(base, "Merge main\n", AUTHOR) == ("calc.py",)
    markers = git(tmp_path / "again" / "repository.git", "show", f"{repository.start_point}:calc.py")
    assert markers.splitlines() == [f"<<<<<<< {head}", "ours", "=======", "theirs", f">>>>>>> {base}"]
    with pytest.raises(InvalidPatchError, match=r"These files are still in conflict: calc\.py\."):
        await repository.commit(b"", "Merge", AUTHOR)
    work = git_server.root / "sample.git.work"
    git(work, "fetch", "-q", str(tmp_path / "again" / "repository.git"), repository.start_point)
    git(work, "checkout", "-q", "-f", "FETCH_HEAD")
    (work / "calc.py").write_text("both\n")
    patch = f"{git(work, 'diff', '--full-index', 'HEAD')}\n".encode()
    repository.lease = head
    commit = await repository.commit(patch, "Merge", AUTHOR)
    await repository.push()
    bare = git_server.root / "sample.git"
    assert git(bare, "log", "-1", "--format=%H %P", BRANCH) == f"{commit} {head} {base}"
    assert git(bare, "show", f"{BRANCH}:calc.py") == "both"
    assert git(bare, "show", f"{BRANCH}:new.txt") == "n"
    forth, back = await repository.own_patch()
    assert forth
    assert back
    assert forth != back


async def test_a_name_that_git_gave_a_file_in_conflict_is_not_committed(
    git_server: GitServer, tmp_path: Path
) -> None:
    ours = await clone(git_server, tmp_path / "ours")
    await ours.commit(patch_of(git_server, {"docs": "a file\n"}), "Ours", AUTHOR)
    await ours.push()
    (git_server.root / "sample.git.work" / "docs").mkdir(exist_ok=True)
    theirs = await BareClone.clone(
        git_server.credentials(), tmp_path / "theirs", base="main", branch="main", push_check=permitted
    )
    base = await theirs.commit(patch_of(git_server, {"docs/a.txt": "a\n"}), "Theirs", AUTHOR)
    assert base is not None
    await theirs.push()
    repository = await clone(git_server, tmp_path / "again")
    assert await repository.merge(base, "Merge", AUTHOR) == (f"docs~{ours.tip}",)
    with pytest.raises(InvalidPatchError, match=rf"still in conflict: docs~{ours.tip}\."):
        await repository.commit(b"", "Merge", AUTHOR)


async def test_a_merge_without_a_conflict_changes_nothing(git_server: GitServer, tmp_path: Path) -> None:
    repository = await clone(git_server, tmp_path / "agent")
    start = repository.start_point
    assert await repository.merge(repository.base, "Merge", AUTHOR) == ()
    assert (repository.start_point, repository.tip) == (start, start)
    assert await repository.commit(b"", "Nothing", AUTHOR) is None
    assert await repository.own_patch() == ("", "")


async def test_work_that_undoes_other_work_has_its_reverse(git_server: GitServer, tmp_path: Path) -> None:
    repository = await clone(git_server, tmp_path / "one")
    before = git(git_server.root / "sample.git", "show", "main:calc.py")
    await repository.commit(patch_of(git_server, {"calc.py": "other\n"}), "One", AUTHOR)
    await repository.push()
    undoing = await clone(git_server, tmp_path / "two")
    patch = patch_of(git_server, {"calc.py": f"{before}\n"}, start=BRANCH)
    await undoing.commit(patch, "Two", AUTHOR)
    assert (await undoing.own_patch())[0] == (await repository.own_patch())[1]


async def test_with_a_lease_a_branch_that_was_moved_back_is_not_restored(
    git_server: GitServer, tmp_path: Path
) -> None:
    first = await clone(git_server, tmp_path / "one")
    await first.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
    await first.push()
    second = await clone(git_server, tmp_path / "two")
    second.lease = second.start_point
    await second.commit(patch_of(git_server, {"b.txt": "2\n"}, start=BRANCH), "Two", AUTHOR)
    bare = git_server.root / "sample.git"
    git(bare, "update-ref", f"refs/heads/{BRANCH}", git(bare, "rev-parse", "main"))
    with pytest.raises(RemoteMovedError):
        await second.push()
    assert git(bare, "rev-parse", BRANCH) == git(bare, "rev-parse", "main")
    second.lease = None
    await second.push()
    assert git(bare, "rev-parse", BRANCH) == second.tip, "a plain push would restore it"


async def test_with_a_lease_a_push_that_succeeded_late_is_our_own(
    git_server: GitServer, tmp_path: Path
) -> None:
    ours = await clone(git_server, tmp_path / "one")
    await ours.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
    await ours.push()
    ours.lease = ours.tip
    for number in (2, 3):
        await ours.commit(patch_of(git_server, {f"{number}.txt": "\n"}, start=BRANCH), f"{number}", AUTHOR)
        if number == 2:  # the push of an attempt that waited no longer for the answer
            await ours._git.remote(("push", "--quiet"), f"{ours.tip}:refs/heads/{BRANCH}")
    await ours.push()
    assert git(git_server.root / "sample.git", "rev-parse", BRANCH) == ours.tip == ours.lease


async def test_a_lease_never_replaces_commits(git_server: GitServer, tmp_path: Path) -> None:
    first = await clone(git_server, tmp_path / "one")
    theirs = await first.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
    await first.push()
    other = await BareClone.clone(
        git_server.credentials(), tmp_path / "two", base="main", branch="main", push_check=permitted
    )
    await other.fetch(git_server.credentials(), BRANCH)
    await other.commit(patch_of(git_server, {"b.txt": "2\n"}), "Two", AUTHOR)
    other.branch, other.lease = BRANCH, theirs
    with pytest.raises(GitFailedError):
        await other.push()
    assert git(git_server.root / "sample.git", "rev-parse", BRANCH) == theirs


async def test_after_a_failed_push_check_nothing_is_pushed(git_server: GitServer, tmp_path: Path) -> None:
    asked: list[str] = []

    async def push_check(branch: str) -> None:
        asked.append(branch)
        raise PushNotAllowedError("protected")

    repository = await BareClone.clone(
        git_server.credentials(), tmp_path / "agent", base="main", branch=BRANCH, push_check=push_check
    )
    await repository.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
    with pytest.raises(PushNotAllowedError):
        await repository.push()
    assert asked == [BRANCH]
    assert not [path for path, _ in git_server.seen if "receive-pack" in path]


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_push_whose_answer_was_lost_has_succeeded(
    git_server: GitServer, tmp_path: Path, lost: int
) -> None:
    """curl sends the request again on a new connection, and git then finds the branch where it should go.

    It calls that `[remote rejected] (failed to update ref)`.
    """
    repository = await clone(git_server, tmp_path / "agent")
    await repository.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
    git_server.lost = lost
    await repository.push()
    assert git_server.lost == 0
    assert repository.pushed == repository.tip
    assert git(git_server.root / "sample.git", "rev-parse", BRANCH) == repository.tip


async def test_a_push_that_failed_while_the_branch_is_elsewhere_has_not_succeeded(
    git_server: GitServer, tmp_path: Path
) -> None:
    repository = await clone(git_server, tmp_path / "agent")
    await repository.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
    bare = git_server.root / "sample.git"
    lock = bare / "refs" / "heads" / f"{BRANCH}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(ForgeUnavailableError, match="failed to update ref"):
        await repository.push()
    assert repository.pushed == repository.start_point
    lock.unlink()
    await repository.push()
    assert git(bare, "rev-parse", BRANCH) == repository.tip


async def test_what_the_forge_answers(git_server: GitServer, tmp_path: Path) -> None:
    for status, error in ((503, ForgeUnavailableError), (403, ForgeRefusedError)):
        git_server.answer = [status]
        with pytest.raises(error):
            await clone(git_server, tmp_path / "agent")
    assert len(git_server.seen) == 2, "retries are the attempt's"
    with pytest.raises(ForgeRefusedError) as caught:
        await clone(git_server, tmp_path / "agent", token="wrong-canary")
    assert "wrong-canary" not in str(caught.value)
    assert (await clone(git_server, tmp_path / "agent")).start_point, "in the same folder"


async def test_no_such_repository_or_branch_and_nobody_there(git_server: GitServer, tmp_path: Path) -> None:
    with pytest.raises(ForgeNotFoundError):
        await clone(git_server, tmp_path / "a", name="other.git")
    with pytest.raises(ForgeNotFoundError, match="no branch nope"):
        await clone(git_server, tmp_path / "b", base="nope")
    nobody = GitServer(tmp_path, port=1)
    with pytest.raises(ForgeUnavailableError):
        await clone(nobody, tmp_path / "c")


async def test_a_redirect_to_another_host_gets_no_token(git_server: GitServer, tmp_path: Path) -> None:
    other_root = tmp_path / "other"
    other_root.mkdir()
    with serve(other_root) as other:
        git_server.redirect_to = f"http://localhost:{other.port}"
        with pytest.raises(ForgeRefusedError, match="redirects"):
            await clone(git_server, tmp_path / "agent")
        assert other.seen == []
    assert git_server.seen[0][1], "the token was sent to its own host"


async def test_a_repository_that_was_renamed_while_git_ran_is_pushed_to_by_its_new_name(
    git_server: GitServer, tmp_path: Path
) -> None:
    asked: list[bool] = []

    async def credentials(refused: str, /, *, redirected: bool = False) -> CloneSource:
        asked.append(redirected)
        return await git_server.credentials("costs.git" if redirected else "sample.git")(refused)

    repository = await BareClone.clone(
        credentials, tmp_path / "agent", base="main", branch=BRANCH, push_check=permitted
    )
    await repository.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
    (git_server.root / "sample.git").rename(git_server.root / "costs.git")
    git_server.renamed = ("sample.git", "costs.git")
    assert not any(asked)
    await repository.push()
    assert asked[-1]
    assert git(git_server.root / "costs.git", "rev-parse", BRANCH) == repository.tip


async def test_the_token_is_on_no_disk_and_in_no_argument(git_server: GitServer, tmp_path: Path) -> None:
    argv: list[bytes] = []
    original = asyncio.create_subprocess_exec

    async def spy(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        argv.append(b"\0".join(os.fsencode(argument) for argument in arguments))
        return await original(*arguments, **options)  # type: ignore[arg-type]

    asyncio.create_subprocess_exec = spy  # type: ignore[assignment]
    try:
        repository = await clone(git_server, tmp_path / "agent")
        await repository.commit(patch_of(git_server, {"a.txt": "1\n"}), "One", AUTHOR)
        await repository.push()
    finally:
        asyncio.create_subprocess_exec = original
    assert len(argv) > 5
    assert not [line for line in argv if TOKEN.encode() in line]
    files = [path for path in (tmp_path / "agent").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


async def test_a_token_that_was_replaced_while_git_ran_is_tried(
    git_server: GitServer, tmp_path: Path
) -> None:
    tokens, refused = ["token-of-the-last-hour"], []

    async def credentials(given: str, /, *, redirected: bool = False) -> CloneSource:
        refused.append(given)
        return await git_server.credentials(token=tokens.pop() if tokens else TOKEN)("")

    repository = await BareClone.clone(
        credentials, tmp_path / "agent", base="main", branch=BRANCH, push_check=permitted
    )
    assert not repository.resumed
    sent = [authorization for _, authorization in git_server.seen]
    assert sent[0] != sent[1]
    assert "token-of-the-last-hour" in refused


@pytest.mark.parametrize("kind", [("ed25519",), ("rsa", "-b", "2048"), ("ecdsa", "-b", "384")], ids="".join)
async def test_git_verifies_the_signature_of_a_commit(
    git_server: GitServer, tmp_path: Path, kind: tuple[str, ...]
) -> None:
    key = tmp_path / "key"
    generate = ["ssh-keygen", "-q", "-t", *kind, "-N", "", "-C", "", "-f", str(key)]
    subprocess.run(generate, check=True, timeout=60)
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"{AUTHOR.email} {key.with_suffix('.pub').read_text()}")
    repository = await clone(git_server, tmp_path / "agent")
    patch = patch_of(git_server, {"calc.py": "def add(a, b):\n    return a + b\n"})

    commit = await repository.commit(patch, "Fix add\n\nBody: ü\n", AUTHOR, SshSigner.load(key))
    await repository.push()

    bare = git_server.root / "sample.git"
    shown = git(
        bare, "-c", f"gpg.ssh.allowedSignersFile={signers}", "log", "-1", "--format=%H %G? %GS %s", BRANCH
    )
    assert shown == f"{commit} G {AUTHOR.email} Fix add"
    git(bare, "fsck", "--strict")


def test_a_signing_key_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path) -> None:
    key, locked = tmp_path / "key", tmp_path / "locked"
    key.write_text("no key")
    generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(locked)]
    subprocess.run(generate, check=True, timeout=60)
    absent = tmp_path / "absent"
    for file, why in ((key, "not an OpenSSH private key"), (absent, "No such file"), (locked, "passphrase")):
        with pytest.raises(SettingsError, match=why):
            SshSigner.load(file)
