"""Signed webhooks at a steady rate, each for an item of its own, and what became of them."""

import base64
import json
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coding_agent_testbed.cluster import build
from coding_agent_testbed.until import until

from tests.chart.edge import HOST, Edge
from tests.fixtures.deliveries import encode, github_headers, github_issue, sign

_TIMEOUT_S = 20


@dataclass(frozen=True)
class Hit:
    """One request's answer.

    Attributes:
        error: what went wrong below HTTP, else empty.
    """

    status: int
    answer: dict[str, Any]
    error: str


@dataclass
class Load:
    """A load that runs, and what was answered once it has ended."""

    attacker: subprocess.Popen[bytes]
    encoder: subprocess.Popen[bytes]
    results: Path
    hits: list[Hit] = field(default_factory=list)

    def wait_for(self, count: int) -> None:
        goal = self._answered() + count
        until(
            f"{count} more answers",
            lambda: self._answered() >= goal,
            timeout=120,
            interval=0.2,
            alive=self.check,
        )

    def check(self) -> None:
        """Raise what vegeta said, if it ended by itself."""
        if self.attacker.poll() is not None:
            log = self.results.with_name("vegeta.log").read_text()
            raise RuntimeError(f"the load ended by itself: vegeta {self.attacker.returncode}\n{log[:500]}")

    def stop(self) -> list[Hit]:
        """End it; requests in flight get their answers."""
        if self.attacker.poll() is None:
            self.attacker.send_signal(signal.SIGINT)
        self.attacker.wait(2 * _TIMEOUT_S)
        self.encoder.wait(_TIMEOUT_S)
        self.hits = [_hit(json.loads(line)) for line in self.results.read_text().splitlines()]
        return self.hits

    def _answered(self) -> int:
        return self.results.read_bytes().count(b"\n")


@contextmanager
def webhooks(
    edge: Edge, secret: str, folder: Path, *, rate: int, most: int, items: int | None = None
) -> Iterator[Load]:
    """Send `rate` webhooks a second until the block ends, `most` at most.

    Args:
        items: how many different issues they are for; each its own by default.
    """
    targets = folder / "targets.json"
    # vegeta reads whole lines alone: one without an end is not a target.
    lines = (_target(number, secret) + "\n" for number in range(1, (items or most) + 1))
    targets.write_text("".join(lines))
    results = folder / "results.json"
    vegeta = str(build.binaries(["vegeta"])["vegeta"])
    attack = [
        *(vegeta, "attack", "-format=json", f"-targets={targets}", f"-rate={rate}"),
        *(f"-duration={most // rate}s", f"-timeout={_TIMEOUT_S}s", "-max-body=4096"),
        *(f"-root-certs={edge.certificate}", f"-connect-to={HOST}:443:{edge.address}:443"),
    ]
    with results.open("wb") as out, (folder / "vegeta.log").open("wb") as log:
        attacker = subprocess.Popen(attack, stdout=subprocess.PIPE, stderr=log)
        encoder = subprocess.Popen(
            [vegeta, "encode", "-to=json"], stdin=attacker.stdout, stdout=out, stderr=log
        )
        load = Load(attacker, encoder, results)
        try:
            yield load
        finally:
            load.stop()


def _target(number: int, secret: str) -> str:
    url = f"https://github.com/octo-org/octo-repo/issues/{number}"
    body = encode(github_issue(number=number, html_url=url))
    headers = github_headers(body, delivery=str(uuid.uuid4())) | {"X-Hub-Signature-256": sign(body, secret)}
    return json.dumps(
        {
            "method": "POST",
            "url": f"https://{HOST}/webhook/github",
            "header": {name: [value] for name, value in headers.items()},
            "body": base64.b64encode(body).decode(),
        }
    )


def _hit(result: dict[str, Any]) -> Hit:
    body = base64.b64decode(result["body"] or "")
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {"text": body.decode(errors="replace")}
    return Hit(result["code"], answer, result["error"])
