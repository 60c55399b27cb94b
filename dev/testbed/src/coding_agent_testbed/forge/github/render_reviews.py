"""GitHub's JSON of reviews, review comments, files, checks, jobs and statuses.

Shapes: GitHub's OpenAPI description, https://github.com/github/rest-api-description
"""

from __future__ import annotations

from collections.abc import Sequence

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.github.items import ItemRenderer
from coding_agent_testbed.forge.github.render import Json, association, node_id, reactions
from coding_agent_testbed.forge.model import (
    Check,
    CheckHappening,
    Comment,
    Item,
    Repository,
    Review,
    Thread,
    User,
)
from coding_agent_testbed.forge.reviews import hunk, place
from coding_agent_testbed.forge.timestamps import github_time

_STATUS = {"A": "added", "D": "removed", "M": "modified", "R": "renamed"}


class ReviewRenderer(ItemRenderer):
    """Renders what belongs to reviews and checks too."""

    def review(self, repository: Repository, item: Item, review: Review) -> Json:
        """A submitted review."""
        page = f"{self.item_page(repository, item)}#pullrequestreview-{review.id}"
        pull = f"{self.repository_url(repository)}/pulls/{item.number}"
        return {
            "id": review.id,
            "node_id": node_id("PullRequestReview", review.id),
            "user": self.user(review.author),
            "body": review.body,
            "state": review.state,
            "html_url": page,
            "pull_request_url": pull,
            "_links": {"html": {"href": page}, "pull_request": {"href": pull}},
            "author_association": association(repository, review.author),
            "submitted_at": github_time(review.submitted_at),
            "commit_id": review.commit,
        }

    def review_comment(self, repository: Repository, item: Item, thread: Thread, comment: Comment) -> Json:
        """A comment of a thread. GitHub shows null as the line and position of one that is outdated."""
        at = place(repository, item, thread, follow_renames=False)
        url = f"{self.repository_url(repository)}/pulls/comments/{comment.id}"
        page = f"{self.item_page(repository, item)}#discussion_r{comment.id}"
        pull = f"{self.repository_url(repository)}/pulls/{item.number}"
        side = "LEFT" if thread.removed else "RIGHT"
        whole_file = thread.line is None
        shown: Json = {
            "url": url,
            "pull_request_review_id": thread.review,
            "id": comment.id,
            "node_id": node_id("PullRequestReviewComment", comment.id),
            "diff_hunk": self._hunk(repository, thread),
            "path": at.path,
            "position": None if at.outdated else 1,
            "original_position": 1,
            "commit_id": thread.commit if at.outdated else item.tips.head_sha,
            "original_commit_id": thread.commit,
            "user": self.user(comment.author),
            "body": comment.body,
            "created_at": github_time(comment.created_at),
            "updated_at": github_time(comment.updated_at),
            "html_url": page,
            "pull_request_url": pull,
            "author_association": association(repository, comment.author),
            "_links": {"self": {"href": url}, "html": {"href": page}, "pull_request": {"href": pull}},
            "start_line": None if at.outdated else at.start_line,
            "original_start_line": thread.start_line,
            "start_side": side if thread.start_line is not None else None,
            "line": None if at.outdated or whole_file else at.line,
            "original_line": 1 if whole_file else thread.line,
            "side": side,
            "subject_type": "file" if whole_file else "line",
            "reactions": reactions(url),
        }
        if comment is not thread.comments[0]:
            shown["in_reply_to_id"] = thread.comments[0].id
        return shown

    def _hunk(self, repository: Repository, thread: Thread) -> str:
        if thread.line is None:
            return ""
        for change in git.changes(repository.path, f"{thread.base}...{thread.commit}"):
            if thread.path in (change.old, change.new):
                return hunk(change.diff, thread.line, removed=thread.removed)
        return ""

    def file(self, repository: Repository, item: Item, change: git.FileChange) -> Json:
        """A file of a pull request."""
        added, removed = change.counts
        web, api = f"{self.base}/{repository.full_name}", self.repository_url(repository)
        shown: Json = {
            "sha": item.tips.head_sha,
            "filename": change.new,
            "status": _STATUS.get(change.status, "changed"),
            "additions": added,
            "deletions": removed,
            "changes": added + removed,
            "blob_url": f"{web}/blob/{item.tips.head_sha}/{change.new}",
            "raw_url": f"{web}/raw/{item.tips.head_sha}/{change.new}",
            "contents_url": f"{api}/contents/{change.new}?ref={item.tips.head_sha}",
        }
        if change.diff:
            shown["patch"] = change.diff
        if change.status == "R":
            shown["previous_filename"] = change.old
        return shown

    def check_run(self, repository: Repository, check: Check, users: list[User]) -> Json:
        """A check run; those with a log are jobs of GitHub Actions."""
        url = f"{self.repository_url(repository)}/check-runs/{check.id}"
        page = f"{self.base}/{repository.full_name}/actions/runs/{check.run}/job/{check.id}"
        return {
            "id": check.id,
            "node_id": node_id("CheckRun", check.id),
            "head_sha": check.sha,
            "external_id": str(check.id),
            "url": url,
            "html_url": page,
            "details_url": page,
            **_progress(check),
            "output": {
                "title": check.summary or None,
                "summary": check.summary or None,
                "text": None,
                "annotations_count": 0,
                "annotations_url": f"{url}/annotations",
            },
            "name": check.name,
            "check_suite": {"id": check.run},
            "app": self._actions(repository, users),
            "pull_requests": [],
        }

    def job(self, repository: Repository, check: Check, branch: str) -> Json:
        """A job of a workflow run; its id is that of its check run."""
        api = self.repository_url(repository)
        return {
            "id": check.id,
            "run_id": check.run,
            "run_url": f"{api}/actions/runs/{check.run}",
            "node_id": node_id("CheckRun", check.id),
            "head_sha": check.sha,
            "url": f"{api}/actions/jobs/{check.id}",
            "html_url": f"{self.base}/{repository.full_name}/actions/runs/{check.run}/job/{check.id}",
            **_progress(check),
            "created_at": github_time(check.at),
            "name": check.name,
            "steps": [],
            "check_run_url": f"{api}/check-runs/{check.id}",
            "labels": ["ubuntu-latest"],
            "runner_id": 1,
            "runner_name": "sandbox",
            "runner_group_id": 1,
            "runner_group_name": "Default",
            "run_attempt": check.attempt,
            "workflow_name": "CI",
            "head_branch": branch,
        }

    def workflow_run(
        self, repository: Repository, checks: list[Check], branch: str, users: list[User]
    ) -> Json:
        """The workflow run of a commit, from its jobs."""
        first = checks[0]
        api = self.repository_url(repository)
        url = f"{api}/actions/runs/{first.run}"
        at = github_time(first.at)
        return {
            "id": first.run,
            "name": "CI",
            "node_id": node_id("WorkflowRun", first.run),
            "head_branch": branch,
            "head_sha": first.sha,
            "path": ".github/workflows/ci.yaml",
            "run_number": 1,
            "run_attempt": max(check.attempt for check in checks),
            "display_title": "CI",
            "event": "pull_request",
            "status": "completed" if conclusion(checks) else "in_progress",
            "conclusion": conclusion(checks),
            "workflow_id": 1,
            "check_suite_id": first.run,
            "url": url,
            "html_url": f"{self.base}/{repository.full_name}/actions/runs/{first.run}",
            "pull_requests": [],
            "created_at": at,
            "updated_at": at,
            "run_started_at": at,
            "jobs_url": f"{url}/jobs",
            "logs_url": f"{url}/logs",
            "check_suite_url": f"{api}/check-suites/{first.run}",
            "artifacts_url": f"{url}/artifacts",
            "cancel_url": f"{url}/cancel",
            "rerun_url": f"{url}/rerun",
            "previous_attempt_url": None,
            "workflow_url": f"{api}/actions/workflows/1",
            "head_commit": self.simple_commit(first),
            "repository": self.repository(repository, users),
            "head_repository": self.repository(repository, users),
        }

    def simple_commit(self, check: Check) -> Json:
        """A check's commit as a check suite shows it."""
        person = {"name": "Sandbox", "email": "sandbox@localhost"}
        return {
            "id": check.sha,
            "tree_id": check.sha,
            "message": "",
            "timestamp": github_time(check.at),
            "author": person,
            "committer": person,
        }

    def check_suite(self, happening: CheckHappening, users: list[User]) -> Json:
        """All check runs of a commit, as the events of check runs show them."""
        repository, check, item = happening.repository, happening.check, happening.item
        ended = conclusion([one for one in happening.checks if one.log is not None])
        api = self.repository_url(repository)
        pulls = []
        if item is not None and item.source is None:
            end = {"id": repository.id, "url": api, "name": repository.name}
            pulls.append(
                {
                    "url": f"{api}/pulls/{item.number}",
                    "id": item.id,
                    "number": item.number,
                    "head": {"ref": item.head, "sha": item.tips.head_sha, "repo": end},
                    "base": {"ref": item.base, "sha": item.tips.base_sha, "repo": end},
                }
            )
        return {
            "id": check.run,
            "node_id": node_id("CheckSuite", check.run),
            "head_branch": item.head if item else None,
            "head_sha": check.sha,
            "status": "completed" if ended else "in_progress",
            "conclusion": ended,
            "url": f"{api}/check-suites/{check.run}",
            "before": None,
            "after": check.sha,
            "pull_requests": pulls,
            "app": self._actions(repository, users),
            "created_at": github_time(check.at),
            "updated_at": github_time(check.ended_at or check.at),
        }

    def status_event(self, repository: Repository, check: Check) -> Json:
        """A commit status as its event shows it."""
        commit = self.commit(repository, git.commit_facts(repository.path, check.sha))
        return {
            "id": check.id,
            "sha": check.sha,
            "name": repository.full_name,
            "target_url": check.url or None,
            "avatar_url": None,
            "context": check.name,
            "description": check.summary or None,
            "state": check.result or "pending",
            "commit": commit,
            "branches": [],
            "created_at": github_time(check.at),
            "updated_at": github_time(check.ended_at or check.at),
        }

    def _actions(self, repository: Repository, users: list[User]) -> Json:
        """GitHub Actions, the App that all check runs are of."""
        created = github_time(repository.created_at)
        return {
            "id": 15368,
            "slug": "github-actions",
            "node_id": node_id("App", 15368),
            "owner": self.owner(repository, users),
            "name": "GitHub Actions",
            "description": None,
            "external_url": self.base,
            "html_url": f"{self.base}/apps/github-actions",
            "created_at": created,
            "updated_at": created,
            "permissions": {"checks": "write", "metadata": "read"},
            "events": ["check_run"],
        }

    def status(self, repository: Repository, check: Check) -> Json:
        """A commit status of another program."""
        at = github_time(check.at)
        return {
            "url": f"{self.repository_url(repository)}/statuses/{check.sha}",
            "avatar_url": None,
            "id": check.id,
            "node_id": node_id("StatusContext", check.id),
            "state": check.result or "pending",
            "description": check.summary or None,
            "target_url": check.url or None,
            "context": check.name,
            "created_at": at,
            "updated_at": github_time(check.ended_at or check.at),
        }


def _progress(check: Check) -> Json:
    """How far a check run or job is."""
    return {
        "status": "completed" if check.result else "queued" if check.queued else "in_progress",
        "conclusion": check.result or None,
        "started_at": github_time(check.at),
        "completed_at": github_time(check.ended_at) if check.ended_at else None,
    }


def conclusion(checks: Sequence[Check]) -> str | None:
    """How a workflow run or check suite ended; `None`: it has not."""
    results = {check.result for check in checks}
    if "" in results:
        return None
    return "success" if results <= {"success", "neutral", "skipped"} else "failure"
