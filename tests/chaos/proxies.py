"""What stands between two parts and passes on what they say, late, again, or not at all.

`DeliveryProxy` stands between the forge and the receivers, and records each delivery. `TcpProxy` stands
between any two parts that speak TCP.
"""

from __future__ import annotations

import contextlib
import json
import operator
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import httpx2

from tests.chaos.world import Effect, Undo

_ANSWER_SECONDS = 10.0
"""As long as GitHub waits for a receiver."""
_IDS = (
    "x-github-delivery",
    "x-gitea-delivery",
    "x-gitlab-event-uuid",
    "x-gitlab-webhook-uuid",
    "idempotency-key",
)
_NOT_FORWARDED = {"host", "content-length", "connection", "accept-encoding", "transfer-encoding"}


@dataclass(frozen=True)
class Treatment:
    """What happens to deliveries.

    Attributes:
        dropped: share that the receiver never gets.
        doubled: share that it gets a second time, at once, with other ids.
        late: share that it gets only after `seconds`; the forge is told at once that nobody answered.
        again: share that it gets once more, with the same ids, after `seconds`.
        slow: share that it gets after `seconds`, while the forge waits for the answer.
        seconds: least and most.
    """

    dropped: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    again: float = 0.0
    slow: float = 0.0
    seconds: tuple[float, float] = (0.0, 0.0)


@dataclass(eq=False)
class _Treated:
    """A treatment while it lasts; `count` is of the deliveries that it has changed."""

    treatment: Treatment
    random: Random
    count: int = 0


@dataclass(frozen=True)
class _Request:
    path: str
    headers: Mapping[str, str]
    body: bytes

    def with_other_ids(self) -> _Request:
        headers = {
            name: str(uuid.uuid4()) if name.lower() in _IDS else value for name, value in self.headers.items()
        }
        return _Request(self.path, headers, self.body)


class DeliveryProxy:
    """Forwards webhooks; an HTTP server on loopback for a `with` block.

    Args:
        target: base URL of the receivers.
        host: the forge's, as tasks name it.
        bot: the login of the system's account.
    """

    def __init__(self, target: str, host: str, bot: str) -> None:
        self.records: list[dict[str, Any]] = []
        self._bot = bot
        self._target = target
        self._host = host
        self._treatments: list[_Treated] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._under_way = 0
        self._refused: list[_Request] = []
        self.failed = 0
        """Deliveries that no receiver accepted: the forge would show them as failed."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_FORWARDED}
                status, content = proxy._treat(_Request(self.path, headers, body))
                with contextlib.suppress(OSError):  # the forge does not wait forever
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 512
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """What the forge's webhooks point to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def idle(self) -> bool:
        """Whether no delivery is under way or waits for its time."""
        with self._lock:
            return self._under_way == 0

    def __enter__(self) -> DeliveryProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

    def aim(self, target: str) -> None:
        """Forward to this base URL from now on."""
        self._target = target

    def treat(self, treatment: Treatment, random: Random) -> Undo:
        """Treat every delivery so, until the returned function is called."""
        entry = _Treated(treatment, random)
        with self._lock:
            self._treatments.append(entry)

        def undo() -> Effect:
            with self._lock:
                self._treatments.remove(entry)
            return Effect(entry.count, "deliveries")

        return undo

    def count_unsent(self) -> None:
        """Count a delivery as failed that the forge may never have sent."""
        with self._lock:
            self.failed += 1

    def resend_comments(self) -> None:
        """Send the comments again that no receiver accepted, as a person does with the forge's button."""
        with self._lock:
            refused, self._refused = self._refused, []
        for request in refused:
            if any(event["event"] == "commented" for event in events_of(json.loads(request.body), self._bot)):
                self._later(request, 0.0)

    def _treat(self, request: _Request) -> tuple[int, bytes]:
        with self._lock:
            drawn = [
                (
                    entry,
                    [entry.random.random() for _ in range(5)],
                    entry.random.uniform(*entry.treatment.seconds),
                )
                for entry in self._treatments
            ]
        seconds = held = 0.0
        answered = True
        for entry, (drop, double, late, again, slow), wait in drawn:
            treatment = entry.treatment
            shares = treatment.dropped, treatment.doubled, treatment.late, treatment.again, treatment.slow
            with self._lock:
                entry.count += any(map(operator.lt, (drop, double, late, again, slow), shares))
            if drop < treatment.dropped:
                self._record(request, 0)
                return 502, b"dropped"
            if double < treatment.doubled:
                self._later(request.with_other_ids(), 0.0)
            if again < treatment.again:
                self._later(request, wait)
            if late < treatment.late:
                seconds, answered = max(seconds, wait), False
            if slow < treatment.slow:
                held = max(held, wait)
        if not answered:
            self._later(request, seconds)
            return 502, b"delivered later"
        self._ending.wait(held)
        return self._forward(request)

    def _later(self, request: _Request, seconds: float) -> None:
        with self._lock:
            self._under_way += 1

        def send() -> None:
            try:
                if not self._ending.wait(seconds):
                    self._forward(request)
            finally:
                with self._lock:
                    self._under_way -= 1

        threading.Thread(target=send, daemon=True).start()

    def _forward(self, request: _Request) -> tuple[int, bytes]:
        url = f"{self._target}{request.path}"
        headers = dict(request.headers)
        try:
            # A connection of its own each time, so that every receiver behind the address gets some.
            answer = httpx2.post(
                url, content=request.body, headers=headers, timeout=_ANSWER_SECONDS, trust_env=False
            )
        except httpx2.HTTPError as error:
            self._record(request, 0)
            return 502, repr(error).encode()
        self._record(request, answer.status_code)
        return answer.status_code, answer.content

    def _record(self, request: _Request, status: int) -> None:
        at = datetime.now(UTC).isoformat()
        if status == 0 or status >= 500:
            with self._lock:
                self.failed += 1
                self._refused.append(request)
        for event in events_of(json.loads(request.body), self._bot):
            record = {"record": "delivery", "at": at, "host": self._host, **event, "status": status}
            self.records.append(record)


def events_of(payload: Mapping[str, Any], bot: str) -> Iterator[dict[str, Any]]:
    """What a webhook is about: one entry for each label that it says was put on or off.

    Gitea's does not say that. It counts as if each label that it shows was put on, unless the bot sent it.
    Each entry has the fields `repository`, `kind`, `number`, `event` and `label` of a delivery's record.
    """
    if "object_kind" in payload:
        yield from _of_gitlab(payload)
        return
    for event in _of_github(payload):
        shown = payload.get("pull_request") or payload.get("issue") or {}
        if event["event"] != "label_updated" or payload["sender"]["login"] == bot:
            yield event
            continue
        for label in shown.get("labels") or ():
            yield {**event, "event": "labeled", "label": label["name"]}


def _of_github(payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    item = payload.get("pull_request") or payload.get("issue")
    if item is None:
        return
    change = "pull_request" in payload or item.get("pull_request") is not None  # null in Gitea's issues
    event = "commented" if "comment" in payload else payload["action"]
    yield {
        "repository": payload["repository"]["full_name"],
        "kind": "change" if change else "issue",
        "number": item["number"],
        "event": event,
        "label": payload.get("label", {}).get("name", ""),
    }


def _of_gitlab(payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    about = payload.get("issue") or payload.get("merge_request") or payload["object_attributes"]
    change = "merge_request" in (payload["object_kind"], *payload)
    common = {
        "repository": payload["project"]["path_with_namespace"],
        "kind": "change" if change else "issue",
        "number": about["iid"],
    }
    attributes = payload["object_attributes"]
    event = "commented" if payload["object_kind"] == "note" else attributes.get("action") or "update"
    labels = payload.get("changes", {}).get("labels", {})
    before, after = ({one["title"] for one in labels.get(side) or ()} for side in ("previous", "current"))
    if event == "open":
        after = after or {one["title"] for one in payload.get("labels", ())}
    for label in sorted(after - before):
        yield {**common, "event": "labeled", "label": label}
    for label in sorted(before - after):
        yield {**common, "event": "unlabeled", "label": label}
    if before == after:
        yield {**common, "event": event, "label": ""}


class TcpProxy:
    """Forwards connections, unless it is cut: then it accepts none and passes nothing on.

    A cut connection stays open and silent, as when packets are lost; `reset` closes all.

    Args:
        target: where connections go; `aim` may say it later.
        host: address on which it listens.
    """

    def __init__(self, target: tuple[str, int] = ("127.0.0.1", 9), host: str = "127.0.0.1") -> None:
        self._target = target
        self._listener = socket.create_server((host, 0), backlog=512)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._ending = threading.Event()
        self._delays: list[_Delay] = []
        self._held = 0
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def aim(self, target: tuple[str, int]) -> None:
        """Forward new connections to this host and port from now on."""
        self._target = target

    def cut(self) -> Undo:
        """Pass nothing on, until the returned function is called; then everything that waited as well."""
        held = self._held
        self._open.clear()

        def heal() -> Effect:
            count = self._held - held
            self._open.set()
            return Effect(count, "connections or pieces of data held back")

        return heal

    def delay(self, seconds: float, sources: frozenset[str] = frozenset()) -> Undo:
        """Pass each piece of data on this much later, until the returned function is called.

        Args:
            sources: addresses of those whose connections it affects; empty: all.
        """
        delay = _Delay(seconds, sources)
        with self._lock:
            self._delays.append(delay)

        def undo() -> Effect:
            with self._lock:
                self._delays.remove(delay)
            return Effect(delay.count, f"pieces of data passed on {seconds:.1f} s later")

        return undo

    def reset(self) -> Effect:
        """Close every connection."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        return Effect(len(sockets) // 2, "connections closed")

    def close(self) -> None:
        """End it."""
        self._ending.set()
        self._open.set()
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                near, (source, _) = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                continue
            try:
                self._hold()
                far = socket.create_connection(self._target, timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for one in (near, far):  # without it, small pieces would wait for each other
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {near, far}
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(*ends, source), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, client: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if seconds := self._delay_of(client):
                    self._ending.wait(seconds)
                self._hold()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._sockets.discard(one)
            one.close()

    def _hold(self) -> None:
        """Wait until it is not cut."""
        if not self._open.is_set():
            with self._lock:
                self._held += 1
            self._open.wait()

    def _delay_of(self, client: str) -> float:
        """Seconds; those of all delays that are for this client."""
        with self._lock:
            mine = [delay for delay in self._delays if not delay.sources or client in delay.sources]
            for delay in mine:
                delay.count += 1
            return sum(delay.seconds for delay in mine)


@dataclass
class _Delay:
    seconds: float
    sources: frozenset[str]
    count: int = 0
