"""What the model gets before it starts: the conversation on the forge, the images that people attached to it,
and the repository's instructions.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.discussion import Checks, Comment, Discussion
from coding_agent_core.forge.protocol import Forge, ItemDetails
from coding_agent_core.platforms import ItemKind
from coding_agent_core.tasks import Item

from coding_agent_consumer.agent import Image
from coding_agent_consumer.repository import BareClone, TreeEntry

_logger = logging.getLogger("coding_agent.attempt")

_AT_ROOT = ("AGENTS.md", "CLAUDE.md", ".github/copilot-instructions.md")
_NESTED_LIMIT = 40
"""Files in folders that are read: those nearest to the root."""
_BYTES_LIMIT = 64 * 1024
"""Bytes of one file; a larger one is not read."""
MOST_IMAGES = 8
"""Images of one task; those of the item come first."""
MOST_IMAGES_TRIED = 16
"""Attachments that are read for them."""
LARGEST_IMAGE = 3_500_000
"""Bytes of one image. Anthropic takes 5 MB in base64, the others more."""
MOST_IMAGE_BYTES = 10_000_000
"""Bytes of all together: they are part of every request."""
# Bounded, and without the characters that begin a link: a hostile text costs no more than a long one.
_IMAGE_LINK = re.compile(
    r"!\[[^\[\]]{0,1000}\]\(\s{0,9}<?(?P<markdown>[^\s<>)]{1,2000})"
    r"|<img\b[^<>]{0,1000}?\bsrc\s{0,9}=\s{0,9}[\"'](?P<html>[^\"'>]{1,2000})",
    re.IGNORECASE,
)
_IMAGE_TYPES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


@dataclass(frozen=True)
class Conversation:
    """Everything that was said about a task: comments, reviews, threads, failed checks.

    Attributes:
        item: what carries the label.
        comments: on the item, oldest first.
        change: the item itself if it is a change; of an issue, the open change of an earlier run or attempt.
        change_comments: on an issue's change, oldest first.
    """

    item: ItemDetails
    comments: tuple[Comment, ...] = ()
    change: ItemDetails | None = None
    change_comments: tuple[Comment, ...] = ()
    discussion: Discussion = field(default_factory=Discussion)
    checks: Checks = field(default_factory=Checks)


async def read_conversation(forge: Forge, details: ItemDetails, *, pushed_branch: str | None) -> Conversation:
    """Read it.

    Args:
        pushed_branch: the task's work branch, if an earlier run or attempt pushed it.

    Raises:
        ForgeError: something other than the checks could not be read.
    """
    item = details.item
    comments = await forge.comments(item)
    if item.kind is ItemKind.CHANGE:
        change: ItemDetails | None = details
    else:
        found = await forge.find_change(item, branch=pushed_branch) if pushed_branch else None
        own = found and item.model_copy(update={"kind": ItemKind.CHANGE, "number": found.number})
        change = await forge.read(own) if own else None
    if change is None:
        return Conversation(details, tuple(comments))
    change_comments = await forge.comments(change.item) if change is not details else []
    discussion = await forge.discussion(change.item)
    in_threads = {comment.id for thread in discussion.threads for comment in thread.comments}
    return Conversation(
        item=details,
        comments=tuple(comment for comment in comments if comment.id not in in_threads),
        change=change,
        change_comments=tuple(comment for comment in change_comments if comment.id not in in_threads),
        discussion=discussion,
        checks=await forge.failed_checks(change),
    )


async def project_commit(forge: Forge, details: ItemDetails, repository: BareClone) -> str:
    """The base branch's newest commit, whose instructions and environment count.

    What a change itself proposes does not count, and its branch may be in a fork.
    """
    if details.item.kind is not ItemKind.CHANGE:
        return repository.base
    source = details.item.repository
    return await repository.fetch(lambda: forge.clone_source(source), details.base_branch)


@dataclass(frozen=True)
class InstructionFile:
    """A file in which the repository tells agents how to work on it.

    `AGENTS.md` (https://agents.md) may be in any folder, and the one nearest to a file applies to it.
    `CLAUDE.md` and `.github/copilot-instructions.md` are read at the root.

    Attributes:
        path: from the repository's root.
    """

    path: str
    text: str

    @property
    def nested(self) -> bool:
        return self.path not in _AT_ROOT


async def instruction_files(repository: BareClone, commit: str) -> tuple[InstructionFile, ...]:
    """Those of a commit: of the root first, then nested ones; each text once."""
    found: list[InstructionFile] = []
    for entry in select(await repository.tree(commit)):
        content = await repository.blob(entry.id, _BYTES_LIMIT) or b""
        text = content.decode("utf-8", "replace").strip()
        if text and text not in [file.text for file in found]:
            found.append(InstructionFile(entry.path, text))
    return tuple(found)


def select(entries: Iterable[TreeEntry]) -> list[TreeEntry]:
    """The instruction files among a tree's entries. A symbolic link is left out: what it points to counts."""
    files = {entry.path: entry for entry in entries if entry.is_file}
    nested = [path for path in files if path.endswith("/AGENTS.md")]
    nested.sort(key=lambda path: (path.count("/"), path))
    return [files[path] for path in (*_AT_ROOT, *nested[:_NESTED_LIMIT]) if path in files]


def image_links(text: str) -> Iterator[str]:
    """The addresses of images in Markdown with HTML, in their order."""
    for found in _IMAGE_LINK.finditer(text):
        yield html.unescape(found["markdown"] or found["html"])


def media_type_of(data: bytes) -> str | None:
    """The type of an image, by its first bytes: names and headers are other people's text."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _IMAGE_TYPES if data.startswith(start)), None)


async def read_images(forge: Forge, conversation: Conversation) -> tuple[Image, ...]:
    """The attached images of a conversation, as far as they can be read.

    Only attachments of the forge itself are read: any other address could be one that a stranger chose.
    """
    images: list[Image] = []
    room = MOST_IMAGE_BYTES
    tried = 0
    for item, link in _image_links_of(conversation):
        if len(images) == MOST_IMAGES or tried == MOST_IMAGES_TRIED:
            break
        try:
            data = await forge.attachment(item, link, limit=min(LARGEST_IMAGE, room))
        except ForgeError as error:
            tried += 1
            _logger.warning("An attached image is left out: %s", error)
            continue
        if data is None:
            continue
        tried += 1
        kind = media_type_of(data)
        if kind is None:
            _logger.info("An attachment of %s is not an image of a known type", item.display)
            continue
        images.append(Image(link, kind, data))
        room -= len(data)
    return tuple(images)


def _image_links_of(conversation: Conversation) -> Iterator[tuple[Item, str]]:
    """Each link once, with the item whose text has it."""
    details, change = conversation.item, conversation.change
    texts = [(details.item, details.body)]
    texts += [(details.item, comment.body) for comment in conversation.comments]
    if change is not None:
        texts += [(change.item, change.body)] * (change is not details)
        texts += [(change.item, comment.body) for comment in conversation.change_comments]
    seen: set[str] = set()
    for item, text in texts:
        for link in image_links(text):
            if link not in seen:
                seen.add(link)
                yield item, link
