"""Commits of the agent's work: the patches that are accepted, the commits' messages, and their signatures."""

from __future__ import annotations

import base64
import logging
import re
import string
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from coding_agent_core.errors import CodingAgentError, ForgeRefusedError
from coding_agent_core.forge.values import CommitIdentity
from coding_agent_core.platforms.markdown import inline, quotation
from coding_agent_core.settings.attempt_settings import Commits
from coding_agent_forges.rest.forge import Forge

from coding_agent_consumer.workspace.framing import MAX_FILE, MAX_PATCH, MAX_UNPACKED

_logger = logging.getLogger("coding_agent.attempt")

_MAX_DELTA_HEAD = 20
"""The most bytes that the two sizes at the start of a delta take, with seven bits in each byte."""
_LENGTHS = string.ascii_uppercase.encode() + string.ascii_lowercase.encode()
# In a patch, a text file's lines start with a blank, `+`, `-` or a backslash, so none can look like a header.
_BINARY = re.compile(rb"^(literal|delta) ([^\n]*)\n", re.MULTILINE)
_COPIED = re.compile(rb"^(?:copy|rename) (?:from|to) ", re.MULTILINE)
_FILE = re.compile(rb"^diff --git ([^\n]*)\n", re.MULTILINE)
_GITLINK = "160000"
_SYMLINK = "120000"
_REMOVED = "000000"
SUBJECT_LIMIT = 72
"""The most characters of the first line: forges fold a longer one."""
_MARKUP = re.compile(r"^(?:#{1,6}|[-*+]|\d+[.)]|>)\s+|\*\*|__")
_END_OF_CLAUSE = re.compile(r"[;:] | [-\u2013\u2014(]")
_END_OF_SENTENCE = re.compile(r"(?<=\S[.!?])\s")


class InvalidPatchError(CodingAgentError):
    """The agent's work cannot be committed; the message says why, for the model and for people."""


def require_bounded(patch: bytes) -> None:
    """Refuse a patch that git might need much memory for.

    A git binary patch holds compressed data: 2 MiB of it can make git need 3 GiB. Its headers give the sizes
    (git's apply.c, `parse_binary_hunk`; gitformat-pack(5) on deltas): `literal SIZE` is the size of the file,
    `delta SIZE` the size of a delta, which begins with the sizes of the file before and after.

    Raises:
        InvalidPatchError: says which file is too large.
    """
    if len(patch) > MAX_PATCH:
        raise InvalidPatchError(f"The change is larger than {MAX_PATCH // 2**20} MiB.")
    if _COPIED.search(patch):
        # Each such line may copy a large file. The workspace's own patches have none.
        raise InvalidPatchError("The change cannot be taken over: its patch copies or renames files.")
    total = 0
    for header in _BINARY.finditer(patch):
        size = _unpacked_size(patch, header)
        if size is None:
            raise InvalidPatchError("The change cannot be taken over: its patch is not a git patch.")
        if size > MAX_FILE:
            raise InvalidPatchError(
                f"{_file_at(patch, header.start())} has {size / 2**20:.0f} MiB, before or after the change; "
                f"a changed binary file may have {MAX_FILE // 2**20} MiB."
            )
        total += size
    if total > MAX_UNPACKED:
        raise InvalidPatchError(
            f"The change has {total / 2**20:.0f} MiB of binary files, counted before and after it; "
            f"it may have {MAX_UNPACKED // 2**20} MiB."
        )


def _unpacked_size(patch: bytes, header: re.Match[bytes]) -> int | None:
    """Return the bytes that git needs for the data after a header; `None` if what follows is not data."""
    if not re.fullmatch(rb"[0-9]{1,12}", header[2]):
        return None
    size = int(header[2])
    if header[1] == b"literal":
        return size
    head = _start_of_data(patch, header.end())
    sizes = _delta_sizes(head) if head is not None else None
    return None if sizes is None else size + max(sizes)


def _start_of_data(patch: bytes, at: int) -> bytes | None:
    """Unpack the first bytes of the compressed data that starts at `at`; `None` if this is not such data."""
    unpacker = zlib.decompressobj()
    head = b""
    while len(head) < _MAX_DELTA_HEAD and not unpacker.eof:
        end = patch.find(b"\n", at)
        if end <= at:
            break
        try:
            packed = unpacker.unconsumed_tail + _decoded(patch[at:end])
            head += unpacker.decompress(packed, _MAX_DELTA_HEAD - len(head))
        except (ValueError, zlib.error):
            return None
        at = end + 1
    return head


def _decoded(line: bytes) -> bytes:
    """Decode a line of binary data: a letter for the number of bytes, then five characters per four bytes.

    Raises:
        ValueError: this is not such a line.
    """
    length = _LENGTHS.find(line[:1]) + 1
    groups, rest = divmod(len(line) - 1, 5)
    if rest or not 4 * (groups - 1) < length <= 4 * groups:
        raise ValueError("not a line of binary data")
    return base64.b85decode(line[1:])[:length]


def _delta_sizes(head: bytes) -> tuple[int, int] | None:
    """Return the file's sizes before and after a delta; `None` if they are not in its first bytes."""
    sizes = []
    size = shift = 0
    for byte in head:
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            sizes.append(size)
            size = shift = 0
        if len(sizes) == 2:
            return sizes[0], sizes[1]
    return None


def _file_at(patch: bytes, position: int) -> str:
    """Return the name of the file whose data is at `position`, from its header."""
    start = patch.rfind(b"\ndiff --git ", 0, position) + 1
    header = _FILE.match(patch, start)
    if header is None:
        return "A file"
    name = header[1][: len(header[1]) // 2].decode("utf-8", "replace")  # `a/NAME b/NAME`
    return name.removeprefix('"').removeprefix("a/")[:200]


def why_refused(path: str, mode: str) -> str | None:
    """Return why a changed file must not be committed; `None` if it may be. Git refuses much of this too.

    Args:
        mode: the file's new mode, as git writes it; `000000` if the file is removed.
    """
    parts = path.split("/")
    if any(_is_dot_git(part) for part in parts):
        return f"{path!r} would be part of a .git folder"
    if any(part in ("", ".", "..") for part in parts):
        return f"{path!r} is not a path inside the repository"
    if mode == _GITLINK:
        return f"{path!r} is a submodule or another repository, which is not followed"
    if mode == _SYMLINK and parts[-1].lower() in (".gitmodules", ".gitattributes", ".gitignore"):
        return f"{path!r} must not be a symbolic link"
    return None


def _is_dot_git(part: str) -> bool:
    # Windows and macOS ignore case, trailing dots, blanks, streams and some characters; `git~1` is short.
    plain = (
        re.sub("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]", "", part).split(":")[0].rstrip(". ").lower()
    )
    return plain in (".git", "git~1")


POINTER_LIMIT = 1024
"""Maximum number of bytes of a pointer of Git LFS (docs/spec.md of Git LFS)."""
_POINTER = b"version https://git-lfs.github.com/spec/"


class ChangedFile(NamedTuple):
    """A file that differs between two trees.

    Attributes:
        mode: the file's new mode, as git writes it; `000000` if the file is removed.
        old_mode: the mode before; `000000` if the file is new.
        id: the id of the new content.
    """

    path: str
    mode: str
    old_mode: str
    id: str


def parse_changes(raw: bytes) -> list[ChangedFile]:
    """Return the changed files from the output of `git diff-tree -r -z --raw --no-renames`."""
    fields = raw.split(b"\0")
    found: list[ChangedFile] = []
    for head, path in zip(fields[::2], fields[1::2], strict=False):
        old_mode, mode, _, id_, _ = head.decode("ascii").removeprefix(":").split(" ")
        found.append(ChangedFile(path.decode("utf-8", "surrogateescape"), mode, old_mode, id_))
    return found


def lost_files(changed: Sequence[ChangedFile], folders: Sequence[str]) -> list[str]:
    """Return the removed files that the workspace never had, because only some folders were checked out.

    Nobody has decided to remove such a file.

    Args:
        folders: the folders that were checked out, besides the files in the folders above them; empty: all.
    """
    above = {"", *(folder[:end] for folder in folders for end, sign in enumerate(folder) if sign == "/")}
    inside = tuple(f"{folder}/" for folder in folders)
    return [
        one.path
        for one in changed
        if folders
        and one.mode == _REMOVED
        and not one.path.startswith(inside)
        and one.path.rpartition("/")[0] not in above
    ]


def is_pointer(content: bytes | None) -> bool:
    """Whether the content of a file is a pointer of Git LFS, or empty, which Git LFS leaves as it is.

    Args:
        content: `None` if the file has more than `POINTER_LIMIT` bytes.
    """
    return content is not None and (not content or content.startswith(_POINTER))


def commit_message(
    summary: str, *, finished: bool, item_title: str, footer: str, asked_by: CommitIdentity | None
) -> str:
    """Return a commit's whole message. Nothing in the given texts has an effect on the forge.

    Args:
        summary: the model's summary of its work; empty if there is none.
        item_title: the item's title, which names unfinished work and work without a summary.
        footer: the line that names the item.
        asked_by: the person who is shown as co-author.
    """
    subject = subject_of(summary) or item_title if finished else f"Work so far on {item_title}"
    trailer = ""
    if asked_by is not None:
        name = inline(re.sub(r"[<>]", "", asked_by.name))
        trailer = f"Co-authored-by: {name} <{asked_by.email}>"
    shown = _cut(inline(subject))
    parts = (shown, "" if summary.strip() == subject else quotation(summary), footer, trailer)
    return "\n\n".join(filter(None, parts)) + "\n"


def subject_of(summary: str) -> str:
    """Return the first sentence of a summary, without Markdown and its period; empty if there is none."""
    lines = (_MARKUP.sub("", line.strip()).strip() for line in summary.splitlines())
    first = next((line for line in lines if re.search(r"\w", line)), "")
    return _END_OF_SENTENCE.split(first, maxsplit=1)[0].rstrip(" .:;,")


def _cut(subject: str) -> str:
    """Cut a subject to `SUBJECT_LIMIT` characters, at the end of a clause if possible, else of a word."""
    if len(subject) <= SUBJECT_LIMIT:
        return subject
    clauses = [found.start() for found in _END_OF_CLAUSE.finditer(subject[: SUBJECT_LIMIT + 1])]
    if clauses and clauses[-1] > SUBJECT_LIMIT // 2:
        return subject[: clauses[-1]]
    words = subject[: SUBJECT_LIMIT - 1].rpartition(" ")[0]
    return (words if len(words) > SUBJECT_LIMIT // 2 else subject[: SUBJECT_LIMIT - 1]) + "…"


async def commit_author(forge: Forge, settings: Commits) -> CommitIdentity:
    """Return the commits' author: the agent's account on the forge, unless the settings name another."""
    if settings.name and settings.email:
        return CommitIdentity(settings.name, settings.email)
    own = await forge.commit_identity()
    return CommitIdentity(settings.name or own.name, settings.email or own.email)


async def co_author(forge: Forge, user: str) -> CommitIdentity | None:
    """Return the person who applied the label; `None` for our own account, or if the forge hides them."""
    if not user or user.casefold() == (await forge.whoami()).casefold():
        return None
    try:
        return await forge.commit_identity_of(user)
    except ForgeRefusedError as error:
        _logger.info("The person who asked is not shown as co-author: %s", error)
        return None
