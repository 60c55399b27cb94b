"""Images that people attached to the item and its comments, for models that can see."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterator

from coding_agent_core.errors import ForgeError
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.tasks import Item

from coding_agent_consumer.agent import Image
from coding_agent_consumer.background import Conversation

_logger = logging.getLogger("coding_agent.attempt")

MOST = 8
"""Images of one task; those of the item come first."""
MOST_TRIED = 16
"""Attachments that are read for them."""
LARGEST = 3_500_000
"""Bytes of one image. Anthropic takes 5 MB in base64, the others more."""
MOST_BYTES = 10_000_000
"""Bytes of all together: they are part of every request."""
# Bounded, and without the characters that begin a link: a hostile text costs no more than a long one.
_LINK = re.compile(
    r"!\[[^\[\]]{0,1000}\]\(\s{0,9}<?(?P<markdown>[^\s<>)]{1,2000})"
    r"|<img\b[^<>]{0,1000}?\bsrc\s{0,9}=\s{0,9}[\"'](?P<html>[^\"'>]{1,2000})",
    re.IGNORECASE,
)
_TYPES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


def image_links(text: str) -> Iterator[str]:
    """The addresses of images in Markdown with HTML, in their order."""
    for found in _LINK.finditer(text):
        yield html.unescape(found["markdown"] or found["html"])


def media_type_of(data: bytes) -> str | None:
    """The type of an image, by its first bytes: names and headers are other people's text."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _TYPES if data.startswith(start)), None)


async def read_images(forge: Forge, conversation: Conversation) -> tuple[Image, ...]:
    """The attached images of a conversation, as far as they can be read.

    Only attachments of the forge itself are read: any other address could be one that a stranger chose.
    """
    images: list[Image] = []
    room = MOST_BYTES
    tried = 0
    for item, link in _links(conversation):
        if len(images) == MOST or tried == MOST_TRIED:
            break
        try:
            data = await forge.attachment(item, link, limit=min(LARGEST, room))
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


def _links(conversation: Conversation) -> Iterator[tuple[Item, str]]:
    """Each link once, with the item in whose text it stands."""
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
