"""GitHub's JSON: users, repositories, labels, comments. Pure.

Shapes: GitHub's OpenAPI description, https://github.com/github/rest-api-description
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from coding_agent_testbed.forge.git import CommitFacts
from coding_agent_testbed.forge.model import (
    Comment,
    Item,
    ItemEvent,
    Kind,
    Label,
    Push,
    Reaction,
    Repository,
    Role,
    User,
)
from coding_agent_testbed.forge.timestamps import github_time

Json = dict[str, Any]

_USER_URLS = {
    "followers_url": "/followers",
    "following_url": "/following{/other_user}",
    "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}",
    "subscriptions_url": "/subscriptions",
    "organizations_url": "/orgs",
    "repos_url": "/repos",
    "events_url": "/events{/privacy}",
    "received_events_url": "/received_events",
}
_REPOSITORY_URLS = {
    "archive_url": "/{archive_format}{/ref}",
    "assignees_url": "/assignees{/user}",
    "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}",
    "collaborators_url": "/collaborators{/collaborator}",
    "comments_url": "/comments{/number}",
    "commits_url": "/commits{/sha}",
    "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}",
    "contributors_url": "/contributors",
    "deployments_url": "/deployments",
    "downloads_url": "/downloads",
    "events_url": "/events",
    "forks_url": "/forks",
    "git_commits_url": "/git/commits{/sha}",
    "git_refs_url": "/git/refs{/sha}",
    "git_tags_url": "/git/tags{/sha}",
    "hooks_url": "/hooks",
    "issue_comment_url": "/issues/comments{/number}",
    "issue_events_url": "/issues/events{/number}",
    "issues_url": "/issues{/number}",
    "keys_url": "/keys{/key_id}",
    "labels_url": "/labels{/name}",
    "languages_url": "/languages",
    "merges_url": "/merges",
    "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}",
    "pulls_url": "/pulls{/number}",
    "releases_url": "/releases{/id}",
    "stargazers_url": "/stargazers",
    "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers",
    "subscription_url": "/subscription",
    "tags_url": "/tags",
    "teams_url": "/teams",
    "trees_url": "/git/trees{/sha}",
}


def node_id(kind: str, identifier: int) -> str:
    """A node id in GitHub's old style."""
    return base64.b64encode(f"0{len(kind)}:{kind}{identifier}".encode()).decode()


class Renderer:
    """Renders for one forge address."""

    def __init__(self, base_url: str) -> None:
        self.base = base_url
        self.api = f"{base_url}/api/v3"

    def owner(self, repository: Repository, users: list[User]) -> Json:
        """A repository's owner: the user of that login, or an organization."""
        for user in users:
            if user.login == repository.owner:
                return self.user(user)
        return self._account(repository.owner, 100_000 + repository.id, "Organization", site_admin=False)

    def user(self, user: User) -> Json:
        """A user as they appear inside other objects."""
        return self._account(user.login, user.id, "Bot" if user.bot else "User", site_admin=user.admin)

    def _account(self, login: str, identifier: int, kind: str, *, site_admin: bool) -> Json:
        url = f"{self.api}/users/{login}"
        return {
            "login": login,
            "id": identifier,
            "node_id": node_id(kind, identifier),
            "avatar_url": f"{self.base}/avatars/u/{identifier}",
            "gravatar_id": "",
            "url": url,
            "html_url": f"{self.base}/{login}",
            **{name: url + path for name, path in _USER_URLS.items()},
            "type": kind,
            "site_admin": site_admin,
        }

    def public_user(self, user: User, joined: str) -> Json:
        """A user as `GET /user` shows them."""
        return self.user(user) | {
            "name": user.name,
            "company": None,
            "blog": "",
            "location": None,
            "email": None,
            "hireable": None,
            "bio": None,
            "public_repos": 0,
            "public_gists": 0,
            "followers": 0,
            "following": 0,
            "created_at": joined,
            "updated_at": joined,
        }

    def label(self, repository: Repository, label: Label) -> Json:
        """A label."""
        return {
            "id": label.id,
            "node_id": node_id("Label", label.id),
            "url": f"{self.repository_url(repository)}/labels/{_quoted(label.name)}",
            "name": label.name,
            "color": label.color,
            "default": False,
            "description": label.description or None,
        }

    def repository_url(self, repository: Repository) -> str:
        """A repository's address in the API."""
        return f"{self.api}/repos/{repository.full_name}"

    def repository(self, repository: Repository, users: list[User]) -> Json:
        """A repository as it appears inside other objects and webhooks."""
        url, html = self.repository_url(repository), f"{self.base}/{repository.full_name}"
        created = github_time(repository.created_at)
        still_open = sum(item.open for item in repository.items)
        return {
            "id": repository.id,
            "node_id": node_id("Repository", repository.id),
            "name": repository.name,
            "full_name": repository.full_name,
            "private": repository.private,
            "owner": self.owner(repository, users),
            "html_url": html,
            "description": repository.description or None,
            "fork": repository.fork_of is not None,
            "url": url,
            **{name: url + path for name, path in _REPOSITORY_URLS.items()},
            "created_at": created,
            "updated_at": created,
            "pushed_at": created,
            "git_url": f"git://{html.partition('://')[2]}.git",
            "ssh_url": f"git@{html.partition('://')[2].replace('/', ':', 1)}.git",
            "clone_url": f"{html}.git",
            "svn_url": html,
            "homepage": None,
            "size": 1,
            "stargazers_count": 0,
            "watchers_count": 0,
            "language": None,
            "has_issues": True,
            "has_projects": False,
            "has_downloads": True,
            "has_wiki": False,
            "has_pages": False,
            "has_discussions": False,
            "forks_count": 0,
            "mirror_url": None,
            "archived": repository.archived,
            "disabled": False,
            "open_issues_count": still_open,
            "license": None,
            "allow_forking": True,
            "is_template": False,
            "web_commit_signoff_required": False,
            "topics": list(repository.topics),
            "visibility": "private" if repository.private else "public",
            "forks": 0,
            "open_issues": still_open,
            "watchers": 0,
            "default_branch": repository.default_branch,
        }

    def full_repository(self, repository: Repository, users: list[User], role: Role) -> Json:
        """A repository as `GET /repos/{owner}/{repo}` shows it."""
        shown = self.repository(repository, users) | {
            "network_count": 0,
            "subscribers_count": 0,
            "permissions": permissions(role),
        }
        if repository.fork_of is not None:
            parent = self.repository(repository.fork_of, users)
            shown |= {"parent": parent, "source": parent}
        return shown

    def branch(self, repository: Repository, name: str, commit: CommitFacts) -> Json:
        """A branch as `GET /repos/{owner}/{repo}/branches/{branch}` shows it."""
        url = self.repository_url(repository)
        protected = repository.protects(name)
        return {
            "name": name,
            "commit": self.commit(repository, commit),
            "_links": {
                "self": f"{url}/branches/{name}",
                "html": f"{self.base}/{repository.full_name}/tree/{name}",
            },
            "protected": protected,
            "protection": {
                "enabled": protected,
                "required_status_checks": {"enforcement_level": "off", "contexts": [], "checks": []},
            },
            "protection_url": f"{url}/branches/{name}/protection",
        }

    def commit(self, repository: Repository, commit: CommitFacts) -> Json:
        """A commit, whose people have no account."""
        url, page = self.repository_url(repository), f"{self.base}/{repository.full_name}"
        verified = commit.sha in repository.signed
        return {
            "sha": commit.sha,
            "node_id": node_id("Commit", 0),
            "url": f"{url}/commits/{commit.sha}",
            "html_url": f"{page}/commit/{commit.sha}",
            "comments_url": f"{url}/commits/{commit.sha}/comments",
            "commit": {
                "url": f"{url}/git/commits/{commit.sha}",
                "author": {"name": commit.author, "email": commit.author_email, "date": commit.authored},
                "committer": {
                    "name": commit.committer,
                    "email": commit.committer_email,
                    "date": commit.committed,
                },
                "message": commit.message,
                "tree": {"sha": commit.tree, "url": f"{url}/git/trees/{commit.tree}"},
                "comment_count": 0,
                "verification": {
                    "verified": verified,
                    "reason": "valid" if verified else "unsigned",
                    "signature": None,
                    "payload": None,
                    "verified_at": commit.committed if verified else None,
                },
            },
            "author": None,
            "committer": None,
            "parents": [
                {"sha": sha, "url": f"{url}/commits/{sha}", "html_url": f"{page}/commit/{sha}"}
                for sha in commit.parents
            ],
        }

    def reference(self, repository: Repository, branch: str, sha: str) -> Json:
        """A branch as `POST /repos/{owner}/{repo}/git/refs` shows it."""
        url = f"{self.repository_url(repository)}/git"
        return {
            "ref": f"refs/heads/{branch}",
            "node_id": node_id("Ref", 0),
            "url": f"{url}/refs/heads/{branch}",
            "object": {"type": "commit", "sha": sha, "url": f"{url}/commits/{sha}"},
        }

    def comment(self, repository: Repository, item: Item, comment: Comment) -> Json:
        """An issue comment."""
        url = f"{self.repository_url(repository)}/issues/comments/{comment.id}"
        return {
            "url": url,
            "html_url": f"{self.item_page(repository, item)}#issuecomment-{comment.id}",
            "issue_url": f"{self.repository_url(repository)}/issues/{item.number}",
            "id": comment.id,
            "node_id": node_id("IssueComment", comment.id),
            "user": self.user(comment.author),
            "created_at": github_time(comment.created_at),
            "updated_at": github_time(comment.updated_at),
            "author_association": association(repository, comment.author),
            "body": comment.body,
            "reactions": reactions(url, comment.reactions),
            "performed_via_github_app": None,
        }

    def item_page(self, repository: Repository, item: Item) -> str:
        """The page of an issue or pull request."""
        noun = "issues" if item.kind is Kind.ISSUE else "pull"
        return f"{self.base}/{repository.full_name}/{noun}/{item.number}"

    def item_event(self, repository: Repository, event: ItemEvent) -> Json:
        """A line of an issue's history."""
        shown: Json = {
            "id": event.id,
            "node_id": node_id("IssueEvent", event.id),
            "url": f"{self.repository_url(repository)}/issues/events/{event.id}",
            "actor": self.user(event.actor),
            "event": event.event,
            "commit_id": None,
            "commit_url": None,
            "created_at": github_time(event.created_at),
            "performed_via_github_app": None,
        }
        if event.label is not None:
            shown["label"] = {"name": event.label.name, "color": event.label.color}
        if event.renamed is not None:
            shown["rename"] = dict(zip(("from", "to"), event.renamed, strict=True))
        return shown

    def activity(self, push: Push) -> Json:
        """That a branch was moved."""
        kind = "force_push" if push.forced else "push"
        if not push.before.strip("0"):
            kind = "branch_creation"
        elif not push.after.strip("0"):
            kind = "branch_deletion"
        return {
            "id": push.id,
            "node_id": node_id("Push", push.id),
            "before": push.before,
            "after": push.after,
            "ref": f"refs/heads/{push.branch}",
            "timestamp": github_time(push.at),
            "activity_type": kind,
            "actor": self.user(push.actor),
        }


def permissions(role: Role) -> dict[str, bool]:
    """What a role may do, in GitHub's words."""
    return {
        "admin": role is Role.ADMIN,
        "maintain": role is Role.ADMIN,
        "push": role.may_write,
        "triage": role.may_label,
        "pull": True,
    }


def association(repository: Repository, author: User) -> str:
    """`author_association`."""
    if author.login == repository.owner:
        return "OWNER"
    return "COLLABORATOR" if author.login in repository.roles else "NONE"


def reactions(url: str, given: Sequence[Reaction] = ()) -> Json:
    """How many reactions of each kind there are."""
    names = ("+1", "-1", "laugh", "hooray", "confused", "heart", "rocket", "eyes")
    counts = {name: sum(entry.name == name for entry in given) for name in names}
    return {"url": f"{url}/reactions", "total_count": len(given), **counts}


def _quoted(name: str) -> str:
    return name.replace("%", "%25").replace(" ", "%20").replace("/", "%2F")
