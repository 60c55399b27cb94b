"""GitLab's JSON of issues and merge requests. Pure.

Shapes: https://docs.gitlab.com/api/issues/ and https://docs.gitlab.com/api/merge_requests/
"""

from __future__ import annotations

from collections.abc import Callable

from coding_agent_testbed.forge.gitlab.merge_status import MergeStatus
from coding_agent_testbed.forge.gitlab.render import Json, Renderer
from coding_agent_testbed.forge.model import Item, Kind, Repository
from coding_agent_testbed.forge.timestamps import gitlab_time

_TIME_STATS = {
    "time_estimate": 0,
    "total_time_spent": 0,
    "human_time_estimate": None,
    "human_total_time_spent": None,
}


class ItemRenderer(Renderer):
    """Renders issues and merge requests too.

    Args:
        merge_status: of a merge request, and whether it is read alone.
    """

    def __init__(
        self,
        base_url: str,
        merge_status: Callable[[Repository, Item, bool], MergeStatus] = lambda *_: MergeStatus(),
    ) -> None:
        super().__init__(base_url)
        self.merge_status = merge_status

    def item(self, repository: Repository, item: Item) -> Json:
        """An issue or a merge request."""
        if item.kind is Kind.ISSUE:
            return self.issue(repository, item)
        return self.merge_request(repository, item)

    def page(self, repository: Repository, item: Item) -> str:
        """The page of an item."""
        noun = "issues" if item.kind is Kind.ISSUE else "merge_requests"
        return f"{self.base}/{repository.full_name}/-/{noun}/{item.number}"

    def _common(self, repository: Repository, item: Item, mark: str) -> Json:
        assignees = [self.user(user) for user in item.assignees]
        reference = f"{mark}{item.number}"
        return {
            "id": item.id,
            "iid": item.number,
            "project_id": repository.id,
            "title": item.title,
            "description": item.body,
            "state": state(item),
            "created_at": gitlab_time(item.created_at),
            "updated_at": gitlab_time(item.updated_at),
            "closed_at": gitlab_time(item.closed_at) if item.closed_at and not item.merged_at else None,
            "closed_by": None,
            "labels": sorted(label.name for label in item.labels),
            "milestone": None,
            "assignees": assignees,
            "assignee": assignees[0] if assignees else None,
            "author": self.user(item.author),
            "user_notes_count": sum(not comment.system for comment in item.comments),
            "upvotes": 0,
            "downvotes": 0,
            "discussion_locked": None,
            "web_url": self.page(repository, item),
            "time_stats": _TIME_STATS,
            "task_completion_status": {"count": 0, "completed_count": 0},
            "references": {
                "short": reference,
                "relative": reference,
                "full": f"{repository.full_name}{reference}",
            },
            "imported": False,
            "imported_from": "none",
        }

    def issue(self, repository: Repository, item: Item) -> Json:
        """An issue."""
        url = f"{self.project_url(repository)}/issues/{item.number}"
        return self._common(repository, item, "#") | {
            "type": "ISSUE",
            "issue_type": "issue",
            "merge_requests_count": 0,
            "due_date": None,
            "confidential": item.confidential,
            "blocking_issues_count": 0,
            "has_tasks": False,
            "severity": "UNKNOWN",
            "moved_to_id": None,
            "service_desk_reply_to": None,
            "_links": {
                "self": url,
                "notes": f"{url}/notes",
                "award_emoji": f"{url}/award_emoji",
                "project": self.project_url(repository),
                "closed_as_duplicate_of": None,
            },
        }

    def merge_request(self, repository: Repository, item: Item, *, alone: bool = False) -> Json:
        """A merge request; `alone`: not in a list."""
        tips, status = item.tips, self.merge_status(repository, item, alone)
        common = self._common(repository, item, "!")
        return common | {
            "user_notes_count": common["user_notes_count"] + status.thread_notes,
            "merged_by": self.user(item.author) if item.merged_at else None,
            "merge_user": self.user(item.author) if item.merged_at else None,
            "merged_at": gitlab_time(item.merged_at) if item.merged_at else None,
            "target_branch": item.base,
            "source_branch": item.head,
            "source_project_id": source.id if (source := repository.holder(item)) else None,
            "target_project_id": repository.id,
            "reviewers": [self.user(user) for user in item.reviewers],
            "draft": item.draft,
            "work_in_progress": item.draft,
            "merge_when_pipeline_succeeds": False,
            "merge_status": status.status,
            "detailed_merge_status": status.detailed,
            "sha": tips.head_sha,
            "merge_commit_sha": None,
            "squash_commit_sha": None,
            "should_remove_source_branch": None,
            "force_remove_source_branch": False,
            "prepared_at": gitlab_time(item.created_at),
            "reference": f"!{item.number}",
            "squash": False,
            "squash_on_merge": False,
            "has_conflicts": status.conflicts,
            "blocking_discussions_resolved": status.discussions_resolved,
        }

    def full_merge_request(self, repository: Repository, item: Item) -> Json:
        """A merge request by itself."""
        tips = item.tips
        return self.merge_request(repository, item, alone=True) | {
            "subscribed": False,
            "changes_count": str(tips.changed_files),
            "head_pipeline": None,
            "diff_refs": {
                "base_sha": tips.base_sha,
                "head_sha": tips.head_sha,
                "start_sha": tips.base_sha,
            },
            "merge_error": None,
            "first_contribution": False,
            "user": {"can_merge": True},
        }


def state(item: Item) -> str:
    """An item's state in GitLab's words."""
    if item.merged_at is not None:
        return "merged"
    return "opened" if item.open else "closed"
