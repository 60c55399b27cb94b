"""GitLab's JSON of users, projects, notes and label events. Pure.

Shapes: https://docs.gitlab.com/api/rest/ (users, projects, members, notes, resource label events).
"""

from __future__ import annotations

import hashlib
from typing import Any

from coding_agent_testbed.forge.git import CommitFacts
from coding_agent_testbed.forge.model import Comment, Item, ItemEvent, Kind, Label, Repository, Role, User
from coding_agent_testbed.forge.timestamps import gitlab_time

Json = dict[str, Any]

ACCESS_LEVELS = {Role.READ: 10, Role.TRIAGE: 20, Role.WRITE: 30, Role.ADMIN: 40}
"""Reporter, Developer, Maintainer."""
_NOTEABLE = {Kind.ISSUE: "Issue", Kind.CHANGE: "MergeRequest"}


class Renderer:
    """Renders for one forge address."""

    def __init__(self, base_url: str) -> None:
        self.base = base_url
        self.api = f"{base_url}/api/v4"

    def user(self, user: User) -> Json:
        """A user as they appear inside other objects."""
        return {
            "id": user.id,
            "username": user.login,
            "public_email": None,
            "name": user.name,
            "state": "active",
            "locked": False,
            "avatar_url": None,
            "web_url": f"{self.base}/{user.login}",
        }

    def me(self, user: User, joined: str) -> Json:
        """A user as `GET /user` shows them."""
        return self.user(user) | {
            "created_at": joined,
            "bio": "",
            "location": "",
            "bot": user.bot,
            "email": f"{user.login}@localhost",
            "two_factor_enabled": False,
            "external": False,
            "private_profile": False,
            "can_create_group": True,
            "can_create_project": True,
            "commit_email": f"{user.login}@localhost",
            **({"is_admin": True} if user.admin else {}),
        }

    def member(self, repository: Repository, user: User, role: Role) -> Json:
        """A user as a member of a project."""
        return self.user(user) | {
            "access_level": ACCESS_LEVELS[role],
            "created_at": gitlab_time(repository.created_at),
            "expires_at": None,
            "membership_state": "active",
        }

    def label(self, label: Label) -> Json:
        """A project's label."""
        return {
            "id": label.id,
            "name": label.name,
            "description": label.description or None,
            "description_html": label.description,
            "text_color": "#FFFFFF",
            "color": f"#{label.color}",
            "archived": False,
            "subscribed": False,
            "priority": None,
            "is_project_label": True,
        }

    def project_url(self, repository: Repository) -> str:
        """A project's address in the API."""
        return f"{self.api}/projects/{repository.id}"

    def branch(self, repository: Repository, name: str, commit: CommitFacts, role: Role) -> Json:
        """A branch of a project, with its newest commit."""
        web, protected = f"{self.base}/{repository.full_name}/-", repository.protects(name)
        return {
            "name": name,
            "merged": False,
            "protected": protected,
            "default": name == repository.default_branch,
            "developers_can_push": False,
            "developers_can_merge": False,
            "can_push": role.may_write and (not protected or role is Role.ADMIN),
            "web_url": f"{web}/tree/{name}",
            "commit": {
                "id": commit.sha,
                "short_id": commit.sha[:8],
                "created_at": commit.committed,
                "parent_ids": list(commit.parents),
                "title": commit.message.partition("\n")[0],
                "message": commit.message,
                "author_name": commit.author,
                "author_email": commit.author_email,
                "authored_date": commit.authored,
                "committer_name": commit.committer,
                "committer_email": commit.committer_email,
                "committed_date": commit.committed,
                "trailers": {},
                "extended_trailers": {},
                "web_url": f"{web}/commit/{commit.sha}",
            },
        }

    def project(self, repository: Repository, role: Role) -> Json:
        """A project by itself."""
        origin = repository.fork_of
        web = f"{self.base}/{repository.full_name}"
        ssh = f"git@{self.base.partition('://')[2].partition(':')[0]}:{repository.full_name}.git"
        group = repository.owner.rpartition("/")[2]
        return {
            "id": repository.id,
            "description": repository.description or None,
            "name": repository.name,
            "name_with_namespace": repository.full_name.replace("/", " / "),
            "path": repository.name,
            "path_with_namespace": repository.full_name,
            "created_at": gitlab_time(repository.created_at),
            "default_branch": repository.default_branch,
            "tag_list": [],
            "topics": list(repository.topics),
            "ssh_url_to_repo": ssh,
            "http_url_to_repo": f"{web}.git",
            "web_url": web,
            "readme_url": f"{web}/-/blob/{repository.default_branch}/README.md",
            "forks_count": 0,
            "avatar_url": None,
            "star_count": 0,
            "last_activity_at": gitlab_time(repository.created_at),
            "visibility": "private" if repository.private else "public",
            "namespace": {
                "id": 100_000 + repository.id,
                "name": group,
                "path": group,
                "kind": "group",
                "full_path": repository.owner,
                "parent_id": None,
                "avatar_url": None,
                "web_url": f"{self.base}/groups/{repository.owner}",
            },
            "_links": {
                "self": self.project_url(repository),
                "issues": f"{self.project_url(repository)}/issues",
                "merge_requests": f"{self.project_url(repository)}/merge_requests",
                "labels": f"{self.project_url(repository)}/labels",
            },
            **({"forked_from_project": self._origin(origin)} if origin else {}),
            "archived": repository.archived,
            "empty_repo": False,
            "issues_enabled": True,
            "merge_requests_enabled": True,
            "open_issues_count": sum(i.open and i.kind is Kind.ISSUE for i in repository.items),
            "permissions": {
                "project_access": {"access_level": ACCESS_LEVELS[role], "notification_level": 3},
                "group_access": None,
            },
        }

    def _origin(self, repository: Repository) -> Json:
        return {
            "id": repository.id,
            "name": repository.name,
            "path": repository.name,
            "path_with_namespace": repository.full_name,
            "web_url": f"{self.base}/{repository.full_name}",
        }

    def note(self, repository: Repository, item: Item, comment: Comment) -> Json:
        """A note on an issue or merge request."""
        return {
            "id": comment.id,
            "type": None,
            "body": comment.body,
            "attachment": None,
            "author": self.user(comment.author),
            "created_at": gitlab_time(comment.created_at),
            "updated_at": gitlab_time(comment.updated_at),
            "system": comment.system,
            "noteable_id": item.id,
            "noteable_type": _NOTEABLE[item.kind],
            "project_id": repository.id,
            "resolvable": False,
            "confidential": False,
            "internal": False,
            "imported": False,
            "imported_from": "none",
            "noteable_iid": item.number,
            "commands_changes": {},
        }

    def state_event(self, item: Item, event: ItemEvent) -> Json:
        """That an item was closed, opened again or merged."""
        return {
            "id": event.id,
            "user": self.user(event.actor),
            "created_at": gitlab_time(event.created_at),
            "resource_type": _NOTEABLE[item.kind],
            "resource_id": item.id,
            "state": event.event,
            "source_commit": None,
            "source_merge_request_id": None,
        }

    def label_event(self, repository: Repository, item: Item, event: ItemEvent) -> Json:
        """That a label was put on or taken off; `label` is null once the project has no such label."""
        label = event.label
        assert label is not None
        shown = {
            "id": label.id,
            "name": label.name,
            "color": f"#{label.color}",
            "description": label.description or None,
        }
        return {
            "id": event.id,
            "user": self.user(event.actor),
            "created_at": gitlab_time(event.created_at),
            "resource_type": _NOTEABLE[item.kind],
            "resource_id": item.id,
            "label": shown if label in repository.labels else None,
            "action": "add" if event.event == "labeled" else "remove",
        }


def discussion_id(identifier: int | str) -> str:
    """The id of a discussion, from that of its thread or single comment."""
    return hashlib.sha1(str(identifier).encode(), usedforsecurity=False).hexdigest()
