"""What GitHub's GraphQL API shows of items, reviews, threads and checks, as far as we ask for it.

A dict is an object, a list a connection, a tuple a plain list, and a function is called with the field that
is asked for. Schema: https://docs.github.com/graphql
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.github.items import ItemRenderer
from coding_agent_testbed.forge.github.render import Json, association, node_id
from coding_agent_testbed.forge.model import (
    Check,
    Comment,
    Item,
    Kind,
    Repository,
    Review,
    Thread,
    User,
)
from coding_agent_testbed.forge.reviews import Place, place
from coding_agent_testbed.forge.sandbox import Sandbox
from coding_agent_testbed.forge.timestamps import github_time

FORBIDDEN = object()
"""Stands for a node that the token may not read: GitHub answers null and an error with its path."""
_EVENTS = {
    "renamed": "RenamedTitleEvent",
    "labeled": "LabeledEvent",
    "unlabeled": "UnlabeledEvent",
    "reopened": "ReopenedEvent",
    "convert_to_draft": "ConvertToDraftEvent",
    "ready_for_review": "ReadyForReviewEvent",
}
_FORCE_PUSHED = "HeadRefForcePushedEvent"
TIMELINE = {
    "".join(f"_{letter}" if letter.isupper() else letter for letter in name)[1:].upper(): name
    for name in (*_EVENTS.values(), _FORCE_PUSHED)
}
"""The types of a timeline's items by their names in `itemTypes`."""


class GraphqlRenderer:
    """Renders for one viewer."""

    def __init__(self, sandbox: Sandbox, viewer: User) -> None:
        self._sandbox = sandbox
        self._viewer = viewer
        self._pages = ItemRenderer(sandbox.base_url)

    def item(self, repository: Repository, item: Item) -> Json:
        """An `Issue` or `PullRequest`, without its timeline."""
        last = item.edits[-1] if item.edits else None
        shown: Json = {
            "__typename": "Issue" if item.kind is Kind.ISSUE else "PullRequest",
            "number": item.number,
            "title": item.title,
            "url": self._pages.item_page(repository, item),
            "createdAt": github_time(item.created_at),
            "updatedAt": github_time(item.updated_at),
            "author": actor(item.author),
            "repository": {"nameWithOwner": repository.full_name},
            "labels": [{"name": label.name} for label in item.labels],
            "comments": [self._comment(repository, item, comment) for comment in item.comments],
            "lastEditedAt": github_time(last.at) if last else None,
            "editor": actor(last.editor) if last else None,
            "userContentEdits": [
                {"editedAt": github_time(edit.at), "editor": actor(edit.editor)}
                for edit in reversed(item.edits)
            ],
        }
        return shown | self._change(repository, item) if item.kind is Kind.CHANGE else shown

    def _change(self, repository: Repository, item: Item) -> Json:
        reviews, sandbox = self._sandbox.reviews, self._sandbox
        mergeable = {True: "MERGEABLE", False: "CONFLICTING", None: "UNKNOWN"}
        return {
            "isDraft": item.draft,
            "state": "MERGED" if item.merged_at else "OPEN" if item.open else "CLOSED",
            "mergeable": lambda asked: mergeable[sandbox.mergeable(repository, item)],
            "headRefName": item.head,
            "headRefOid": item.tips.head_sha,
            "baseRefName": item.base,
            "baseRef": lambda asked: self._base(repository, item),
            "reviewRequests": [{"requestedReviewer": actor(user)} for user in item.reviewers],
            "headRef": lambda asked: self._head(item.source or repository, item),
            "commits": [{"commit": self._commit(repository, item.tips.head_sha)}],
            "reviewThreads": [self.thread(repository, item, one) for one in reviews.threads(item)],
            "reviews": [self._review(repository, item, review) for review in reviews.reviews(item)],
        }

    def timeline(self, repository: Repository, item: Item, types: Sequence[str]) -> list[Json]:
        """Those items of a timeline that are of these types, oldest first."""
        entries = [*self._events(item), *self._force_pushes(repository, item)]
        entries.sort(key=lambda entry: str(entry["createdAt"]))
        return [entry for entry in entries if entry["__typename"] in types]

    def _events(self, item: Item) -> Iterator[Json]:
        for event in item.events:
            if event.event in _EVENTS:
                shown: Json = {
                    "__typename": _EVENTS[event.event],
                    "createdAt": github_time(event.created_at),
                    "actor": actor(event.actor),
                }
                if event.renamed is not None:
                    shown |= dict(zip(("previousTitle", "currentTitle"), event.renamed, strict=True))
                if event.label is not None:
                    shown["label"] = {"name": event.label.name}
                yield shown

    def _force_pushes(self, repository: Repository, item: Item) -> Iterator[Json]:
        for push in (item.source or repository).pushes:
            if push.forced and push.branch == item.head:
                yield {
                    "__typename": _FORCE_PUSHED,
                    "createdAt": github_time(push.at),
                    "actor": actor(push.actor),
                    "afterCommit": {"oid": push.after},
                }

    def _head(self, repository: Repository, item: Item) -> Json | None:
        sha = git.branch_sha(repository.path, item.head)
        if sha is None:
            return None
        return {"target": self._commit(repository, sha) | {"history": self._history(repository, sha)}}

    def _history(self, repository: Repository, sha: str) -> list[Json]:
        """The commits up to this one, the newest first. GitHub shows no user for a bot."""
        people = {str(user.id): user for user in self._sandbox.store.users if not user.bot}

        def shown(commit: git.HistoryEntry) -> Json:
            user = people.get(commit.author_email.split("+")[0])
            return {
                "parents": [{"oid": parent} for parent in commit.parents],
                "author": {
                    "email": commit.author_email,
                    "user": {"databaseId": user.id} if user else None,
                },
            }

        return [shown(commit) for commit in git.history(repository.path, sha)]

    def _base(self, repository: Repository, item: Item) -> Json | None:
        sha = git.branch_sha(repository.path, item.base)
        if sha is None:
            return None
        contexts = tuple({"context": name} for name in sorted(repository.required))
        rule = {
            "parameters": {
                "__typename": "RequiredStatusChecksParameters",
                "requiredStatusChecks": contexts,
            }
        }
        return {
            "target": self._commit(repository, sha),
            "refUpdateRule": None,
            "rules": [rule] if contexts else [],
        }

    def _commit(self, repository: Repository, sha: str) -> Json:
        checks = self._sandbox.reviews.checks(repository, sha, latest=True)
        contexts = [self._context(check) for check in checks]
        return {
            "__typename": "Commit",
            "oid": sha,
            "statusCheckRollup": {"contexts": contexts} if checks else None,
        }

    def _context(self, check: Check) -> Any:
        """A `StatusContext`, or a `CheckRun`, which not every token may read."""
        if check.log is None:
            return {
                "__typename": "StatusContext",
                "context": check.name,
                "state": (check.result or "pending").upper(),
                "description": check.summary or None,
                "targetUrl": check.url or None,
                "createdAt": github_time(check.at),
                "creator": actor(check.by) if check.by else None,
            }
        if not self._viewer.reads_checks:
            return FORBIDDEN
        return {
            "__typename": "CheckRun",
            "databaseId": check.id,
            "name": check.name,
            "status": "COMPLETED" if check.result else "QUEUED" if check.queued else "IN_PROGRESS",
            "conclusion": check.result.upper() or None,
            "title": check.summary or None,
            "summary": check.summary or None,
            "startedAt": github_time(check.at),
            "completedAt": github_time(check.ended_at) if check.ended_at else None,
            "url": f"{self._sandbox.base_url}/runs/{check.id}",
            "checkSuite": {
                "app": {"slug": "github-actions"},
                "workflowRun": {"event": "pull_request", "workflow": {"name": "CI"}},
            },
        }

    def _comment(self, repository: Repository, item: Item, comment: Comment) -> Json:
        page = f"{self._pages.item_page(repository, item)}#issuecomment-{comment.id}"
        return self._remark(repository, comment) | {"url": page}

    def _remark(self, repository: Repository, comment: Comment) -> Json:
        return {
            "fullDatabaseId": str(comment.id),
            "author": actor(comment.author),
            "authorAssociation": association(repository, comment.author),
            "body": comment.body,
            "createdAt": github_time(comment.created_at),
        }

    def _review(self, repository: Repository, item: Item, review: Review) -> Json:
        drafted = review.state == "PENDING"
        return {
            "fullDatabaseId": str(review.id),
            "author": actor(review.author),
            "authorAssociation": association(repository, review.author),
            "state": review.state,
            "body": review.body,
            "url": f"{self._pages.item_page(repository, item)}#pullrequestreview-{review.id}",
            "submittedAt": None if drafted else github_time(review.submitted_at),
            "commit": {"oid": review.commit},
            "lastEditedAt": github_time(review.edited_at) if review.edited_at else None,
        }

    def thread(self, repository: Repository, item: Item, thread: Thread) -> Json:
        """A `PullRequestReviewThread`."""
        at: Place = place(repository, item, thread, follow_renames=False)
        reviews = {review.id: review for review in self._sandbox.reviews.reviews(item)}
        page = self._pages.item_page(repository, item)
        return {
            "__typename": "PullRequestReviewThread",
            "id": thread_id(thread),
            "isResolved": thread.resolved_by is not None,
            "isOutdated": at.outdated,
            "path": at.path,
            "line": None if at.outdated else at.line,
            "comments": [
                self._remark(repository, comment)
                | {
                    "state": "SUBMITTED",
                    "url": f"{page}#discussion_r{comment.id}",
                    "originalCommit": {"oid": thread.commit},
                    "pullRequestReview": {
                        "fullDatabaseId": str(thread.review),
                        "submittedAt": github_time(reviews[thread.review].submitted_at),
                    }
                    if comment is thread.comments[0]
                    else None,
                }
                for comment in thread.comments
            ],
        }


def thread_id(thread: Thread) -> str:
    """A thread's node id."""
    return node_id("PullRequestReviewThread", thread.id)


def actor(user: User) -> Json:
    """An `Actor`, whose login does not say that it is a bot."""
    return {
        "__typename": "Bot" if user.bot else "User",
        "login": user.login.removesuffix("[bot]"),
        "databaseId": user.id,
    }
