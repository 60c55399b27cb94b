"""The pure rules around git: its environment, what a patch may touch."""

import base64
from pathlib import Path

import pytest
from coding_agent_consumer.repository.clone import parse_tips, require_branch_name
from coding_agent_consumer.repository.commits import ChangedFile, lost_files, parse_changes, why_refused
from coding_agent_consumer.repository.forge_commits import why_not_sent
from coding_agent_consumer.repository.git import git_environment, redact
from coding_agent_consumer.workspace.init_containers import CannotCopyError, loaded_loader, needed
from coding_agent_core.forge.values import CloneSource

URL = "https://forge.example.com/o/r.git"
SOURCE = CloneSource(URL, "x-access-token", "s3cret")


def test_no_form_of_the_token_is_repeated() -> None:
    basic = base64.b64encode(b"x-access-token:s3cret").decode()
    assert redact(f"a s3cret b {basic}", SOURCE) == "a [secret] b [secret]"


def test_the_token_goes_to_its_own_address_alone_and_only_where_asked() -> None:
    with_token = git_environment({}, Path("/clone"), token=SOURCE)
    keys = [with_token[f"GIT_CONFIG_KEY_{n}"] for n in range(int(with_token["GIT_CONFIG_COUNT"]))]
    assert [key for key in keys if "extraHeader" in key] == [f"http.{URL}.extraHeader"]
    without = git_environment({}, Path("/clone"), token=None)
    assert not [value for value in without.values() if "Authorization" in value]


def test_of_our_environment_only_the_way_to_the_forge_is_passed_on() -> None:
    inherited = {
        "PATH": "/bin",
        "https_proxy": "p",
        "GIT_SSH_COMMAND": "evil",
        "HOME": "/h",
        "OPENAI_API_KEY": "k",
    }
    env = git_environment(inherited, Path("/clone"), token=None)
    assert env["PATH"] == "/bin"
    assert env["https_proxy"] == "p"
    assert env["HOME"] == "/clone"
    assert not {"GIT_SSH_COMMAND", "OPENAI_API_KEY"} & set(env)
    assert not {"evil", "k"} & set(env.values())


def test_git_trusts_the_authorities_that_the_program_trusts() -> None:
    trusted = git_environment({"SSL_CERT_FILE": "/ours.pem"}, Path("/clone"), token=None)
    assert trusted["GIT_SSL_CAINFO"] == "/ours.pem"
    both = {"SSL_CERT_FILE": "/ours.pem", "GIT_SSL_CAINFO": "/of-git.pem"}
    assert git_environment(both, Path("/clone"), token=None)["GIT_SSL_CAINFO"] == "/of-git.pem"
    assert "GIT_SSL_CAINFO" not in git_environment({}, Path("/clone"), token=None)


@pytest.mark.parametrize(
    ("path", "mode", "allowed"),
    [
        ("src/a.py", "100644", True),
        (".github/workflows/ci.yml", "100644", True),
        (".gitignore", "100644", True),
        (".gitmodules", "100644", True),
        ("link", "120000", True),
        ("digit/.gitkeep", "100644", True),
        (".git/config", "100644", False),
        ("a/.git", "100644", False),
        ("a/.GIT/hooks/x", "100755", False),
        (".git /config", "100644", False),
        (".git./config", "100644", False),
        (".git::$INDEX_ALLOCATION/x", "100644", False),
        ("GIT~1/config", "100644", False),
        (".g\u200cit/config", "100644", False),
        ("../x", "100644", False),
        ("a/../x", "100644", False),
        ("/etc/x", "100644", False),
        ("a//x", "100644", False),
        ("sub", "160000", False),
        ("sub", "000000", True),  # removed
        (".gitmodules", "120000", False),
        (".gitattributes", "120000", False),
    ],
)
def test_what_a_patch_may_touch(path: str, mode: str, allowed: bool) -> None:
    assert (why_refused(path, mode) is None) is allowed


@pytest.mark.parametrize(
    ("path", "old_mode", "mode", "reason"),
    [
        ("a", "000000", "100644", None),
        ("a", "100644", "100644", None),
        ("a", "100755", "000000", None),  # removed
        ("a", "120000", "000000", None),
        ("a", "000000", "100755", "'a' is an executable file"),
        ("a", "100755", "100755", "'a' is an executable file"),
        ("a", "100755", "100644", "'a' was an executable file"),
        ("a", "000000", "120000", "'a' is a symbolic link"),
        ("a", "120000", "100644", "'a' was a symbolic link"),
        ("a", "160000", "100644", "'a' was a submodule"),
        ("\udcff", "100644", "000000", "the name '\\udcff' is not UTF-8"),
    ],
)
def test_what_github_can_commit_itself(path: str, old_mode: str, mode: str, reason: str | None) -> None:
    assert why_not_sent(ChangedFile(path, mode, old_mode, "id")) == reason


def test_listings_are_read() -> None:
    raw = b":100644 100755 aa bb M\0a b\0:000000 120000 00 cc A\0\xff\0"
    assert parse_changes(raw) == [
        ChangedFile("a b", "100755", "100644", "bb"),
        ChangedFile("\udcff", "120000", "000000", "cc"),
    ]
    assert parse_changes(b"") == []
    assert parse_tips(b"aa\trefs/heads/main\nwarning\n") == {"refs/heads/main": "aa"}


def test_branch_names() -> None:
    for name in ("main", "coding-agent/issue-7", "feature/日本", "a.b", "v1.0-x_y"):
        require_branch_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-f",
        "--upload-pack=x",
        "a..b",
        "a b",
        "a:b",
        "a\n",
        "x.lock",
        ".a",
        "a/.b",
        "/a",
        "a/",
        "@",
        "a@{1}",
    ],
)
def test_what_is_no_branch_name(name: str) -> None:
    with pytest.raises(ValueError, match="not a branch name"):
        require_branch_name(name)


OLDER = """\
\tlinux-vdso.so.1 (0x00007ffd5c3f2000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f1d2c000000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1d2be00000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f1d2c0f0000)
"""
NEWER = """\
\tlinux-vdso.so.1 (0x00007f23a0f44000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f23a0f00000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f23a0d00000)
\t/lib64/ld-linux-x86-64.so.2 => /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 (0x00007f23a0f46000)
"""


@pytest.mark.parametrize("listing", [OLDER, NEWER], ids=["Debian 12", "Debian 13"])
def test_libraries_are_known_by_plain_names(listing: str) -> None:
    folder = Path("/lib/x86_64-linux-gnu")
    assert needed(listing) == {"libz.so.1": folder / "libz.so.1", "libc.so.6": folder / "libc.so.6"}


def test_the_loader_is_found_among_what_is_mapped() -> None:
    maps = "7f23-7f24 r--p 0 fe:00 1   /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n"
    assert loaded_loader(maps) == Path("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    with pytest.raises(CannotCopyError):
        loaded_loader("7f23-7f24 r--p 0 fe:00 1   /usr/bin/python3\n")


@pytest.mark.parametrize(
    ("path", "lost"),
    [
        ("root.md", False),
        ("services/common.md", False),
        ("services/billing/deep/a.md", False),
        ("services/mail/b.md", True),
        ("services/billing-old/c.md", True),
        ("libs/d.md", True),
    ],
)
def test_a_file_is_lost_if_it_is_removed_and_was_never_checked_out(path: str, lost: bool) -> None:
    removed = ChangedFile(path, "000000", "100644", "0" * 40)
    assert lost_files([removed], ["services/billing"]) == [path] * lost
    assert lost_files([removed._replace(mode="100644")], ["services/billing"]) == []
    assert lost_files([removed], []) == [], "all was checked out"
