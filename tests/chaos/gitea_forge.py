"""A real Gitea as the forge of a run: people act on it through its API, and its own process can be broken.

    forge = stack.enter_context(GiteaForge(folder, address, public_url, PEOPLE, BOT_LOGIN, REPOSITORIES))

The system reaches Gitea through a `Recorder`, which answers in Gitea's place while a fault lasts. Gitea's
clock is that of this machine, so no fault sets it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from coding_agent_testbed.forge.eventlog import ForgeEvent
from coding_agent_testbed.forge.faults import Fault
from coding_agent_testbed.forge.model import Check, Comment, Item, Kind, Label, Repository, Thread, Tips, User
from coding_agent_testbed.gitea import Account, Api, GiteaError, GiteaServer, prepare
from coding_agent_testbed.gitea.sample import LABELS, sample_files

from tests.chaos.forges import ForgeRefusal
from tests.chaos.gitea_history import VERDICTS, pages, read_events, threads
from tests.chaos.processes import ended, fingerprints, stop
from tests.chaos.recorder import Recorder
from tests.chaos.world import Effect, NothingToBreakError, Undo, WorldError

_MERGE_SECONDS = 10.0
"""As long as a person waits until Gitea has looked for conflicts."""
_EVENTS = {state: name for name, state in VERDICTS.items()}


class GiteaForge:
    """See `TriedForge`. Its items, threads and checks are as they were when they were read.

    Args:
        folder: for all that Gitea stores.
        address: where the system reaches it.
        public_url: as the system knows it, without a trailing slash.
        people: the role of each login: a `member` may write, a `stranger` may not.
        bot: the login of the system's account, which administers the repositories.
        repositories: full names.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        public_url: str,
        people: Mapping[str, str],
        bot: str,
        repositories: Sequence[str],
    ) -> None:
        self.base_url = public_url
        self.api_url = f"{public_url}/api/v1"
        self._server = GiteaServer(folder, program=prepare(), public_url=public_url)
        self._people = people
        self._bot = bot
        self._repositories = repositories
        self._logins: dict[str, str] = {}
        self.recorder = Recorder(address, self._server.url, public_url.partition("://")[2], self._logins)
        self._apis: dict[str, Api] = {}
        self._places: dict[int, str] = {}
        """The path of the change of each thread that was read."""
        self._broken = threading.Lock()
        """Held while a fault has broken Gitea's process."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self._server)
            stack.enter_context(self.recorder)
            self._admin = stack.enter_context(self._server.api())
            self._seed(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _seed(self, stack: ExitStack) -> None:
        accounts: dict[str, Account] = {}
        for login in (*self._people, self._bot):
            account = self._admin.create_user(self._server.api_url, login, secrets.token_hex(16))
            accounts[login] = account
            self._logins[account.token] = login
            url = f"{self.recorder.people_url}/api/v1"
            self._apis[login] = stack.enter_context(Api(url, account.token))
        self.bot_token = accounts[self._bot].token
        for name in self._repositories:
            self._admin.create_repository(name, sample_files(), LABELS)
            self._admin.add_collaborator(name, self._bot, "admin")
            for login, role in self._people.items():
                if role == "member":
                    self._admin.add_collaborator(name, login, "write")

    @property
    def port(self) -> int:
        return self.recorder.port

    @property
    def version(self) -> str:
        """Gitea's own."""
        return str(self._admin.call("GET", "/version")["version"])

    @property
    def log(self) -> Path:
        """What Gitea has printed."""
        return self._server.log

    def events(self) -> list[ForgeEvent]:
        folders = {name: self._server.repository_folder(name) for name in self._repositories}
        return read_events(self._admin, folders, list(self.recorder.writes), self._bot)

    def add_hook(self, full_name: str, url: str, secret: str = "") -> int:
        return self._admin.add_hook(full_name, url, secret)

    def fault(self, **fields: Any) -> Fault:
        fault = Fault(**fields)
        self.recorder.faults.append(fault)
        return fault

    def check(self) -> None:
        """See that Gitea runs, unless a fault has broken it.

        Raises:
            WorldError: it does not; the end of its log is in the message.
        """
        broken_before = self._broken.locked()
        if self._server.pid is None and not broken_before and not self._broken.locked():
            text = self.log.read_text(errors="replace")[-2000:]
            raise WorldError(f"Gitea has ended by itself: {text}")

    def kill(self) -> Undo:
        """Kill Gitea itself, and no git: the lock that a killed git leaves would block its branch for good.

        Raises:
            NothingToBreakError: another fault has broken Gitea.
        """
        pid = self._break()
        before = fingerprints([pid])
        self._server.kill()

        def undo() -> Effect:
            try:
                effect = ended(before)
                self._server.start()
                return effect
            except GiteaError as error:
                raise WorldError(str(error)) from error
            finally:
                self._broken.release()

        return undo

    def stop(self) -> Undo:
        """Stop Gitea's process until the returned function lets it go on.

        Raises:
            NothingToBreakError: another fault has broken Gitea.
        """
        go_on = stop([self._break()])

        def undo() -> Effect:
            try:
                effect = go_on()
                self._admin.call("GET", "/version")
                return effect
            except (GiteaError, httpx2.HTTPError) as error:
                raise WorldError(f"Gitea does not go on: {error!r}") from error
            finally:
                self._broken.release()

        return undo

    def _break(self) -> int:
        if not self._broken.acquire(blocking=False):
            raise NothingToBreakError("another fault has broken Gitea")
        assert self._server.pid is not None
        return self._server.pid

    def repository(self, full_name: str) -> Repository:
        owner, _, name = full_name.partition("/")
        found = self._read(f"/repos/{full_name}")
        return Repository(
            id=found["id"],
            owner=owner,
            name=name,
            path=self._server.repository_folder(full_name),
            created_at=datetime.fromisoformat(found["created_at"]),
            default_branch=found["default_branch"],
        )

    def item(self, full_name: str, number: int, kind: Kind | str = Kind.ISSUE) -> Item:
        issue = Kind(kind) is Kind.ISSUE
        return _item(self._read(f"/repos/{full_name}/{'issues' if issue else 'pulls'}/{number}"))

    def changes(self, full_name: str) -> list[Item]:
        with self._as(None) as api:
            found = list(pages(api, f"/repos/{full_name}/pulls", state="all", sort="oldest"))
        return sorted(map(_item, found), key=lambda item: item.number)

    def pushed_branches(self, full_name: str) -> list[str]:
        with self._as(None) as api:
            found = list(pages(api, f"/repos/{full_name}/branches"))
        found.sort(key=lambda branch: str(branch["commit"]["timestamp"]))
        return [str(branch["name"]) for branch in found]

    def threads(self, full_name: str, number: int) -> list[Thread]:
        place = f"/repos/{full_name}/pulls/{number}"
        with self._as(None) as api:
            reviews = [one for one in pages(api, f"{place}/reviews") if one["comments_count"]]
            found = [
                _thread(comments, review)
                for review in sorted(reviews, key=lambda one: int(one["id"]))
                for comments in threads(api.call("GET", f"{place}/reviews/{review['id']}/comments"))
            ]
        self._places |= {thread.id: place for thread in found}
        return found

    def checks(self, full_name: str, sha: str) -> list[Check]:
        with self._as(None) as api:
            found = list(pages(api, f"/repos/{full_name}/commits/{sha}/statuses"))
        found.sort(key=lambda status: int(status["id"]))
        by_name: dict[str, list[dict[str, Any]]] = {}
        for status in found:
            by_name.setdefault(status["context"], []).append(status)
        return [_check(sha, statuses) for statuses in by_name.values()]

    def open_issue(
        self, full_name: str, title: str, body: str = "", *, by: str | None = None, labels: Sequence[str] = ()
    ) -> int:
        """See `PeoplesForge`. From people who may not label, Gitea ignores the labels, of forms too."""
        with self._as(by) as api:
            return api.create_issue(full_name, title, body, labels)

    def add_label(
        self, full_name: str, number: int, label: str, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None:
        with self._as(by) as api:
            api.add_label(full_name, number, label)

    def remove_label(
        self, full_name: str, number: int, label: str, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None:
        with self._as(by) as api:
            api.remove_label(full_name, number, label)

    def close(
        self, full_name: str, number: int, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None:
        with self._as(by) as api:
            api.set_state(full_name, number, "closed")

    def reopen(
        self, full_name: str, number: int, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None:
        with self._as(by) as api:
            api.set_state(full_name, number, "open")

    def comment(
        self, full_name: str, number: int, text: str, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> int:
        with self._as(by) as api:
            return api.comment(full_name, number, text)

    def push(self, full_name: str, branch: str, files: Mapping[str, str], *, by: str | None = None) -> str:
        with self._as(by) as api:
            return api.commit(full_name, branch, files, f"Push to {branch}")

    def merge(self, full_name: str, number: int, *, by: str | None = None) -> str:
        with self._as(by) as api:
            api.merge(full_name, number, seconds=_MERGE_SECONDS)
        return str(self._read(f"/repos/{full_name}/pulls/{number}")["merge_commit_sha"])

    def review(
        self, full_name: str, number: int, state: str, text: str = "", *, by: str | None = None
    ) -> None:
        with self._as(by) as api:
            api.review(full_name, number, _EVENTS[state], text)

    def start_thread(
        self, full_name: str, number: int, text: str, *, by: str | None = None, path: str, line: int
    ) -> Thread:
        with self._as(by) as api:
            api.review(full_name, number, "COMMENT", "", [(path, line, text)])
        return self.threads(full_name, number)[-1]

    def reply(self, thread: Thread, text: str, *, by: str | None = None) -> int:
        with self._as(by) as api:
            path = f"{self._places[thread.id]}/comments/{thread.id}/replies"
            return int(api.call("POST", path, {"body": text})["id"])

    def resolve(self, thread: Thread, *, by: str | None = None) -> None:
        pulls = self._places[thread.id].rpartition("/")[0]
        with self._as(by) as api:
            api.call("POST", f"{pulls}/comments/{thread.id}/resolve")

    def add_check(self, full_name: str, sha: str, name: str, result: str = "", *, log: bytes) -> Check:
        """See `PeoplesForge`. A check is a commit status, and the last line of its log the description."""
        said = (log.decode().strip().splitlines() or [""])[-1]
        with self._as(self._one_of("member")) as api:
            api.set_status(full_name, sha, result or "pending", name, said)
        return next(check for check in self.checks(full_name, sha) if check.name == name)

    def rerun(self, full_name: str, check: Check, *, by: str | None = None) -> Check:
        with self._as(by) as api:
            api.set_status(full_name, check.sha, "pending", check.name)
        return next(one for one in self.checks(full_name, check.sha) if one.name == check.name)

    def _one_of(self, role: str) -> str:
        return next(login for login, has in self._people.items() if has == role)

    def _read(self, path: str) -> Any:
        with self._as(None) as api:
            return api.call("GET", path)

    @contextmanager
    def _as(self, login: str | None) -> Iterator[Api]:
        """The API as a person sees it; the first member unless named.

        Raises:
            ForgeRefusal: Gitea refuses a request, or does not answer it.
        """
        try:
            yield self._apis[login or self._one_of("member")]
        except (GiteaError, httpx2.HTTPError) as error:
            raise ForgeRefusal(str(error)) from error


def _user(found: Mapping[str, Any]) -> User:
    return User(found["id"], found["login"], found["login"], "")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _item(found: Mapping[str, Any]) -> Item:
    """An issue, or a pull request with its branches."""
    head, base = found.get("head"), found.get("base")
    return Item(
        id=found["id"],
        kind=Kind.ISSUE if head is None else Kind.CHANGE,
        number=found["number"],
        title=found["title"],
        body=found["body"],
        author=_user(found["user"]),
        created_at=datetime.fromisoformat(found["created_at"]),
        updated_at=datetime.fromisoformat(found["updated_at"]),
        labels=[Label(label["id"], label["name"]) for label in found["labels"] or ()],
        closed_at=_moment(found.get("closed_at")) if found["state"] == "closed" else None,
        merged_at=_moment(found.get("merged_at")),
        head=head["ref"] if head else "",
        base=base["ref"] if base else "",
        tips=Tips(head["sha"], base["sha"]) if head and base else Tips("", ""),
    )


def _thread(comments: Sequence[Mapping[str, Any]], review: Mapping[str, Any]) -> Thread:
    """A thread. Gitea does not show the commit of its base."""
    first = comments[0]
    resolver = next((one["resolver"] for one in comments if one.get("resolver")), None)
    return Thread(
        id=first["id"],
        path=first["path"],
        line=first["position"] or None,
        start_line=None,
        removed=not first["position"],
        commit=first["commit_id"],
        base="",
        review=review["id"],
        comments=[
            Comment(
                one["id"],
                _user(one["user"]),
                one["body"],
                datetime.fromisoformat(one["created_at"]),
                datetime.fromisoformat(one["updated_at"]),
            )
            for one in comments
        ],
        resolved_by=None if resolver is None else _user(resolver),
    )


def _check(sha: str, statuses: Sequence[Mapping[str, Any]]) -> Check:
    """A check from all statuses of its name, the oldest first. Each `pending` begins an attempt."""
    began = [status for status in statuses if status["status"] == "pending"]
    first, last = began[-1] if began else statuses[0], statuses[-1]
    return Check(
        id=first["id"],
        sha=sha,
        name=last["context"],
        result="" if last["status"] == "pending" else last["status"],
        summary=last["description"],
        log=None,
        run=0,
        at=datetime.fromisoformat(first["created_at"]),
        attempt=max(1, len(began)),
    )
