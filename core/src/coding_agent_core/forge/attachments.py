"""Files that people attach to issues and comments: which links are such, and where our token may read them.

GitHub keeps them below its web address (`/user-attachments/assets/ID`, before 2024
`/OWNER/REPO/assets/N/ID`), GitLab below the project (`/uploads/SECRET/NAME`), which its API reads
(documentation, *Markdown uploads API*).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import unquote

from coding_agent_core.forge.client import path
from coding_agent_core.forge.protocol import web_base
from coding_agent_core.platforms import Platform
from coding_agent_core.tasks import Item

_GITHUB = re.compile(r"/(?:user-attachments/assets|[\w.-]+/[\w.-]+/assets/\d+)/[\w-]+")
_GITHUB_PUBLIC = re.compile(r"https://user-images\.githubusercontent\.com/\d+/[\w.-]+")
_GITLAB = re.compile(r"/uploads/([0-9a-f]{32})/([^/?#]+)")


@dataclass(frozen=True)
class Attachment:
    """Where an attached file is read.

    Attributes:
        address: a path of the forge's API, or a whole address.
        with_token: whether our token goes there: to the forge's own host alone.
    """

    address: str
    with_token: bool


def attachment_of(platform: Platform, api_url: str, item: Item, link: str) -> Attachment | None:
    """The attachment that a link in an item's text leads to; `None`: the link leads elsewhere.

    Args:
        api_url: of the forge's REST API.
        link: as written in the text; GitLab's are relative to the project.
    """
    web = web_base(api_url)
    match platform:
        case Platform.GITHUB:
            return _of_github(web, link)
        case Platform.GITLAB:
            return _of_gitlab(web, item, link)
        case _:
            assert_never(platform)


def _of_github(web: str, link: str) -> Attachment | None:
    if _GITHUB_PUBLIC.fullmatch(link) and web == "https://github.com":
        return Attachment(link, with_token=False)
    if link.startswith(f"{web}/") and _GITHUB.fullmatch(link.removeprefix(web)):
        return Attachment(link, with_token=True)
    return None


def _of_gitlab(web: str, item: Item, link: str) -> Attachment | None:
    project = item.repository if item.project_id is None else item.project_id
    places = (f"{web}/{item.repository}", f"{web}/-/project/{item.project_id}", "")
    for place in places:
        found = _GITLAB.fullmatch(link.removeprefix(place)) if link.startswith(place) else None
        if found is not None:
            name = unquote(found[2])
            return Attachment(path("projects", project, "uploads", found[1], name), with_token=True)
    return None
