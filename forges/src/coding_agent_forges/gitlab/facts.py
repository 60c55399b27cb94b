"""The facts about GitLab that modules other than its client need. Pure."""

from __future__ import annotations

import re

from coding_agent_core.platforms.facts import ItemKind, KeyForm, PlatformFacts, RequestLimits

FACTS = PlatformFacts(
    title="GitLab",
    web_host="gitlab.com",
    # *GitLab.com rate limits* and *Rate limits on note creation*.
    web_limits=RequestLimits(creates_per_minute=60),
    limits=RequestLimits(creates_per_minute=300),
    change_noun="merge request",
    change_path="-/merge_requests",
    change_mark="!",
    change_word="mr",
    rerun_right="the bot has at least the role Developer in the project",  # see *Roles and permissions*
    by_project_id=True,
    labels_ignore_case=False,
    keys={
        ItemKind.ISSUE: KeyForm("gitlab_issue", "issue_iid", "TaskGitLabIssue"),
        ItemKind.CHANGE: KeyForm("gitlab_merge_request", "mr_iid", "TaskGitLabMergeRequest"),
    },
    # GitLab also shows issues as work items. The path of a group has at least one level.
    address=re.compile(
        r"/(?P<path>[^/]+(/[^/]+)+)/-/(issues|work_items|(?P<change>merge_requests))/(?P<number>[1-9]\d{0,9})(/.*)?"
    ),
    example="https://gitlab.com/GROUP/PROJECT/-/merge_requests/7",
    # See GitLab's documentation: *GitLab Flavored Markdown* (references), *Closing issues automatically*,
    # also by keys of Jira, and *Skip a pipeline*, which the rules for all forges cover.
    active_text=(
        r"\bGL-(?=\d)",
        r"[!&$%](?=\d)",  # merge request, epic, snippet, milestone
        r"\[(?=[a-z_]+:)",  # [work_item:1]
        r"/(?:issues|merge_requests|work_items|epics|incident)/(?=\d)",
        r"\b(?:clos|fix|resolv|implement)\w*:?\s+(?=[a-z][a-z0-9_]+-\d)",  # Closes PROJ-1
    ),
    # Multiline quotations, and *Quick actions*: lines that start with `/` outside quotations.
    active_blocks=(r">>(?=>)", r"^(?=/)"),
    webhook_setting="token",
    project_id_help="GitLab shows the id in the project's menu (Copy project ID).",
    # See *Project access tokens*. A token that is created instead has another bot user.
    how_to_renew="Rotate it in GitLab, which keeps its account",
)
