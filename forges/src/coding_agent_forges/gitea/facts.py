"""The facts about Gitea that modules other than its client need. Pure.

Forgejo has the same API, addresses and webhooks by its documentation: it sends `X-Forgejo-Event` beside
`X-Gitea-Event`. It was not tried.
"""

from __future__ import annotations

import re

from coding_agent_core.platforms.facts import ItemKind, KeyForm, PlatformFacts, RequestLimits

_LIMITS = RequestLimits(creates_per_minute=60)
"""Neither Gitea nor gitea.com documents a limit, so this is our own choice: what people can still read."""

FACTS = PlatformFacts(
    title="Gitea",
    web_host="gitea.com",
    web_limits=_LIMITS,
    limits=_LIMITS,
    change_noun="pull request",
    change_path="pulls",
    change_mark="#",
    change_word="pr",
    # A commit status says nothing about what made it, so no check of Gitea is run again.
    rerun_right="somebody runs it again, because Gitea's API cannot",
    by_project_id=False,
    # Its database compares names with a collation that tells letter case apart.
    labels_ignore_case=False,
    keys={
        ItemKind.ISSUE: KeyForm("gitea_issue", "number", "TaskGiteaIssue"),
        ItemKind.CHANGE: KeyForm("gitea_pull_request", "number", "TaskGiteaPullRequest"),
    },
    address=re.compile(r"/(?P<path>[^/]+/[^/]+)/(issues|(?P<change>pulls))/(?P<number>[1-9]\d{0,9})(/.*)?"),
    example="https://gitea.com/OWNER/REPO/issues/7",
    # See *Automatically linked references*: `!7` is a pull request, and addresses of items are references.
    active_text=(r"!(?=\d)", r"/(?:issues|pulls)/(?=\d)"),
    webhook_setting="secret",
)
