"""A forge to start and stop: by itself (`python -m coding_agent_testbed.forge`) or in a test's process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import uvicorn
from fastapi import FastAPI

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.app import create_app, with_faults
from coding_agent_testbed.forge.clock import Clock
from coding_agent_testbed.forge.delivery_settings import DeliverySettings
from coding_agent_testbed.forge.eventlog import ForgeEvent
from coding_agent_testbed.forge.faults import Fault
from coding_agent_testbed.forge.history import HistorySettings
from coding_agent_testbed.forge.model import Check, Flavour, Item, Kind, Repository, Role, Thread, User
from coding_agent_testbed.forge.sandbox import Sandbox
from coding_agent_testbed.forge.seed import Seed, from_data

T = TypeVar("T")
START_TIMEOUT = 60.0
"""Seconds that a start may take, or the end of what a test waits for."""
KEEP_ALIVE = 75
"""Seconds; longer than clients keep a connection, so that none is closed just as a request arrives."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    sock = socket.create_server((host, port), backlog=512)
    # Connections inherit it. asyncio sets it only where the socket names its protocol, and without it
    # each answer waits 40 ms for an acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.set_inheritable(True)
    return sock


def config_for(app: FastAPI, certificate: Path | None = None) -> uvicorn.Config:
    """uvicorn as the sandbox wants it: quiet, quick to stop. TLS for a PEM file of certificate and key."""
    return uvicorn.Config(
        with_faults(app),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        date_header=False,  # the forge's own clock writes it
        timeout_graceful_shutdown=2,
        ws="none",
        ssl_certfile=certificate,
    )


class ForgeServer:
    """A running forge on a free port, on loopback unless told otherwise, in a thread of its own.

    Use as a context manager. Its methods may be called from any thread; they do what a person does, and the
    webhooks go out as for a person.

    Args:
        certificate: PEM file of a certificate for `host` and its key; with it the forge speaks TLS only.
        public_url: where others reach it, without a trailing slash, if a proxy stands before it.
        clock_ahead: seconds that the forge's clock is ahead of this machine's; negative: behind.
    """

    def __init__(
        self,
        flavour: Flavour | str,
        seed: Seed | dict[str, Any],
        folder: Path,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        certificate: Path | None = None,
        public_url: str = "",
        clock_ahead: float = 0.0,
    ) -> None:
        self._socket = listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.flavour = Flavour(flavour)
        self.base_url = public_url or f"{'https' if certificate else 'http'}://{host}:{self.port}"
        prepared = seed if isinstance(seed, Seed) else from_data(seed)
        clock = Clock(timedelta(seconds=clock_ahead))
        self.app = create_app(self.flavour, prepared, folder, self.base_url, clock)
        self._server = uvicorn.Server(config_for(self.app, certificate))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"forge-{self.port}", daemon=True)

    @property
    def api_url(self) -> str:
        """Base of the REST API: `/api/v3` (GitHub) or `/api/v4` (GitLab)."""
        return f"{self.base_url}/api/{'v3' if self.flavour is Flavour.GITHUB else 'v4'}"

    @property
    def sandbox(self) -> Sandbox:
        """The state; read it through `run` where the server may be changing it."""
        sandbox = self.app.state.sandbox
        assert isinstance(sandbox, Sandbox)
        return sandbox

    def start(self) -> Self:
        """Start serving; returns when the server answers.

        Raises:
            RuntimeError: it did not come up.
        """
        self._thread.start()
        if not self._up.wait(START_TIMEOUT):
            raise RuntimeError("the sandbox forge did not start")
        return self

    def stop(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(START_TIMEOUT)
        self._socket.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
            while not self._server.started and not serving.done():
                await asyncio.sleep(0.005)
            if self._server.started:
                self._up.set()
            await serving

        asyncio.run(main())

    def run(self, work: Callable[[], T]) -> T:
        """Do something on the server's own loop, between requests."""
        assert self._loop is not None, "start the server first"

        async def on_loop() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(START_TIMEOUT)

    def wait_for(self, condition: Callable[[], bool], seconds: float = START_TIMEOUT) -> None:
        """Return as soon as a condition of the state holds; it is asked on the server's loop.

        Raises:
            TimeoutError: it did not come to hold.
        """
        assert self._loop is not None, "start the server first"

        async def until() -> None:
            async with asyncio.timeout(seconds):
                while not condition():
                    await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(until(), self._loop).result()

    def set_clock(self, ahead: float) -> None:
        """Set the forge's clock so many seconds ahead of this machine's; negative: behind."""
        self.run(lambda: setattr(self.sandbox.clock, "ahead", timedelta(seconds=ahead)))

    def set_deliveries(self, **fields: Any) -> None:
        """Say how webhooks are delivered from now on; fields as in `DeliverySettings`."""
        settings = DeliverySettings(**fields)
        self.run(lambda: setattr(self.sandbox.deliveries, "settings", settings))

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Wait at the end of the block until the webhooks about what happens in it are answered.

        A test that waits for what follows fails at once instead of at the end of its patience.

        Raises:
            DeliveryError: an answer was not 2xx.
        """
        deliveries = self.sandbox.deliveries
        before = self.run(lambda: len(deliveries.log))
        yield
        self._await(deliveries.accepted(before), deliveries.settings.timeout_seconds + START_TIMEOUT)

    def set_history(self, **fields: Any) -> None:
        """Set how far the lists of items' events are behind from now on; fields as in `HistorySettings`."""
        settings = HistorySettings(**fields)
        self.run(lambda: setattr(self.sandbox.history, "settings", settings))

    def fault(self, **fields: Any) -> Fault:
        """Plant a fault, fields as in `Fault`; it is live: read its `hits`, and call its `end`."""
        fault = Fault(**fields)
        self.run(lambda: self.sandbox.faults.append(fault))
        return fault

    @contextmanager
    def down(self, status: int = 503) -> Iterator[Fault]:
        """The forge answers every request with this status while the block runs."""
        fault = self.fault(path=".*", status=status, times=None)
        try:
            yield fault
        finally:
            fault.end()

    def events(self, after: int = 0) -> list[ForgeEvent]:
        """What people and programs did, oldest first; with `after`, only what is newer than that event."""
        return self.run(lambda: self.sandbox.store.log.after(after))

    def repository(self, full_name: str) -> Repository:
        """A repository of the seed.

        Raises:
            KeyError: there is none of that name.
        """
        repository = self.sandbox.store.repository(full_name)
        if repository is None:
            raise KeyError(full_name)
        return repository

    def rename(self, full_name: str, new_name: str) -> None:
        """Rename a repository, or give it to another owner; its old name leads to it."""
        repository = self.repository(full_name)
        self.run(lambda: self.sandbox.store.rename(repository, new_name))

    def rename_branch(self, full_name: str, name: str, new_name: str) -> None:
        """Rename a branch: the default branch and open changes follow, as forges do it."""
        repository = self.repository(full_name)

        def renamed() -> None:
            git.rename_branch(repository.path, name, new_name)
            if repository.default_branch == name:
                repository.default_branch = new_name
            for item in repository.items:
                if item.kind is Kind.CHANGE and item.open and item.base == name:
                    item.base = new_name

        self.run(renamed)

    def user(self, login: str | None = None) -> User:
        """A user of the seed; the pages' person unless named."""
        user = self.sandbox.person if login is None else self.sandbox.store.user(login)
        if user is None:
            raise KeyError(login)
        return user

    def item(self, full_name: str, number: int, kind: Kind | str = Kind.ISSUE) -> Item:
        """An item, live."""
        item = self.repository(full_name).item(number, Kind(kind))
        if item is None:
            raise KeyError((full_name, number))
        return item

    def labels(self, full_name: str, number: int, kind: Kind | str = Kind.ISSUE) -> set[str]:
        """Names of the labels on an item."""
        return self.run(lambda: {label.name for label in self.item(full_name, number, kind).labels})

    def changes(self, full_name: str) -> list[Item]:
        """The pull or merge requests of a repository, oldest first, live."""
        return [item for item in self.repository(full_name).items if item.kind is Kind.CHANGE]

    def pushed_branches(self, full_name: str) -> list[str]:
        """The branches to which somebody has pushed over HTTP, the newest push last."""
        return [push.branch for push in self.repository(full_name).pushes]

    def threads(self, full_name: str, number: int) -> list[Thread]:
        """The threads of a change, oldest first, live."""
        item = self.item(full_name, number, Kind.CHANGE)
        return self.run(lambda: list(self.sandbox.reviews.threads(item)))

    def checks(self, full_name: str, sha: str) -> list[Check]:
        """The newest check of each name of a commit, live."""
        repository = self.repository(full_name)
        return self.run(lambda: self.sandbox.reviews.checks(repository, sha, latest=True))

    def add_label(
        self, full_name: str, number: int, label: str, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None:
        """Put a label on as a person does."""
        store, repository = self.sandbox.store, self.repository(full_name)
        item = self.item(full_name, number, kind)
        self.run(lambda: store.update(repository, item, self.user(by), add=[label]))

    def remove_label(
        self, full_name: str, number: int, label: str, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None:
        """Take a label off as a person does."""
        store, repository = self.sandbox.store, self.repository(full_name)
        item = self.item(full_name, number, kind)
        self.run(lambda: store.update(repository, item, self.user(by), remove=[label]))

    def close(
        self, full_name: str, number: int, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None:
        """Close an item as a person does."""
        store, repository = self.sandbox.store, self.repository(full_name)
        item = self.item(full_name, number, kind)
        self.run(lambda: store.update(repository, item, self.user(by), opened=False))

    def reopen(
        self, full_name: str, number: int, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> None:
        """Open a closed item again as a person does."""
        store, repository = self.sandbox.store, self.repository(full_name)
        item = self.item(full_name, number, kind)
        self.run(lambda: store.update(repository, item, self.user(by), opened=True))

    def delete_label(self, full_name: str, label: str, *, by: str | None = None) -> None:
        """Delete a label from the repository, and with it from every item."""
        store, repository = self.sandbox.store, self.repository(full_name)
        found = store.label(repository, label)
        if found is None:
            raise KeyError(label)
        self.run(lambda: store.delete_label(repository, found, self.user(by)))

    def open_issue(
        self,
        full_name: str,
        title: str,
        body: str = "",
        *,
        by: str | None = None,
        labels: Sequence[str] = (),
        confidential: bool = False,
    ) -> int:
        """Open an issue; its number. Labels are applied as by an issue form, whoever the author is."""
        store, repository = self.sandbox.store, self.repository(full_name)
        return self.run(
            lambda: (
                store.open_item(
                    repository,
                    self.user(by),
                    title=title,
                    body=body,
                    labels=list(labels),
                    confidential=confidential,
                ).number
            )
        )

    def comment(
        self, full_name: str, number: int, text: str, *, kind: Kind | str = Kind.ISSUE, by: str | None = None
    ) -> int:
        """Write a comment; its id."""
        store, repository = self.sandbox.store, self.repository(full_name)
        item = self.item(full_name, number, kind)
        return self.run(lambda: store.comment(repository, item, self.user(by), text).id)

    def edit(
        self,
        full_name: str,
        number: int,
        *,
        title: str | None = None,
        body: str | None = None,
        kind: Kind | str = Kind.ISSUE,
        by: str | None = None,
    ) -> None:
        """Edit title and text of an item as a person does."""
        store, repository = self.sandbox.store, self.repository(full_name)
        item = self.item(full_name, number, kind)
        self.run(lambda: store.update(repository, item, self.user(by), title=title, body=body))

    def edit_comment(
        self,
        full_name: str,
        number: int,
        comment: int,
        text: str,
        *,
        kind: Kind | str = Kind.ISSUE,
        by: str | None = None,
    ) -> None:
        """Edit a comment as a person does."""
        store, repository = self.sandbox.store, self.repository(full_name)
        item = self.item(full_name, number, kind)
        found = next(one for one in item.comments if one.id == comment)
        self.run(lambda: store.edit_comment(repository, item, self.user(by), found, text))

    def protect(self, full_name: str, *patterns: str) -> None:
        """Protect branches of a repository: names, or patterns with `*`."""
        repository = self.repository(full_name)
        self.run(lambda: repository.protected.update(patterns))

    def fork(
        self, full_name: str, owner: str, *, private: bool = False, roles: Mapping[str, Role] | None = None
    ) -> Repository:
        """Fork a repository as its new owner does; only people with a role see a private fork."""
        store, origin = self.sandbox.store, self.repository(full_name)
        path = origin.path.parent.parent / owner / origin.path.name
        git.fork(origin.path, path)
        fork = Repository(
            id=self.run(store.next_id),
            owner=owner,
            name=origin.name,
            path=path,
            created_at=store.now(),
            private=private,
            default_branch=origin.default_branch,
            roles={owner: Role.ADMIN, **(roles or {})},
            fork_of=origin,
        )
        self.run(lambda: store.repositories.append(fork))
        return fork

    def delete(self, full_name: str) -> None:
        """Delete a repository."""
        repository = self.repository(full_name)
        self.run(lambda: self.sandbox.store.delete(repository))

    def open_change(
        self,
        full_name: str,
        head: str,
        base: str,
        *,
        source: Repository | None = None,
        title: str = "A change",
        draft: bool = False,
        by: str | None = None,
    ) -> int:
        """Open a pull or merge request; `source` is the fork that holds its branch. Its number."""
        repository, store = self.repository(full_name), self.sandbox.store
        tips = git.tips(repository.path, base, head, source.path if source else None)
        return self.run(
            lambda: (
                store.open_change(
                    repository,
                    self.user(by),
                    title=f"Draft: {title}" if draft and store.flavour is Flavour.GITLAB else title,
                    body="",
                    head=head,
                    base=base,
                    tips=tips,
                    draft=draft,
                    source=source,
                ).number
            )
        )

    def push(self, full_name: str, branch: str, files: Mapping[str, str], *, by: str | None = None) -> str:
        """Push a commit that writes these files to a branch, as a person does; the commit.

        Raises:
            subprocess.CalledProcessError: somebody else has moved the branch meanwhile.
        """
        repository = self.repository(full_name)
        before = git.branch_sha(repository.path, branch) or "0" * 40
        user = self.user(by)
        author = user.name or user.login, f"{user.id}+{user.login}@users.noreply.github.com"
        after = git.commit_files(repository.path, branch, files, f"Push to {branch}", author)
        self._pushed(repository, branch, before, after, by)
        return after

    def update_branch(self, full_name: str, number: int, *, by: str | None = None) -> str:
        """Merge the base into a change's branch, as a person does; the branch's new commit.

        Raises:
            HttpError: 409 when they conflict.
        """
        repository, item = self.repository(full_name), self.item(full_name, number, Kind.CHANGE)
        source, base = item.source or repository, git.branch_sha(repository.path, item.base)
        assert base is not None
        after = git.merge(source.path, item.head, base, f"Merge branch '{item.base}' into {item.head}")
        self._pushed(source, item.head, item.tips.head_sha, after, by)
        return after

    def merge(self, full_name: str, number: int, *, by: str | None = None) -> str:
        """Merge an open change into its base, as a person does; the base's new commit.

        Raises:
            HttpError: 405 if it is not open or its branch is gone, 409 when they conflict.
            subprocess.CalledProcessError: somebody else has moved the base meanwhile.
        """
        repository, item = self.repository(full_name), self.item(full_name, number, Kind.CHANGE)
        return self._await(self.sandbox.merge(repository, item, self.user(by)))

    def _pushed(self, repository: Repository, branch: str, before: str, after: str, by: str | None) -> None:
        self._await(self.sandbox.push(repository, self.user(by), branch, before, after))

    def _await(self, work: Coroutine[Any, Any, T], seconds: float = START_TIMEOUT) -> T:
        assert self._loop is not None, "start the server first"
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def set_draft(self, full_name: str, number: int, *, draft: bool, by: str | None = None) -> None:
        """Make a change a draft, or ready for review."""
        repository, item = self.repository(full_name), self.item(full_name, number, Kind.CHANGE)
        self.run(lambda: self.sandbox.store.set_draft(repository, item, self.user(by), draft=draft))

    def request_review(self, full_name: str, number: int, reviewer: str, *, by: str | None = None) -> None:
        """Ask somebody for a review of a change, or for another one."""
        item = self.item(full_name, number, Kind.CHANGE)
        self.run(lambda: self.sandbox.reviews.request_review(item, self.user(by), self.user(reviewer)))

    def review(
        self, full_name: str, number: int, state: str, text: str = "", *, by: str | None = None
    ) -> None:
        """Submit a review of a change; `state` as GitHub calls it."""
        item = self.item(full_name, number, Kind.CHANGE)
        self.run(lambda: self.sandbox.reviews.review(item, self.user(by), state, text))

    def start_thread(
        self, full_name: str, number: int, text: str, *, by: str | None = None, **where: Any
    ) -> Thread:
        """Comment on lines of a change; `where` as `Reviews.start_thread` takes it. The thread, live."""
        item = self.item(full_name, number, Kind.CHANGE)
        return self.run(lambda: self.sandbox.reviews.start_thread(item, self.user(by), text, **where))

    def reply(self, thread: Thread, text: str, *, by: str | None = None) -> int:
        """Answer in a thread; the comment's id."""
        return self.run(lambda: self.sandbox.reviews.reply(thread, self.user(by), text).id)

    def resolve(self, thread: Thread, *, by: str | None = None) -> None:
        """Resolve a thread as a person does."""
        self.run(lambda: self.sandbox.reviews.resolve(thread, self.user(by)))

    def add_check(self, full_name: str, sha: str, name: str, result: str = "", **more: Any) -> Check:
        """Let a check begin or end; `more` as `Reviews.add_check` takes it. The check, live."""
        repository = self.repository(full_name)
        return self.run(lambda: self.sandbox.reviews.add_check(repository, sha, name, result, **more))

    def rerun(self, full_name: str, check: Check, *, by: str | None = None) -> Check:
        """Let a job run again as a person does; the new one, live."""
        repository = self.repository(full_name)
        return self.run(lambda: self.sandbox.reviews.rerun(repository, check, self.user(by)))

    def add_hook(
        self, full_name: str | None, url: str, secret: str = "", events: tuple[str, ...] = ("*",)
    ) -> int:
        """Set a webhook up (without a ping); its id."""
        store = self.sandbox.store
        repository = None if full_name is None else self.repository(full_name)
        return self.run(lambda: store.add_hook(repository, url, secret, events).id)
