"""The platforms, and what differs between them outside their clients: one table, `FACTS`.

Code takes a difference from this table, or matches on `Platform` and ends with `assert_never`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, urlsplit


class Platform(StrEnum):
    """The product; an installation of it is identified by its host."""

    GITHUB = "github"
    GITLAB = "gitlab"


class ItemKind(StrEnum):
    """What carries the label: an issue, or a change proposed for merging (pull request, merge request)."""

    ISSUE = "issue"
    CHANGE = "change"


@dataclass(frozen=True)
class KeyForm:
    """The dictionary that identifies an item in queue messages.

    Attributes:
        number: the field with the item's number.
        task_class: the consumer's task class in log lines.
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
    webhook_setting: str


_GITHUB_LIMITS = RequestLimits(
    creates_per_minute=80, creates_per_hour=500, writes_per_minute=900 // 5, per_hour=5000
)
"""*Rate limits for the REST API*: 80 content-generating requests a minute and 500 an hour; 900 points a
minute, of which a request that changes something costs 5; 5,000 requests an hour. Enterprise Server is
shipped without limits, but with the same best practices."""

FACTS: Mapping[Platform, PlatformFacts] = {
    Platform.GITHUB: PlatformFacts(
        title="GitHub",
        web_host="github.com",
        web_limits=_GITHUB_LIMITS,
        limits=_GITHUB_LIMITS,
        change_noun="pull request",
        change_path="pull",
        change_mark="#",
        change_word="pr",
        by_project_id=False,
        keys={
            ItemKind.ISSUE: KeyForm("github_issue", "number", "TaskGitHubIssue"),
            ItemKind.CHANGE: KeyForm("github_pull_request", "number", "TaskGitHubPullRequest"),
        },
        webhook_setting="secret",
    ),
    Platform.GITLAB: PlatformFacts(
        title="GitLab",
        web_host="gitlab.com",
        # *GitLab.com rate limits* and *Rate limits on note creation*.
        web_limits=RequestLimits(creates_per_minute=60),
        limits=RequestLimits(creates_per_minute=300),
        change_noun="merge request",
        change_path="-/merge_requests",
        change_mark="!",
        change_word="mr",
        by_project_id=True,
        keys={
            ItemKind.ISSUE: KeyForm("gitlab_issue", "issue_iid", "TaskGitLabIssue"),
            ItemKind.CHANGE: KeyForm("gitlab_merge_request", "mr_iid", "TaskGitLabMergeRequest"),
        },
        webhook_setting="token",
    ),
}

KEY_FIELDS = frozenset({"type", "owner", "repo", "project_id"}) | {
    form.number for facts in FACTS.values() for form in facts.keys.values()
}
KEY_TYPES: Mapping[str, tuple[Platform, ItemKind]] = {
    form.type: (platform, kind) for platform, facts in FACTS.items() for kind, form in facts.keys.items()
}


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
