"""GitHub's JSON of issues and pull requests. Pure."""

from __future__ import annotations

from collections.abc import Callable

from coding_agent_testbed.forge.github.render import Json, Renderer, association, node_id, reactions
from coding_agent_testbed.forge.model import Item, Kind, Repository, User
from coding_agent_testbed.forge.timestamps import github_time


class ItemRenderer(Renderer):
    """Renders issues and pull requests too.

    Args:
        mergeable: whether a pull request merges, as somebody who reads it is told; webhooks never say it.
    """

    def __init__(
        self,
        base_url: str,
        mergeable: Callable[[Repository, Item], bool | None] = lambda repository, item: None,
    ) -> None:
        super().__init__(base_url)
        self._mergeable = mergeable

    def issue(self, repository: Repository, item: Item) -> Json:
        """An issue, or a pull request seen as one."""
        url = f"{self.repository_url(repository)}/issues/{item.number}"
        shown: Json = {
            "url": url,
            "repository_url": self.repository_url(repository),
            "labels_url": f"{url}/labels{{/name}}",
            "comments_url": f"{url}/comments",
            "events_url": f"{url}/events",
            "timeline_url": f"{url}/timeline",
            **self._common(repository, item),
            "html_url": self.item_page(repository, item),
            "state_reason": None if item.open or item.kind is Kind.CHANGE else "completed",
            "comments": len(item.comments),
            "reactions": reactions(url),
            "performed_via_github_app": None,
        }
        if item.kind is Kind.CHANGE:
            page = self.item_page(repository, item)
            shown["draft"] = item.draft
            shown["pull_request"] = {
                "url": f"{self.repository_url(repository)}/pulls/{item.number}",
                "html_url": page,
                "diff_url": f"{page}.diff",
                "patch_url": f"{page}.patch",
                "merged_at": github_time(item.merged_at) if item.merged_at else None,
            }
        return shown

    def _common(self, repository: Repository, item: Item) -> Json:
        kind = "Issue" if item.kind is Kind.ISSUE else "PullRequest"
        assignees = [self.user(user) for user in item.assignees]
        return {
            "id": item.id,
            "node_id": node_id(kind, item.id),
            "number": item.number,
            "title": item.title,
            "user": self.user(item.author),
            "labels": [self.label(repository, label) for label in item.labels],
            "state": "open" if item.open else "closed",
            "locked": False,
            "assignee": assignees[0] if assignees else None,
            "assignees": assignees,
            "milestone": None,
            "created_at": github_time(item.created_at),
            "updated_at": github_time(item.updated_at),
            "closed_at": github_time(item.closed_at) if item.closed_at else None,
            "author_association": association(repository, item.author),
            "active_lock_reason": None,
            "body": item.body or None,
        }

    def pull(self, repository: Repository, item: Item, users: list[User], viewer: User | None = None) -> Json:
        """A pull request in a list; a fork that the viewer may not see is as if it were deleted."""
        api, page = self.repository_url(repository), self.item_page(repository, item)
        url, issue = f"{api}/pulls/{item.number}", f"{api}/issues/{item.number}"
        links = {
            "self": url,
            "html": page,
            "issue": issue,
            "comments": f"{issue}/comments",
            "review_comments": f"{url}/comments",
            "review_comment": f"{api}/pulls/comments{{/number}}",
            "commits": f"{url}/commits",
            "statuses": f"{api}/statuses/{item.tips.head_sha}",
        }
        return {
            "url": url,
            "html_url": page,
            "diff_url": f"{page}.diff",
            "patch_url": f"{page}.patch",
            "issue_url": issue,
            **self._common(repository, item),
            "merged_at": github_time(item.merged_at) if item.merged_at else None,
            "merge_commit_sha": None,
            "requested_reviewers": [self.user(user) for user in item.reviewers],
            "requested_teams": [],
            "draft": item.draft,
            "commits_url": links["commits"],
            "review_comments_url": links["review_comments"],
            "review_comment_url": links["review_comment"],
            "comments_url": links["comments"],
            "statuses_url": links["statuses"],
            "head": self._end(item.source or repository, item.head, item.tips.head_sha, users, viewer),
            "base": self._end(repository, item.base, item.tips.base_sha, users, viewer),
            "_links": {name: {"href": link} for name, link in links.items()},
            "auto_merge": None,
        }

    def full_pull(
        self, repository: Repository, item: Item, users: list[User], viewer: User | None = None
    ) -> Json:
        """A pull request by itself."""
        mergeable = self._mergeable(repository, item)
        return self.pull(repository, item, users, viewer) | {
            "merged": item.merged_at is not None,
            "mergeable": mergeable,
            "rebaseable": mergeable,
            "mergeable_state": {True: "clean", False: "dirty", None: "unknown"}[mergeable],
            "merged_by": self.user(item.author) if item.merged_at else None,
            "comments": len(item.comments),
            "review_comments": 0,
            "maintainer_can_modify": False,
            "commits": item.tips.commits,
            "additions": item.tips.additions,
            "deletions": item.tips.deletions,
            "changed_files": item.tips.changed_files,
        }

    def _end(
        self, repository: Repository, branch: str, sha: str, users: list[User], viewer: User | None
    ) -> Json:
        seen = not repository.deleted and (viewer is None or repository.role(viewer) is not None)
        return {
            "label": f"{repository.owner}:{branch}",
            "ref": branch,
            "sha": sha,
            "user": self.owner(repository, users),
            "repo": self.repository(repository, users) if seen else None,
        }
