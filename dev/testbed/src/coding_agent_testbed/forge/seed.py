"""What the forge starts with, from a YAML file or the same as Python data.

users:
  - {login: alice, token: alice-token, admin: true}       # the first admin is the person of the pages
  - {login: coding-agent-bot, token: bot-token, bot: true}
  - {login: reader, token: reader-token}
repositories:
  - owner: acme
    name: pricing
    files: samples/pricing                                 # folder, relative to the seed file
    roles: {coding-agent-bot: write, reader: read}
    labels: [{name: bug, color: d73a4a}]
    issues: [{file: samples/pricing.issue.md, author: alice, labels: [bug]}]
    ci: {tests: python3 -m unittest}                       # runs on each new head of a pull request
hooks:
  - {repository: acme/pricing, url: "http://127.0.0.1:8000/webhook/github", secret: s3cret, events: [issues]}
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.model import Repository, Role, User
from coding_agent_testbed.forge.store import Store


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SeedUser(_Strict):
    """A user; tokens are of the sandbox alone."""

    login: str
    token: str
    name: str = ""
    admin: bool = False
    bot: bool = False
    token_expires_at: date | None = None


class SeedLabel(_Strict):
    """A label."""

    name: str
    color: str = "ededed"
    description: str = ""


class SeedIssue(_Strict):
    """An issue: `title` and `body`, or a Markdown `file` whose first heading is the title."""

    title: str = ""
    body: str = ""
    file: Path | None = None
    author: str
    labels: list[str] = []
    assignees: list[str] = []
    confidential: bool = False
    comments: list[dict[str, str]] = []


class SeedRepository(_Strict):
    """A repository.

    Attributes:
        files: the folder of its initial commit.
        protected: branches or patterns.
        ci: shell commands that run on each new head of an open change, by the name of their check.
    """

    owner: str
    name: str
    files: Path | None = None
    description: str = ""
    private: bool = True
    archived: bool = False
    default_branch: str = "main"
    protected: list[str] = []
    roles: dict[str, Role] = {}
    labels: list[SeedLabel] = []
    issues: list[SeedIssue] = []
    ci: dict[str, str] = {}


class SeedHook(_Strict):
    """A webhook; without `repository` one of the whole instance (GitLab's system hook)."""

    repository: str | None = None
    url: str
    secret: str = ""
    events: list[str] = ["*"]


class Seed(_Strict):
    """Everything."""

    users: list[SeedUser]
    repositories: list[SeedRepository] = []
    hooks: list[SeedHook] = []


def load(file: Path) -> Seed:
    """Read a seed file; paths in it are relative to it.

    Raises:
        pydantic.ValidationError: something in it is not understood.
    """
    seed = Seed.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    for repository in seed.repositories:
        if repository.files is not None:
            repository.files = file.parent / repository.files
        for issue in repository.issues:
            if issue.file is not None:
                issue.file = file.parent / issue.file
    return seed


def read_issue(file: Path) -> tuple[str, str]:
    """Title and body of an issue's Markdown file."""
    title, _, body = file.read_text(encoding="utf-8").partition("\n")
    return title.lstrip("# ").strip(), body.strip()


def plant(seed: Seed, store: Store, folder: Path) -> None:
    """Fill a store, and `folder` with the bare repositories. No webhook is sent for it."""
    for user in seed.users:
        store.users.append(
            User(
                store.next_id(),
                user.login,
                user.name or user.login,
                user.token,
                user.admin,
                user.bot,
                token_expires_at=user.token_expires_at,
            )
        )
    for repository in seed.repositories:
        _plant_repository(repository, store, folder)
    for hook in seed.hooks:
        where = None if hook.repository is None else store.repository(hook.repository)
        if hook.repository is not None and where is None:
            raise ValueError(f"hooks: there is no repository {hook.repository}")
        store.add_hook(where, hook.url, hook.secret, hook.events)


def _plant_repository(seed: SeedRepository, store: Store, folder: Path) -> None:
    path = folder / seed.owner / f"{seed.name}.git"
    git.create(path, branch=seed.default_branch, files=seed.files)
    repository = Repository(
        id=store.next_id(),
        owner=seed.owner,
        name=seed.name,
        path=path,
        created_at=store.now(),
        description=seed.description,
        private=seed.private,
        archived=seed.archived,
        default_branch=seed.default_branch,
        roles=dict(seed.roles),
        protected=set(seed.protected),
        ci=dict(seed.ci),
    )
    store.repositories.append(repository)
    for label in seed.labels:
        store.ensure_label(repository, label.name, label.color, label.description)
    for issue in seed.issues:
        _plant_issue(issue, repository, store)


def _plant_issue(seed: SeedIssue, repository: Repository, store: Store) -> None:
    title, body = read_issue(seed.file) if seed.file else (seed.title, seed.body)
    item = store.open_item(
        repository,
        _user(store, seed.author),
        title=title,
        body=body,
        labels=seed.labels,
        assignees=[_user(store, login) for login in seed.assignees],
        confidential=seed.confidential,
    )
    for comment in seed.comments:
        store.comment(repository, item, _user(store, comment["author"]), comment["body"])


def _user(store: Store, login: str) -> User:
    user = store.user(login)
    if user is None:
        raise ValueError(f"issues: there is no user {login}")
    return user


def from_data(data: dict[str, Any]) -> Seed:
    """The same from Python data, with paths as they are."""
    return Seed.model_validate(data)
