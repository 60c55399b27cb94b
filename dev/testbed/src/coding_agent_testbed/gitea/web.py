"""A person in Gitea's web page: its login form, and the forms behind its buttons. No API."""

import re
import time
from types import TracebackType
from typing import Self
from urllib.parse import unquote

import httpx2

from coding_agent_testbed.gitea.accounts import Account
from coding_agent_testbed.gitea.errors import GiteaError

_TIMEOUT = 60.0
_NOT_READY = "not ready to be merged"


class WebSession:
    """One browser session of one person, in one repository.

    Raises:
        GiteaError: a form was refused; the message has the page's own words.
    """

    def __init__(self, url: str, repository: str, account: Account) -> None:
        self._repository = f"/{repository}"
        # A browser names the page's origin, and Gitea compares it (its protection against forged requests).
        self._client = httpx2.Client(
            base_url=url,
            headers={"origin": url, "accept": "text/html", "accept-language": "en-US"},
            timeout=_TIMEOUT,
            trust_env=False,
            follow_redirects=True,
        )
        self._post("/user/login", user_name=account.login, password=account.password)
        if "/user/login" in str(self._client.get("/user/settings").url):
            raise GiteaError(f"{account.login} could not log in")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def page(self, path: str) -> str:
        """The HTML of a page of the repository, such as `/issues/1`."""
        answer = self._client.get(f"{self._repository}{path}")
        _check(answer)
        return answer.text

    def open_issue(self, title: str, text: str = "", *labels: str) -> int:
        """Fill in the form for a new issue; its number."""
        ids = ",".join(str(self._label_id(name)) for name in labels)
        answer = self._post(
            f"{self._repository}/issues/new", title=title, content=text, label_ids=ids, assignee_ids=""
        )
        return int(_found(r"/issues/(\d+)", _redirect(answer)))

    def put_label(self, number: int, label: str) -> None:
        """Add a label by choosing it in the sidebar."""
        self._choose_label("attach", number, label)

    def take_label(self, number: int, label: str) -> None:
        """Remove a label by choosing it in the sidebar."""
        self._choose_label("detach", number, label)

    def comment(self, number: int, text: str) -> None:
        """Write a comment below an issue or a pull request."""
        self._post(f"{self._repository}/issues/{number}/comments", content=text)

    def close(self, number: int, text: str = "") -> None:
        """Press "Close", with a comment if there is a text."""
        self._post(f"{self._repository}/issues/{number}/comments", content=text, status="close")

    def reopen(self, number: int) -> None:
        """Press "Reopen"."""
        self._post(f"{self._repository}/issues/{number}/comments", content="", status="reopen")

    def comment_line(self, number: int, path: str, line: int, text: str) -> None:
        """Start a review, or go on with it, by a comment at a line of the new file."""
        self._comment_line(number, path, line, text)

    def comment_line_alone(self, number: int, path: str, line: int, text: str) -> None:
        """Press "Add single comment": a comment at a line of the new file without a review around it."""
        self._comment_line(number, path, line, text, single_review="true")

    def reply(self, number: int, path: str, line: int, text: str) -> None:
        """Answer the first comment at a line."""
        review = _found(r'name="reply" value="(\d+)"', self.page(f"/pulls/{number}"))
        self._comment_line(number, path, line, text, single_review="true", reply=review)

    def review(self, number: int, kind: str, text: str = "") -> None:
        """Finish a review: `approve`, `reject` (request changes) or `comment`."""
        self._post(
            f"{self._repository}/pulls/{number}/files/reviews/submit",
            type=kind,
            content=text,
            commit_id=self._head(number),
        )

    def merge(self, number: int, *, seconds: float = _TIMEOUT) -> None:
        """Press "Create merge commit", until Gitea has looked for conflicts, which it does in the background.

        Raises:
            GiteaError: it cannot be merged, or Gitea has not looked in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            form = {"do": "merge", "head_commit_id": self._head(number)}
            try:
                self._post(f"{self._repository}/pulls/{number}/merge", **form)
            except GiteaError as error:
                if _NOT_READY not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def redeliver(self, hook: int, delivery: str) -> None:
        """Press "Replay" at a delivery of a webhook; only an administrator of the repository may."""
        self._post(f"{self._repository}/settings/hooks/{hook}/replay/{delivery}")

    def _comment_line(self, number: int, path: str, line: int, text: str, **more: str) -> None:
        form = {"origin": "diff", "side": "proposed", "path": path, "line": str(line), "content": text}
        form |= {"latest_commit_id": self._head(number)} | more
        self._post(f"{self._repository}/pulls/{number}/files/reviews/comments", **form)

    def _choose_label(self, action: str, number: int, label: str) -> None:
        issue = _found(r"issues/labels\?issue_ids=(\d+)", self.page(f"/issues/{number}"))
        self._post(
            f"{self._repository}/issues/labels",
            action=action,
            issue_ids=issue,
            id=str(self._label_id(label)),
        )

    def _label_id(self, name: str) -> int:
        page = self.page("/labels")
        for number, title in re.findall(r'data-label-id="(\d+)"[^>]*data-label-name="([^"]*)"', page):
            if title == name:
                return int(number)
        raise GiteaError(f"the page of labels has no {name!r}")

    def _head(self, number: int) -> str:
        return _found(r'name="commit_id" value="([0-9a-f]{40,64})"', self.page(f"/pulls/{number}/files"))

    def _post(self, action: str, /, **form: str) -> httpx2.Response:
        answer = self._client.post(action, data=form)
        _check(answer)
        return answer


def _check(answer: httpx2.Response) -> None:
    # A refusal is often a redirect to a page that shows it: the cookie in between has its text.
    cookies = [step.headers.get("set-cookie", "") for step in (*answer.history, answer)]
    flash = " ".join(re.findall(r"gitea_flash=(\S*error\S*?);", " ".join(cookies)))
    if not answer.is_success or flash:
        said = re.sub(r"<[^>]+>|\s+", " ", answer.text)[:500]
        request = answer.request
        raise GiteaError(f"{request.method} {request.url}: {answer.status_code} {unquote(flash)} {said}")


def _redirect(answer: httpx2.Response) -> str:
    """Where a form leads: a script of the page follows the JSON, a browser the redirect."""
    if "json" in answer.headers.get("content-type", ""):
        return str(answer.json().get("redirect", ""))
    return str(answer.url)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise GiteaError(f"the page has nothing like {pattern}")
    return match[1]
