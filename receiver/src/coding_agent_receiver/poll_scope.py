"""May we poll? A search without a scope on a public forge would find strangers' items: pure."""

from __future__ import annotations

import re
from typing import assert_never

from coding_agent_core.platforms import FACTS, Platform
from coding_agent_core.settings import Settings

_GITHUB_SCOPE = re.compile(r"\b(repo|org|user|assignee|author|involves):\S")


def scope_problem(settings: Settings) -> str | None:
    """Why polling `task_source` would reach too far, with the settings that narrow it; `None` if it is fine.

    On GitHub Enterprise and a self-managed GitLab the whole instance is a scope of its own.
    """
    match settings.task_source:
        case Platform.GITHUB:
            github = settings.github
            narrowed = bool(github.owner or github.assignee or _GITHUB_SCOPE.search(github.query))
            how = (
                "set github.owner, github.assignee, or a qualifier such as `org:NAME` or "
                "`repo:OWNER/NAME` in github.query"
            )
        case Platform.GITLAB:
            gitlab = settings.gitlab
            narrowed = bool(gitlab.project_id or gitlab.group_id or gitlab.assignee)
            how = "set gitlab.project_id, gitlab.group_id or gitlab.assignee"
        case _:
            assert_never(settings.task_source)
    host = settings.hosts[settings.task_source]
    if narrowed or host != FACTS[settings.task_source].web_host:
        return None
    return f"polling {host} without a scope would find the items of strangers: {how}"
