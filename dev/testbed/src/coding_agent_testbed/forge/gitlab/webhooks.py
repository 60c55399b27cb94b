"""GitLab's webhooks: what an event says, and the request with its token. Pure.

https://docs.gitlab.com/user/project/integrations/webhook_events/
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from coding_agent_testbed.forge.deliveries import Message
from coding_agent_testbed.forge.gitlab.items import ItemRenderer, state
from coding_agent_testbed.forge.gitlab.render import Json, discussion_id
from coding_agent_testbed.forge.model import (
    Before,
    Check,
    CheckHappening,
    Happening,
    Hook,
    Item,
    Kind,
    Label,
    Repository,
    User,
)
from coding_agent_testbed.forge.reviews import failure_reason, job_state
from coding_agent_testbed.forge.timestamps import gitlab_hook_time

VERSION = "18.5.0"
_ACTIONS = {
    "opened": "open",
    "updated": "update",
    "closed": "close",
    "reopened": "reopen",
    "merged": "merge",
    "synchronized": "update",
    "reviewed": "approved",
    "review_requested": "update",
}
ISSUE, CONFIDENTIAL_ISSUE = "Issue Hook", "Confidential Issue Hook"
MERGE_REQUEST = "Merge Request Hook"
NOTE, CONFIDENTIAL_NOTE = "Note Hook", "Confidential Note Hook"
PIPELINE = "Pipeline Hook"
KINDS = {
    ISSUE: "issues",
    CONFIDENTIAL_ISSUE: "confidential_issues",
    MERGE_REQUEST: "merge_requests",
    NOTE: "notes",
    CONFIDENTIAL_NOTE: "confidential_notes",
    PIPELINE: "pipelines",
}
"""What each event is called in a hook's settings."""
_ISSUE_ACTIONS = ("open", "update", "close", "reopen")
EVENTS: dict[str, tuple[str, ...]] = {
    ISSUE: _ISSUE_ACTIONS,
    CONFIDENTIAL_ISSUE: _ISSUE_ACTIONS,
    MERGE_REQUEST: (*_ISSUE_ACTIONS, "merge", "approved"),
    NOTE: ("create",),
    CONFIDENTIAL_NOTE: ("create",),
    PIPELINE: ("pending", "running", "success", "failed", "canceled", "manual"),
}
"""Every event that the sandbox sends, with its actions (of a pipeline: its states). A test checks each
against the types of GitLab's own client."""


def seal(hook: Hook, message: Message, guid: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of a delivery. `Idempotency-Key` is what stays when it is sent again."""
    assert message.action in EVENTS[message.event], f"list {message.event} {message.action} in EVENTS"
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"GitLab/{VERSION}",
        "Idempotency-Key": guid,
        "X-Gitlab-Event": message.event if hook.repository is not None else "System Hook",
        "X-Gitlab-Event-UUID": str(uuid.uuid4()),
        "X-Gitlab-Webhook-UUID": str(uuid.uuid4()),
        "X-Gitlab-Instance": _instance(message.payload),
    }
    if hook.secret:
        headers["X-Gitlab-Token"] = hook.secret
    return headers, json.dumps(message.payload, separators=(",", ":"), ensure_ascii=False).encode()


def _instance(payload: Json) -> str:
    return "/".join(str(payload["project"]["web_url"]).split("/")[:3])


def message(happening: Happening, renderer: ItemRenderer) -> Message:
    """The event of a happening: GitLab sends one, whatever changed at once."""
    if happening.action in ("commented", "review_commented"):
        return _note(happening, renderer)
    repository, item = happening.repository, happening.item
    issue = item.kind is Kind.ISSUE
    kind = "issue" if issue else "merge_request"
    attributes = attributes_of(repository, item, renderer) | {"action": _ACTIONS[happening.action]}
    if happening.action == "synchronized":
        attributes["oldrev"] = happening.previous_sha
    payload: Json = {
        "object_kind": kind,
        "event_type": "confidential_issue" if item.confidential else kind,
        "user": _user(happening.actor),
        "project": _project(repository, renderer),
        "object_attributes": attributes,
        "labels": _labels(repository, item.labels),
        "changes": _changes(happening),
        "repository": _repository(repository, renderer),
    }
    if item.assignees:
        payload["assignees"] = [_user(user) for user in item.assignees]
    if item.reviewers:
        payload["reviewers"] = [_user(user) for user in item.reviewers]
    event = MERGE_REQUEST
    if issue:
        event = CONFIDENTIAL_ISSUE if item.confidential else ISSUE
    return Message(event, _ACTIONS[happening.action], payload, repository.id)


def _note(happening: Happening, renderer: ItemRenderer) -> Message:
    repository, item, comment = happening.repository, happening.item, happening.comment
    assert comment is not None
    kind = "issue" if item.kind is Kind.ISSUE else "merge_request"
    payload: Json = {
        "object_kind": "note",
        "event_type": "confidential_note" if item.confidential else "note",
        "user": _user(happening.actor),
        "project_id": repository.id,
        "project": _project(repository, renderer),
        "object_attributes": {
            "id": comment.id,
            "note": comment.body,
            "description": comment.body,
            "noteable_type": "Issue" if item.kind is Kind.ISSUE else "MergeRequest",
            "author_id": comment.author.id,
            "created_at": gitlab_hook_time(comment.created_at),
            "updated_at": gitlab_hook_time(comment.updated_at),
            "project_id": repository.id,
            "attachment": None,
            "line_code": None,
            "commit_id": "",
            "noteable_id": item.id,
            "system": comment.system,
            "st_diff": None,
            "internal": False,
            "action": "create",
            "url": f"{renderer.page(repository, item)}#note_{comment.id}",
        },
        "repository": _repository(repository, renderer),
        kind: attributes_of(repository, item, renderer) | {"labels": _labels(repository, item.labels)},
    }
    thread = happening.thread
    if thread is not None:
        payload["object_attributes"] |= {
            "type": "DiffNote" if thread.path else "DiscussionNote",
            "discussion_id": discussion_id(thread.id),
            "resolved_at": None,
            "resolved_by_id": None,
        }
        if thread.path:
            at = {"old_path": thread.path, "new_path": thread.path, "new_line": thread.line}
            payload["object_attributes"]["position"] = at | {"head_sha": thread.commit}
    event = CONFIDENTIAL_NOTE if item.confidential else NOTE
    return Message(event, "create", payload, repository.id)


def pipeline_message(happening: CheckHappening, renderer: ItemRenderer) -> Message:
    """The event of a pipeline whose status changed."""
    repository, check, item = happening.repository, happening.check, happening.item
    ended = happening.status not in ("running", "pending")
    now = gitlab_hook_time(check.ended_at or check.at)
    project = _project(repository, renderer)
    change: Json | None = None
    if item is not None:
        attributes = attributes_of(repository, item, renderer)
        change = {
            name: attributes[name]
            for name in (
                "id",
                "iid",
                "title",
                "source_branch",
                "source_project_id",
                "target_branch",
                "target_project_id",
                "state",
                "merge_status",
                "detailed_merge_status",
                "url",
            )
        }
    payload: Json = {
        "object_kind": "pipeline",
        "object_attributes": {
            "id": check.run,
            "iid": 1,
            "name": None,
            "ref": item.head if item else "",
            "tag": False,
            "sha": check.sha,
            "before_sha": "0" * 40,
            "source": "push",
            "status": happening.status,
            "detailed_status": happening.status,
            "stages": ["test"],
            "created_at": gitlab_hook_time(happening.checks[0].at),
            "finished_at": now if ended else None,
            "duration": 1 if ended else None,
            "queued_duration": 1,
            "variables": [],
            "url": f"{project['web_url']}/-/pipelines/{check.run}",
        },
        "merge_request": change,
        "user": _user(happening.actor),
        "project": project,
        "commit": {
            "id": check.sha,
            "message": "",
            "title": "",
            "timestamp": gitlab_hook_time(check.at),
            "url": f"{project['web_url']}/-/commit/{check.sha}",
            "author": {"name": "Sandbox", "email": "sandbox@localhost"},
        },
        "builds": [_build(one, happening.actor) for one in happening.checks],
    }
    return Message(PIPELINE, happening.status, payload, repository.id)


def _build(check: Check, user: User) -> Json:
    status = job_state(check)
    return {
        "id": check.id,
        "stage": "test",
        "name": check.name,
        "status": status,
        "created_at": gitlab_hook_time(check.at),
        "started_at": None if check.queued else gitlab_hook_time(check.at),
        "finished_at": gitlab_hook_time(check.ended_at) if check.ended_at else None,
        "duration": 1.0 if check.ended_at else None,
        "queued_duration": 0.1,
        "failure_reason": failure_reason(check),
        "when": "on_success",
        "manual": status == "manual",
        "allow_failure": check.allow_failure,
        "user": _user(user),
        "runner": None,
        "artifacts_file": {"filename": None, "size": None},
        "environment": None,
    }


def attributes_of(repository: Repository, item: Item, renderer: ItemRenderer) -> Json:
    """`object_attributes` of an issue or a merge request."""
    common: Json = {
        "id": item.id,
        "iid": item.number,
        "title": item.title,
        "description": item.body,
        "state": state(item),
        "author_id": item.author.id,
        "assignee_ids": [user.id for user in item.assignees],
        "assignee_id": item.assignees[0].id if item.assignees else None,
        "created_at": gitlab_hook_time(item.created_at),
        "updated_at": gitlab_hook_time(item.updated_at),
        "updated_by_id": item.author.id,
        "milestone_id": None,
        "labels": _labels(repository, item.labels),
        "time_estimate": 0,
        "total_time_spent": 0,
        "time_change": 0,
        "human_time_estimate": None,
        "human_total_time_spent": None,
        "human_time_change": None,
        "url": renderer.page(repository, item),
    }
    if item.kind is Kind.ISSUE:
        return common | {
            "project_id": repository.id,
            "state_id": 1 if item.open else 2,
            "confidential": item.confidential,
            "closed_at": gitlab_hook_time(item.closed_at) if item.closed_at else None,
            "discussion_locked": None,
            "due_date": None,
            "relative_position": None,
            "duplicated_to_id": None,
            "moved_to_id": None,
            "last_edited_at": None,
            "last_edited_by_id": None,
            "weight": None,
            "health_status": None,
            "severity": "unknown",
            "type": "Issue",
        }
    return common | _change_attributes(repository, item, renderer)


def _change_attributes(repository: Repository, item: Item, renderer: ItemRenderer) -> Json:
    project = _project(repository, renderer)
    holder = repository.holder(item)
    status = renderer.merge_status(repository, item, False)
    return {
        "source_branch": item.head,
        "target_branch": item.base,
        "source_project_id": holder.id if holder else None,
        "target_project_id": repository.id,
        "state_id": {"opened": 1, "closed": 2, "merged": 3}[state(item)],
        "merge_status": status.status,
        "detailed_merge_status": status.detailed,
        "merge_commit_sha": None,
        "merge_error": None,
        "merge_params": {},
        "merge_user_id": None,
        "merge_when_pipeline_succeeds": False,
        "blocking_discussions_resolved": status.discussions_resolved,
        "first_contribution": False,
        "work_in_progress": item.draft,
        "draft": item.draft,
        "head_pipeline_id": None,
        "reviewer_ids": [user.id for user in item.reviewers],
        "prepared_at": gitlab_hook_time(item.created_at),
        "last_edited_at": None,
        "last_edited_by_id": None,
        "source": _project(holder, renderer) if holder else None,
        "target": project,
        "last_commit": {
            "id": item.tips.head_sha,
            "message": item.title,
            "title": item.title,
            "timestamp": gitlab_hook_time(item.updated_at),
            "url": f"{project['web_url']}/-/commit/{item.tips.head_sha}",
            "author": {"name": item.author.name, "email": "[REDACTED]"},
        },
    }


def _changes(happening: Happening) -> Json:
    before, item = happening.before, happening.item
    changes: Json = {}
    if happening.action == "opened":
        changes["title"] = {"previous": None, "current": item.title}
        before = Before("", item.body, (), item.created_at)
    if happening.reviewer is not None:
        changes["reviewers"] = {
            "previous": [],
            "current": [
                _user(user) | {"state": "unreviewed", "re_requested": user is happening.reviewer}
                for user in item.reviewers
            ],
        }
    if before is None:
        return changes
    if before.updated_at != item.updated_at:
        changes["updated_at"] = {
            "previous": gitlab_hook_time(before.updated_at),
            "current": gitlab_hook_time(item.updated_at),
        }
    if before.title != item.title:
        changes["title"] = {"previous": before.title or None, "current": item.title}
    if before.body != item.body:
        changes["description"] = {"previous": before.body, "current": item.body}
    if happening.action in ("closed", "reopened"):
        states = (1, 2) if happening.action == "closed" else (2, 1)
        changes["state_id"] = {"previous": states[0], "current": states[1]}
    if happening.added or happening.removed:
        repository = happening.repository
        changes["labels"] = {
            "previous": _labels(repository, before.labels),
            "current": _labels(repository, item.labels),
        }
    return changes


def _user(user: User) -> Json:
    return {
        "id": user.id,
        "name": user.name,
        "username": user.login,
        "avatar_url": None,
        "email": "[REDACTED]",
    }


def _project(repository: Repository, renderer: ItemRenderer) -> dict[str, Any]:
    web = f"{renderer.base}/{repository.full_name}"
    ssh = f"git@{renderer.base.partition('://')[2].partition(':')[0]}:{repository.full_name}.git"
    return {
        "id": repository.id,
        "name": repository.name,
        "description": repository.description,
        "web_url": web,
        "avatar_url": None,
        "git_ssh_url": ssh,
        "git_http_url": f"{web}.git",
        "namespace": repository.owner.rpartition("/")[2],
        "visibility_level": 0 if repository.private else 20,
        "path_with_namespace": repository.full_name,
        "default_branch": repository.default_branch,
        "ci_config_path": None,
        "homepage": web,
        "url": ssh,
        "ssh_url": ssh,
        "http_url": f"{web}.git",
    }


def _repository(repository: Repository, renderer: ItemRenderer) -> Json:
    project = _project(repository, renderer)
    return {name: project[name] for name in ("name", "url", "description", "homepage")}


def _labels(repository: Repository, labels: tuple[Label, ...] | list[Label]) -> list[Json]:
    return [
        {
            "id": label.id,
            "title": label.name,
            "color": f"#{label.color}",
            "project_id": repository.id,
            "created_at": gitlab_hook_time(repository.created_at),
            "updated_at": gitlab_hook_time(repository.created_at),
            "template": False,
            "description": label.description or None,
            "type": "ProjectLabel",
            "group_id": None,
        }
        for label in labels
    ]
