"""A few calls of Gitea's API, for what tests set up and look at; no part of the product uses it."""

import base64
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx2

from coding_agent_testbed.gitea.accounts import Account
from coding_agent_testbed.gitea.errors import GiteaError

TIMEOUT = 60.0
"""Seconds for one request on a machine that does much else."""
HOOK_EVENTS = (
    "issues",
    "issue_comment",
    "pull_request",
    "pull_request_sync",
    "pull_request_review",
    "push",
    "status",
)
"""The events that a webhook gets: `issues` and `pull_request` include labels, assignments and milestones."""
SCOPES = ("write:repository", "write:issue", "read:user", "read:organization")
"""The rights of the tokens that people and the bot get."""


class Api:
    """The API as one account sees it. Paths begin after `/api/v1`."""

    def __init__(self, api_url: str, token: str) -> None:
        self._client = httpx2.Client(
            base_url=api_url, headers={"authorization": f"token {token}"}, timeout=TIMEOUT, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @staticmethod
    def sign_in(api_url: str, login: str, password: str, scopes: Iterable[str] = ("all",)) -> Account:
        """The account of a user, with a new token."""
        with httpx2.Client(
            base_url=api_url, auth=(login, password), timeout=TIMEOUT, trust_env=False
        ) as client:
            token = checked(
                client.post(f"/users/{login}/tokens", json={"name": "tests", "scopes": list(scopes)})
            ).json()["sha1"]
            user = checked(client.get("/user")).json()
        return Account(login, int(user["id"]), password, str(token))

    def call(self, method: str, path: str, json: Any = None, **query: Any) -> Any:
        """Send a request and return the answer's JSON, or None if it has none.

        Raises:
            GiteaError: the answer's status is not 2xx.
        """
        answer = checked(self._client.request(method, path, json=json, params=query or None))
        return answer.json() if answer.content else None

    def get(self, path: str, **query: Any) -> httpx2.Response:
        """What the API answers, refusals included."""
        return self._client.get(path, params=query or None)

    def create_user(self, api_url: str, login: str, password: str, scopes: Iterable[str] = SCOPES) -> Account:
        """Make a user; only an administrator may."""
        self.call(
            "POST",
            "/admin/users",
            {
                "username": login,
                "email": f"{login}@gitea.invalid",
                "password": password,
                "must_change_password": False,
            },
        )
        return self.sign_in(api_url, login, password, scopes)

    def create_repository(self, repository: str, files: Mapping[str, str], labels: Iterable[str]) -> None:
        """Make the organization if there is none, a repository with one commit, and its labels."""
        owner, name = repository.split("/")
        if self._client.get(f"/orgs/{owner}").status_code == 404:
            self.call("POST", "/orgs", {"username": owner})
        self.call("POST", f"/orgs/{owner}/repos", {"name": name, "default_branch": "main"})
        self.commit(repository, "main", files, "Price baskets")
        for label in labels:
            self.create_label(repository, label)

    def commit(
        self, repository: str, branch: str, files: Mapping[str, str], message: str, *, onto: str = ""
    ) -> str:
        """Write files in one commit; its id. With `onto` the branch is new and starts there."""
        body: dict[str, Any] = {"branch": onto or branch, "message": message, "files": []}
        if onto:
            body["new_branch"] = branch
        for path, text in files.items():
            known = self._client.get(f"/repos/{repository}/contents/{path}", params={"ref": onto or branch})
            change = {"path": path, "content": base64.b64encode(text.encode()).decode()}
            if known.status_code == 200:
                change |= {"operation": "update", "sha": known.json()["sha"]}
            else:
                change["operation"] = "create"
            body["files"].append(change)
        return str(self.call("POST", f"/repos/{repository}/contents", body)["commit"]["sha"])

    def read_file(self, repository: str, path: str, ref: str = "main") -> str:
        """The text of a file."""
        return checked(self._client.get(f"/repos/{repository}/raw/{path}", params={"ref": ref})).text

    def create_label(self, repository: str, name: str) -> int:
        """Make a label; its id."""
        label = {"name": name, "color": "#00aabb"}
        return int(self.call("POST", f"/repos/{repository}/labels", label)["id"])

    def labels(self, repository: str) -> dict[str, int]:
        """The ids of the repository's labels by name."""
        found = self.call("GET", f"/repos/{repository}/labels", limit=50)
        return {str(label["name"]): int(label["id"]) for label in found}

    def add_collaborator(self, repository: str, login: str, permission: str) -> None:
        """Give a user `read`, `write` or `admin`."""
        self.call("PUT", f"/repos/{repository}/collaborators/{login}", {"permission": permission})

    def add_hook(self, repository: str, url: str, secret: str, events: Iterable[str] = HOOK_EVENTS) -> int:
        """Let Gitea send webhooks, signed with the secret; the hook's id."""
        hook = {
            "type": "gitea",
            "active": True,
            "events": list(events),
            "config": {"url": url, "content_type": "json", "secret": secret},
        }
        return int(self.call("POST", f"/repos/{repository}/hooks", hook)["id"])

    def create_issue(self, repository: str, title: str, body: str = "", labels: Iterable[str] = ()) -> int:
        """Open an issue; its number."""
        ids = self.labels(repository)
        issue = {"title": title, "body": body, "labels": [ids[name] for name in labels]}
        return int(self.call("POST", f"/repos/{repository}/issues", issue)["number"])

    def add_label(self, repository: str, number: int, label: str) -> None:
        """Add a label to an issue or a pull request."""
        labels = {"labels": [self.labels(repository)[label]]}
        self.call("POST", f"/repos/{repository}/issues/{number}/labels", labels)

    def remove_label(self, repository: str, number: int, label: str) -> None:
        """Remove a label from an issue or a pull request."""
        self.call("DELETE", f"/repos/{repository}/issues/{number}/labels/{self.labels(repository)[label]}")

    def clear_labels(self, repository: str, number: int) -> None:
        """Remove all labels."""
        self.call("DELETE", f"/repos/{repository}/issues/{number}/labels")

    def set_state(self, repository: str, number: int, state: str) -> None:
        """Close (`closed`) or reopen (`open`) an issue or a pull request."""
        self.call("PATCH", f"/repos/{repository}/issues/{number}", {"state": state})

    def comment(self, repository: str, number: int, text: str) -> int:
        """Write a comment; its id."""
        path = f"/repos/{repository}/issues/{number}/comments"
        return int(self.call("POST", path, {"body": text})["id"])

    def edit_comment(self, repository: str, comment: int, text: str) -> None:
        """Change a comment."""
        self.call("PATCH", f"/repos/{repository}/issues/comments/{comment}", {"body": text})

    def create_pull(self, repository: str, branch: str, title: str, body: str = "") -> int:
        """Open a pull request against `main`; its number."""
        pull = {"base": "main", "head": branch, "title": title, "body": body}
        return int(self.call("POST", f"/repos/{repository}/pulls", pull)["number"])

    def review(
        self, repository: str, number: int, event: str, body: str, inline: Iterable[tuple[str, int, str]] = ()
    ) -> int:
        """Review a pull request; the review's id.

        Args:
            event: `APPROVED`, `REQUEST_CHANGES` or `COMMENT`.
            body: what stands above the comments.
            inline: path, line of the new file and text of each comment.
        """
        comments = [{"path": path, "new_position": line, "body": text} for path, line, text in inline]
        review = {"event": event, "body": body, "comments": comments}
        return int(self.call("POST", f"/repos/{repository}/pulls/{number}/reviews", review)["id"])

    def set_status(self, repository: str, sha: str, state: str, context: str, text: str = "") -> None:
        """Set a commit's status: `pending`, `success`, `error`, `failure` or `warning`."""
        status = {"state": state, "context": context, "description": text}
        self.call("POST", f"/repos/{repository}/statuses/{sha}", status)

    def merge(self, repository: str, number: int, *, seconds: float = TIMEOUT) -> None:
        """Merge a pull request as soon as Gitea has looked for conflicts, which it does in the background.

        Until then, Gitea says that it is not mergeable, or refuses to merge it for the moment.

        Raises:
            GiteaError: it cannot be merged, or Gitea has not looked in time.
        """
        path = f"/repos/{repository}/pulls/{number}"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.call("GET", path)["mergeable"]:
                answer = self._client.post(f"{path}/merge", json={"Do": "merge"})
                if answer.status_code != 405 or "try again later" not in answer.text:
                    checked(answer)
                    return
            time.sleep(0.05)
        raise GiteaError(f"pull request {number} was not mergeable within {seconds:.0f} s")


def checked(answer: httpx2.Response) -> httpx2.Response:
    """The answer.

    Raises:
        GiteaError: its status is not 2xx.
    """
    if not answer.is_success:
        request = answer.request
        raise GiteaError(f"{request.method} {request.url}: {answer.status_code} {answer.text[:500]}")
    return answer
