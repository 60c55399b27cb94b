"""What differs between the platforms outside their clients; `registry` has those of each. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, urlsplit


class ItemKind(StrEnum):
    """What carries the label: an issue, or a change proposed for merging (pull request, merge request)."""

    ISSUE = "issue"
    CHANGE = "change"


@dataclass(frozen=True)
class KeyForm:
    """The dictionary that identifies an item in queue messages.

    Attributes:
        number: the field with the item's number.
        task_class: names such an item in the receiver's log lines.
    """

    type: str
    number: str
    task_class: str


@dataclass(frozen=True)
class RequestLimits:
    """What one account may send, by the vendor's documentation; `None`: no limit is documented.

    Attributes:
        creates_per_minute: new comments and changes. Edits and labels do not count.
        writes_per_minute: all requests that change something.
        per_hour: all requests.
    """

    creates_per_minute: int
    creates_per_hour: int | None = None
    writes_per_minute: int | None = None
    per_hour: int | None = None


@dataclass(frozen=True)
class PlatformFacts:
    """What differs between the platforms.

    Attributes:
        web_host: of the public installation.
        web_limits: of requests there.
        limits: of requests to a self-managed installation with its default settings.
        change_path: between a repository and a change's number in web addresses.
        change_mark: precedes a change's number; an issue's mark is always `#`.
        change_word: means a change in a task's name.
        by_project_id: API and queue keys identify a repository by a number that does not change.
        project_id_help: where people find that number.
        address: the path of an item's web address, with the groups `path`, `number`, and `change` for a
            change.
        example: of such an address.
        active_text: regular expressions of what has an effect in the forge's Markdown; see `text`.
        active_blocks: the same, of what has it at the start of a line, and in code.
        webhook_setting: verifies webhooks, in `webhook.<platform>`.
    """

    title: str
    web_host: str
    web_limits: RequestLimits
    limits: RequestLimits
    change_noun: str
    change_path: str
    change_mark: str
    change_word: str
    by_project_id: bool
    keys: Mapping[ItemKind, KeyForm]
    address: re.Pattern[str]
    example: str
    active_text: tuple[str, ...]
    webhook_setting: str
    active_blocks: tuple[str, ...] = ()
    project_id_help: str = ""


def web_base(api_url: str) -> str:
    """The web address, without a trailing slash, of the forge whose REST API is at `api_url`.

    `https://api.github.com` -> `https://github.com`; `https://HOST/api/v3` and `https://HOST/path/api/v4` ->
    the part before `/api/`; `https://api.TENANT.ghe.com` -> `https://TENANT.ghe.com`.
    """
    parts = urlsplit(api_url)
    # The part before an `@` is credentials, which must not be in a URL of ours.
    location = parts.netloc.rpartition("@")[2]
    if "/api/" in f"{parts.path}/":
        return f"{parts.scheme}://{location}{parts.path.split('/api/')[0]}"
    return f"{parts.scheme}://{location.removeprefix('api.')}"


def clone_url(api_url: str, repository: str) -> str:
    return f"{web_base(api_url)}/{quote(repository.strip('/'))}.git"
