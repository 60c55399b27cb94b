"""The facts about GitHub that modules other than its client need. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from coding_agent_core.platforms.facts import ItemKind, KeyForm, PlatformFacts, RequestLimits

_LIMITS = RequestLimits(
    creates_per_minute=80, creates_per_hour=500, writes_per_minute=900 // 5, per_hour=5000
)
"""See *Rate limits for the REST API*: 80 content-generating requests per minute and 500 per hour; 900 points
per minute, and a request that changes something costs 5; 5,000 requests per hour, or what the answers state,
e.g. for an App. Enterprise Server has no limits by default, but recommends the same practices."""

FACTS = PlatformFacts(
    title="GitHub",
    web_host="github.com",
    web_limits=_LIMITS,
    limits=_LIMITS,
    change_noun="pull request",
    change_path="pull",
    change_mark="#",
    change_word="pr",
    # See *Re-run a job from a workflow run*, and *Re-running workflows and jobs*.
    rerun_right="the bot's token has the permission `Actions: write` and the run is at most 30 days old",
    by_project_id=False,
    labels_ignore_case=True,
    keys={
        ItemKind.ISSUE: KeyForm("github_issue", "number", "TaskGitHubIssue"),
        ItemKind.CHANGE: KeyForm("github_pull_request", "number", "TaskGitHubPullRequest"),
    },
    address=re.compile(r"/(?P<path>[^/]+/[^/]+)/(issues|(?P<change>pull))/(?P<number>[1-9]\d{0,9})(/.*)?"),
    example="https://github.com/OWNER/REPO/issues/7",
    # See *Autolinked references and URLs*, *Linking a pull request to an issue*, *Skipping workflow runs*.
    active_text=(
        r"\bGH-(?=\d)",
        r"/(?:issues|pulls?|discussions)/(?=\d)",
        r"\bskip-(?=checks)",  # skip-checks: true
    ),
    webhook_setting="secret",
    # See *Managing your personal access tokens*. The token's page has the button *Regenerate token*.
    how_to_renew="Regenerate it on its page in GitHub's settings",
)

MEMBERS = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
"""Values of `author_association` for people whom the repository's owner has chosen."""

_EXPIRY = "github-authentication-token-expiration"
_EXPIRY_FORMS = ("%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S %z")
"""Both forms of the header `_EXPIRY`, with which GitHub answers each request of a token that expires."""


def token_expiry_of(headers: Mapping[str, str]) -> datetime | None:
    """Return when a request's token expires, in UTC, by the answer's headers; `None` if it never does."""
    text = headers.get(_EXPIRY, "")
    for form in _EXPIRY_FORMS:
        with suppress(ValueError):
            at = datetime.strptime(text, form)
            return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    return None
