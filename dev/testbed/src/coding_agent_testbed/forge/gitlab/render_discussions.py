"""GitLab's JSON of discussions, versions of merge requests, pipelines and jobs.

Shapes: https://docs.gitlab.com/api/discussions/, https://docs.gitlab.com/api/merge_requests/ (diff versions),
https://docs.gitlab.com/api/pipelines/ and https://docs.gitlab.com/api/jobs/
"""

from __future__ import annotations

from datetime import datetime

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.gitlab.items import ItemRenderer
from coding_agent_testbed.forge.gitlab.render import Json, discussion_id
from coding_agent_testbed.forge.model import Check, Comment, Item, Repository, Thread, User, Version
from coding_agent_testbed.forge.reviews import failure_reason, job_state, place, status_of
from coding_agent_testbed.forge.sandbox import Sandbox
from coding_agent_testbed.forge.timestamps import gitlab_time

_STATES = {
    "APPROVED": "approved",
    "CHANGES_REQUESTED": "requested_changes",
    "COMMENTED": "reviewed",
    "DISMISSED": "unapproved",
    "PENDING": "review_started",
    "UNREVIEWED": "unreviewed",
}


class DiscussionRenderer(ItemRenderer):
    """Renders what belongs to reviews and checks too."""

    def single(self, repository: Repository, item: Item, comment: Comment) -> Json:
        """A comment that is not part of a thread, as a discussion."""
        return {
            "id": discussion_id(comment.id),
            "individual_note": True,
            "notes": [self.note(repository, item, comment)],
        }

    def discussion(self, repository: Repository, item: Item, thread: Thread) -> Json:
        """A thread on lines."""
        notes = [self.diff_note(repository, item, thread, comment) for comment in thread.comments]
        return {"id": discussion_id(thread.id), "individual_note": False, "notes": notes}

    def diff_note(self, repository: Repository, item: Item, thread: Thread, comment: Comment) -> Json:
        """A comment of a thread. GitLab moves its position along with each push while its lines are there."""
        resolved = thread.resolved_by
        on_lines = {"commit_id": None, "position": self._position(repository, item, thread)}
        return self.note(repository, item, comment) | {
            "type": "DiffNote" if thread.path else "DiscussionNote",
            **(on_lines if thread.path else {}),
            "resolvable": True,
            "resolved": resolved is not None,
            "resolved_by": self.user(resolved) if resolved else None,
            "resolved_at": gitlab_time(comment.updated_at) if resolved else None,
            "suggestions": [],
        }

    def _position(self, repository: Repository, item: Item, thread: Thread) -> Json:
        at = place(repository, item, thread, follow_renames=True)
        base, head = (thread.base, thread.commit) if at.outdated else (item.tips.base_sha, item.tips.head_sha)
        differing = git.changes(repository.path, f"{base}...{head}")
        own = next((one for one in differing if at.path in (one.old, one.new)), None)
        side = "old_line" if thread.removed else "new_line"
        shown: Json = {
            "base_sha": base,
            "start_sha": base,
            "head_sha": head,
            "old_path": own.old if own else at.path,
            "new_path": own.new if own else at.path,
            "position_type": "file" if at.line is None else "text",
        }
        if at.line is None:
            return shown
        shown |= {"old_line": None, "new_line": None, side: at.line, "line_range": None}
        if at.start_line is not None:
            shown["line_range"] = {
                name: {
                    "line_code": f"{discussion_id(at.path)}_0_{line}",
                    "type": "old" if thread.removed else "new",
                    "old_line": line if thread.removed else None,
                    "new_line": None if thread.removed else line,
                }
                for name, line in (("start", at.start_line), ("end", at.line))
            }
        return shown

    def version(self, item: Item, version: Version) -> Json:
        """A version of a merge request: one for each push."""
        return {
            "id": version_id(version.head_sha),
            "head_commit_sha": version.head_sha,
            "base_commit_sha": version.base_sha,
            "start_commit_sha": version.base_sha,
            "created_at": gitlab_time(version.at),
            "merge_request_id": item.id,
            "state": "collected",
            "real_size": "1",
            "patch_id_sha": version.head_sha,
        }

    def full_version(self, repository: Repository, item: Item, version: Version) -> Json:
        """A version with its differences."""
        return self.version(item, version) | {
            "commits": [],
            "diffs": [
                {
                    "old_path": change.old,
                    "new_path": change.new,
                    "a_mode": "100644",
                    "b_mode": "100644",
                    "diff": change.diff,
                    "new_file": change.status == "A",
                    "renamed_file": change.status == "R",
                    "deleted_file": change.status == "D",
                    "generated_file": False,
                }
                for change in git.changes(repository.path, f"{version.base_sha}...{version.head_sha}")
            ],
        }

    def reviewer(self, user: User, verdict: str, at: datetime) -> Json:
        """A reviewer with what they said last."""
        return {"user": self.user(user), "state": _STATES[verdict], "created_at": gitlab_time(at)}

    def pipeline(self, repository: Repository, checks: list[Check], branch: str) -> Json:
        """The pipeline of a commit, from its jobs."""
        first = checks[0]
        at = gitlab_time(first.at)
        changed = max(check.ended_at or check.at for check in checks)
        return {
            "id": first.run,
            "iid": 1,
            "project_id": repository.id,
            "sha": first.sha,
            "ref": branch,
            "status": status_of([check for check in checks if not check.superseded]),
            "source": "push",
            "created_at": at,
            "updated_at": gitlab_time(changed),
            "web_url": f"{self.base}/{repository.full_name}/-/pipelines/{first.run}",
        }

    def job(self, repository: Repository, check: Check, branch: str) -> Json:
        """A job; GitLab calls a failure `failed`."""
        at, reason = gitlab_time(check.at), failure_reason(check)
        pipeline = self.pipeline(repository, [check], branch)
        return {
            "id": check.id,
            "name": check.name,
            "stage": "test",
            "status": job_state(check),
            "ref": branch,
            "tag": False,
            "coverage": None,
            "allow_failure": check.allow_failure,
            "created_at": at,
            "started_at": None if check.queued else at,
            "finished_at": gitlab_time(check.ended_at) if check.ended_at else None,
            "erased_at": None,
            "duration": 1.0,
            "queued_duration": 0.1,
            "user": None,
            "commit": {"id": check.sha, "short_id": check.sha[:8], "title": ""},
            "pipeline": {key: pipeline[key] for key in ("id", "project_id", "ref", "sha", "status")},
            "web_url": f"{self.base}/{repository.full_name}/-/jobs/{check.id}",
            "artifacts": [],
            "runner": None,
            "archived": False,
            **({"failure_reason": reason} if reason else {}),
        }

    def commit_status(self, check: Check, branch: str, author: User) -> Json:
        """A job, or a status of another program, as a status of its commit."""
        at = gitlab_time(check.at)
        return {
            "id": check.id,
            "sha": check.sha,
            "ref": branch,
            "status": job_state(check),
            "name": check.name,
            "target_url": check.url or None,
            "description": check.summary or None,
            "created_at": at,
            "started_at": None if check.queued else at,
            "finished_at": gitlab_time(check.ended_at) if check.ended_at else None,
            "allow_failure": check.allow_failure,
            "coverage": None,
            "pipeline_id": check.run,
            "author": self.user(author),
        }


def head_pipeline(sandbox: Sandbox, repository: Repository, item: Item) -> Json | None:
    """The pipeline of a merge request's newest commit."""
    checks = sandbox.reviews.checks(repository, item.tips.head_sha, latest=True)
    renderer = DiscussionRenderer(sandbox.base_url)
    return renderer.pipeline(repository, checks, item.head) if checks else None


def version_id(head: str) -> int:
    """A version's id, from its newest commit."""
    return int(head[:7], 16)
