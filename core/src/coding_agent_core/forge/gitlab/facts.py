"""What is particular to GitLab outside its client. Pure."""

from __future__ import annotations

from coding_agent_core.platforms import ItemKind, KeyForm, PlatformFacts, RequestLimits

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
    by_project_id=True,
    keys={
        ItemKind.ISSUE: KeyForm("gitlab_issue", "issue_iid", "TaskGitLabIssue"),
        ItemKind.CHANGE: KeyForm("gitlab_merge_request", "mr_iid", "TaskGitLabMergeRequest"),
    },
    webhook_setting="token",
)
