"""The types of the facts in which platforms differ; `registry` has the facts themselves. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, urlsplit


class ItemKind(StrEnum):
    """The kind of a labeled item: an issue, or a change proposed for merging (pull or merge request)."""

    ISSUE = "issue"
    CHANGE = "change"


@dataclass(frozen=True)
class KeyForm:
    """The dictionary that identifies an item in queue messages.

    Attributes:
        type: the value of the field `type`.
        number: the name of the field with the item's number.
        task_class: the name for such items in the receiver's log lines.
    """

    type: str
    number: str
    task_class: str


@dataclass(frozen=True)
class RequestLimits:
    """The limits for one account in the vendor's documentation; `None` if no limit is documented.

    Attributes:
        creates_per_minute, creates_per_hour: new comments and changes. Edits and labels do not count.
        writes_per_minute: all requests that change something.
        per_hour: all requests.
    """

    creates_per_minute: int
    creates_per_hour: int | None = None
    writes_per_minute: int | None = None
    per_hour: int | None = None


@dataclass(frozen=True)
class PlatformFacts:
    """The differences between the platforms.

    Attributes:
        web_host: the host of the public installation.
        web_limits: the limits of requests to the public installation.
        limits: the limits of requests to a self-managed installation with its default settings.
        change_path: the path between repository and number in a change's web address.
        change_mark: the mark before a change's number; the mark of an issue is always `#`.
        change_word: the word for a change in a task's name.
        rerun_right: what must be true so that we may run checks again, as a clause.
        by_project_id: whether API and queue keys identify a repository by a number that does not change.
        project_id_help: where people find that number.
        address: matches the path of an item's web address, with the groups `path`, `number`, and `change` if
            the item is a change.
        example: an example of such an address.
        active_text: regular expressions for text that has an effect in the forge's Markdown; see `text`.
        active_blocks: regular expressions for text that has an effect at the start of a line, even in code.
        webhook_setting: the setting in `webhook.<platform>` that verifies webhooks.
        labels_ignore_case: whether names of labels that differ only in letter case are one label.
        how_to_renew: how people renew a token before it expires, as a clause; empty if tokens never expire.
    """

    title: str
    web_host: str
    web_limits: RequestLimits
    limits: RequestLimits
    change_noun: str
    change_path: str
    change_mark: str
    change_word: str
    rerun_right: str
    by_project_id: bool
    labels_ignore_case: bool
    keys: Mapping[ItemKind, KeyForm]
    address: re.Pattern[str]
    example: str
    active_text: tuple[str, ...]
    webhook_setting: str
    active_blocks: tuple[str, ...] = ()
    project_id_help: str = ""
    how_to_renew: str = ""

    def label_key(self, name: str) -> str:
        """Return the key of a label's name; all spellings of one label have the same key."""
        return name.casefold() if self.labels_ignore_case else name


def web_base(api_url: str) -> str:
    """Return the web address, without a trailing slash, of the forge whose REST API is at `api_url`.

    `https://api.github.com` -> `https://github.com`; `https://HOST/api/v3` and `https://HOST/path/api/v4` ->
    the part before `/api/`; `https://api.TENANT.ghe.com` -> `https://TENANT.ghe.com`.
    """
    parts = urlsplit(api_url)
    # The part before an `@` contains credentials, which must not be in our URLs.
    location = parts.netloc.rpartition("@")[2]
    if "/api/" in f"{parts.path}/":
        return f"{parts.scheme}://{location}{parts.path.split('/api/')[0]}"
    return f"{parts.scheme}://{location.removeprefix('api.')}"


def clone_url(api_url: str, repository: str) -> str:
    return f"{web_base(api_url)}/{quote(repository.strip('/'))}.git"
