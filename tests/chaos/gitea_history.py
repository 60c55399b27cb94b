"""What people and the bot did in a real Gitea, in the form of the sandbox's log of events.

Gitea itself says what happened: its timelines, reviews, commit statuses and pull requests. Its times are
whole seconds, so the time of an event is that of the recorded request that caused it. What no recorded
request explains, because Gitea was killed before it answered, has Gitea's own time. Three things Gitea does
not keep, and they are from the requests alone: the versions of a comment but the last, when a thread was
resolved, and who pushed which commits when.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.eventlog import ForgeEvent, pushed_refs
from coding_agent_testbed.forge.model import Kind
from coding_agent_testbed.gitea import Api

from tests.chaos.recorder import Write

_PAGE = 50
_SECOND = timedelta(seconds=1)
VERDICTS = {"APPROVED": "APPROVED", "REQUEST_CHANGES": "CHANGES_REQUESTED", "COMMENT": "COMMENTED"}
"""Gitea's states of reviews, and what GitHub calls them."""
_STATES = {"close": "closed", "reopen": "reopened", "merge_pull": "merged"}
_RESULTS = {"pending": "running"}
"""Gitea's states of commit statuses that have another name here."""


def read_events(
    api: Api, repositories: Mapping[str, Path], writes: Sequence[Write], bot: str
) -> list[ForgeEvent]:
    """All events, oldest first.

    Args:
        api: of an account that sees everything.
        repositories: their folders on this machine, by their full names.
        writes: in the order of their answers.
        bot: the login of the system's account, whose commit statuses are no checks.

    Raises:
        coding_agent_testbed.gitea.GiteaError: Gitea does not answer.
    """
    found: list[ForgeEvent] = []
    for name, folder in repositories.items():
        mine = [write for write in writes if re.match(rf"(/api/v1/repos)?/{re.escape(name)}[./]", write.path)]
        found += _Repository(api, name, folder, mine, bot).events()
    found.sort(key=lambda event: event.at)
    return [replace(event, id=number) for number, event in enumerate(found, start=1)]


def pages(api: Api, path: str, **query: Any) -> Iterator[dict[str, Any]]:
    """The entries of a list, page by page. A page of a timeline can lack entries without being the last."""
    for page in range(1, 1000):
        found = api.call("GET", path, **query, limit=_PAGE, page=page)
        if not found:
            return
        yield from found


@dataclass
class _Repository:
    """One repository.

    Attributes:
        explained: the requests that some event has used already, by what the event is.
    """

    api: Api
    name: str
    folder: Path
    writes: Sequence[Write]
    bot: str
    explained: set[tuple[object, int]] = field(default_factory=set)

    def events(self) -> Iterator[ForgeEvent]:
        pushes = list(self._recorded_pushes())
        for item in pages(self.api, f"/repos/{self.name}/issues", state="all"):
            change = item.get("pull_request") is not None
            pull = self._get("pulls", item["number"]) if change else None
            yield from self._item(item, pull)
            if pull is not None and pull["merged"]:
                pushes.append(self._merge_push(pull))
        pushes += self._other_tips({push.after or "" for push in pushes})
        yield from pushes
        for commit in dict.fromkeys(push.after or "" for push in pushes if push.branch != "main"):
            yield from self._checks(commit)

    def _get(self, *rest: object) -> Any:
        return self.api.call("GET", f"/repos/{self.name}/{'/'.join(map(str, rest))}")

    def _event(self, at: datetime, event: str, actor: str, **more: Any) -> ForgeEvent:
        return ForgeEvent(0, at, event, self.name, actor, **more)

    def _item(self, item: Mapping[str, Any], pull: Mapping[str, Any] | None) -> Iterator[ForgeEvent]:
        number, author = item["number"], item["user"]["login"]
        common: dict[str, Any] = {"kind": Kind.ISSUE if pull is None else Kind.CHANGE, "number": number}
        what = "issues" if pull is None else "pulls"
        at = self._at(item["created_at"], author, f"/{what}", _answers(number, name="number"))
        refs = {} if pull is None else {"branch": pull["head"]["ref"], "base": pull["base"]["ref"]}
        said = {"title": item["title"], "body": item["body"]}
        yield self._event(at, "opened", author, **said, **refs, **common)
        for entry in pages(self.api, f"/repos/{self.name}/issues/{number}/timeline"):
            actor = (entry.get("user") or {}).get("login", "")
            where = {"actor": actor, **common}
            match entry["type"]:
                case "label":
                    yield self._labeled(entry, **where)
                case "close" | "reopen" | "merge_pull":
                    yield self._closing(entry, **where)
                case "comment":
                    yield from self._comment(entry, **where)
                case "review_request":
                    reviewer = (entry.get("assignee") or {}).get("login", "")
                    at = _time(entry["created_at"])
                    yield self._event(at, "review_requested", actor, reviewer=reviewer, **common)
        if pull is not None:
            yield from self._reviews(number, common)

    def _labeled(self, entry: Mapping[str, Any], *, actor: str, **common: Any) -> ForgeEvent:
        label, on = entry["label"], bool(entry["body"])
        number = common["number"]

        def caused(write: Write) -> bool:
            named = write.sent.get("labels") or []
            return not on or label["name"] in named or label["id"] in named

        path = rf"/issues(/{number}/labels)?" if on else rf"/issues/{number}/labels/{label['id']}"
        at = self._at(entry["created_at"], actor, path, caused, key=(number, label["id"], on))
        return self._event(at, "labeled" if on else "unlabeled", actor, label=label["name"], **common)

    def _closing(self, entry: Mapping[str, Any], *, actor: str, **common: Any) -> ForgeEvent:
        event = _STATES[entry["type"]]
        number, state = common["number"], "open" if event == "reopened" else "closed"
        path = rf"/pulls/{number}/merge" if event == "merged" else rf"/(issues|pulls)/{number}"

        def caused(write: Write) -> bool:
            return event == "merged" or write.sent.get("state") == state

        at = self._at(entry["created_at"], actor, path, caused, key=number)
        return self._event(at, event, actor, **common)

    def _comment(self, entry: Mapping[str, Any], *, actor: str, **common: Any) -> Iterator[ForgeEvent]:
        """The versions of a comment. The last one is what Gitea has, whatever was recorded."""
        identifier, last = entry["id"], str(entry["body"])
        path = rf"/issues/{common['number']}/comments"
        made = [write for write in self._of(path) if write.done and write.answered.get("id") == identifier]
        at = self._at(entry["created_at"], actor, path, _answers(identifier))
        edits = [write for write in self._of(rf"/issues/comments/{identifier}") if write.done]
        body = made[0].sent["body"] if made else ("" if edits else last)
        event = self._event(at, "commented", actor, comment=identifier, body=body, **common)
        yield event
        for write in edits:
            body = write.sent["body"]
            yield replace(event, at=write.ended, event="comment_edited", actor=write.login, body=body)
        if body.strip() != last.strip():
            yield replace(event, at=_time(entry["updated_at"]), event="comment_edited", body=last)

    def _reviews(self, number: int, common: Mapping[str, Any]) -> Iterator[ForgeEvent]:
        for review in pages(self.api, f"/repos/{self.name}/pulls/{number}/reviews"):
            if review["state"] not in VERDICTS:
                continue
            actor, by_id = review["user"]["login"], _answers(review["id"])
            at = self._at(review["submitted_at"], actor, rf"/pulls/{number}/reviews", by_id)
            # A comment on a line is a review too, without a text of its own.
            if review["body"] or review["state"] != "COMMENT":
                more = {"review": review["id"], "state": VERDICTS[review["state"]], "body": review["body"]}
                yield self._event(at, "reviewed", actor, **more, **common)
            for thread in threads(self._get("pulls", number, "reviews", review["id"], "comments")):
                yield from self._thread(thread, review["id"], common)

    def _thread(
        self, comments: Sequence[Mapping[str, Any]], review: int, common: Mapping[str, Any]
    ) -> Iterator[ForgeEvent]:
        first, number = comments[0]["id"], common["number"]
        for comment in comments:
            actor = comment["user"]["login"]
            path = rf"/pulls/{number}/(reviews|comments/\d+/replies)"
            at = self._at(comment["created_at"], actor, path, _answers(review, comment["id"]))
            more = {"thread": first, "comment": comment["id"], "body": comment["body"]}
            yield self._event(at, "review_commented", actor, **more, **common)
        resolved = [write for write in self._of(rf"/pulls/comments/{first}/resolve") if write.done]
        for write in resolved[:1]:
            yield self._event(write.ended, "resolved", write.login, thread=first, **common)
        resolver = next((one["resolver"] for one in comments if one.get("resolver")), None)
        if resolver and not resolved:
            at = _time(max(one["updated_at"] for one in comments))
            yield self._event(at, "resolved", resolver["login"], thread=first, **common)

    def _recorded_pushes(self) -> Iterator[ForgeEvent]:
        for write in self.writes:
            if write.done and write.path.endswith("/git-receive-pack"):
                for branch, before, after in pushed_refs(write.body, write.answer):
                    refs = {"branch": branch, "before": before, "after": after}
                    forced = self._left_behind(before, after)
                    yield self._event(write.began, "pushed", write.login, forced=forced, **refs)
            elif write.done and write.path.endswith("/contents"):
                commit, branch = write.answered["commit"], write.sent.get("new_branch", write.sent["branch"])
                refs = {"branch": branch, "before": commit["parents"][0]["sha"], "after": commit["sha"]}
                yield self._event(write.began, "pushed", write.login, **refs)

    def _left_behind(self, before: str, after: str) -> bool | None:
        """Whether a push left commits behind; `None`: they are no longer there."""
        if not all(one.strip("0") for one in (before, after)):
            return False  # it made or deleted the branch
        if not all(git.has_commit(self.folder, one) for one in (before, after)):
            return None
        return not git.is_ancestor(self.folder, before, after)

    def _merge_push(self, pull: Mapping[str, Any]) -> ForgeEvent:
        after, actor = pull["merge_commit_sha"], pull["merged_by"]["login"]
        at = self._at(pull["merged_at"], actor, rf"/pulls/{pull['number']}/merge")
        before = git.git(self.folder, "rev-parse", f"{after}^1").strip()
        return self._event(at, "pushed", actor, branch=pull["base"]["ref"], before=before, after=after)

    def _other_tips(self, known: set[str]) -> Iterator[ForgeEvent]:
        """Pushes that took effect although nobody has seen the answer; the newest of each branch."""
        for branch in git.branches(self.folder):
            tip = git.branch_sha(self.folder, branch)
            if tip is None or tip in known:
                continue
            said = git.git(self.folder, "log", "-1", "--format=%an%n%cI%n%P", tip)
            author, at, parents = said.splitlines()
            if parents:  # the first commit is there before the run
                before = parents.split()[0]
                yield self._event(_time(at), "pushed", author, branch=branch, before=before, after=tip)

    def _checks(self, commit: str) -> Iterator[ForgeEvent]:
        if not git.has_commit(self.folder, commit):  # the branch was deleted
            return
        found = list(pages(self.api, f"/repos/{self.name}/commits/{commit}/statuses"))
        for status in sorted(found, key=lambda status: int(status["id"])):
            actor = (status.get("creator") or {}).get("login", "")
            if actor == self.bot:
                continue
            at = self._at(status["created_at"], actor, f"/statuses/{commit}", _answers(status["id"]))
            state = _RESULTS.get(status["status"], status["status"])
            more = {"check": status["context"], "commit": commit, "state": state}
            yield self._event(at, "check", actor, body=status["description"], **more)

    def _of(self, path: str, writes: Sequence[Write] | None = None) -> Iterator[Write]:
        """The requests to a path below the repository, a regular expression; among all, or among these."""
        whole = re.compile(rf"/api/v1/repos/{re.escape(self.name)}{path}")
        return (write for write in (self.writes if writes is None else writes) if whole.fullmatch(write.path))

    def _at(
        self,
        second: str,
        actor: str,
        path: str,
        caused: Callable[[Write], bool] = lambda write: True,
        *,
        key: object = None,
    ) -> datetime:
        """When it happened: as the request began that caused it, but within Gitea's second.

        Args:
            second: Gitea's time.
            path: of the request, below the repository; a regular expression.
            caused: whether a request to this path can have caused it.
            key: of the events of which a request causes one only; `None`: `caused` tells them apart.
        """
        start = _time(second)
        near = [write for write in self.writes if start <= write.ended and write.began < start + _SECOND]
        for write in self._of(path, near):
            if write.login != actor or not (write.done or write.status == 0) or not caused(write):
                continue
            if (key, id(write)) in self.explained:
                continue
            if key is not None:
                self.explained.add((key, id(write)))
            return max(write.began, start)
        return start


def threads(comments: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The comments of a review by the line on which they are; the oldest first."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for comment in sorted(comments, key=lambda one: int(one["id"])):
        place = comment["path"], comment.get("position"), comment.get("original_position")
        found.setdefault(place, []).append(comment)
    return list(found.values())


def _answers(*values: int, name: str = "id") -> Callable[[Write], bool]:
    """Whether the answer of a request, if there is one, names one of these."""
    return lambda write: not write.done or write.answered.get(name) in values


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
