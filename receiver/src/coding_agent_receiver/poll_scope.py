"""May we poll? A search without a scope on a public forge would find strangers' items: pure."""

from __future__ import annotations

import re

from coding_agent_core.settings import Settings
from coding_agent_core.tasks import Platform

_GITHUB_SCOPE = re.compile(r"\b(repo|org|user|assignee|author|involves):\S")


def scope_problem(settings: Settings) -> str | None:
    """Why polling `task_source` would reach too far, with the settings that narrow it; `None` if it is fine.

    On GitHub Enterprise and a self-managed GitLab the whole instance is a scope of its own.
    """
    if settings.task_source is Platform.GITHUB:
        github = settings.github
        narrowed = github.owner or github.assignee or _GITHUB_SCOPE.search(github.query)
        if github.host == "github.com" and not narrowed:
            return (
                "polling github.com without a scope would find the items of strangers: set github.owner, "
                "github.assignee, or a qualifier such as `org:NAME` or `repo:OWNER/NAME` in github.query"
            )
        return None
    gitlab = settings.gitlab
    narrowed_gitlab = gitlab.project_id or gitlab.group_id or gitlab.assignee
    if gitlab.host == "gitlab.com" and not narrowed_gitlab:
        return (
            "polling gitlab.com without a scope would find the items of strangers: "
            "set gitlab.project_id, gitlab.group_id or gitlab.assignee"
        )
    return None
