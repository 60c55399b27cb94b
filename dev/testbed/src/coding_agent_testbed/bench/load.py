"""Sends prepared HTTP requests with vegeta, the same program for everything that is compared."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.cluster import build

_ANSWER_SECONDS = 30
_OK = frozenset({200})
_NO_MORE = "no targets to attack"
"""vegeta's error of the request after the last one."""


@dataclass(frozen=True)
class Request:
    """One POST request."""

    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Load:
    """What a load has shown.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds from each request to its answer, of those with the expected status.
        others: how many were answered otherwise, or not at all.
    """

    seconds: float
    latencies: list[float]
    others: int


class Loads:
    """vegeta, with a folder for its files.

    Args:
        authority: certificate of the authority that HTTPS servers are known by.
    """

    def __init__(self, folder: Path, authority: Path | None = None) -> None:
        self._folder = folder
        self._vegeta = build.binaries(["vegeta"])["vegeta"]
        self._authority = [f"-root-certs={authority}"] if authority else []

    async def at_once(
        self,
        requests: Sequence[Request],
        most: int,
        *,
        statuses: frozenset[int] = _OK,
        seconds: float = 60.0,
    ) -> Load:
        """Send all of them, so many at a time; after `seconds` no further ones.

        Raises:
            BenchError: one is answered otherwise, or not in time.
        """
        pace = ["-rate=0", f"-max-workers={most}", f"-workers={most}", f"-duration={seconds}s"]
        load = await self._send(requests, ["-lazy", *pace], statuses)
        if load.others or not load.latencies:
            expected = " or ".join(map(str, sorted(statuses)))
            raise BenchError(f"{load.others} of {len(requests)} requests were not answered {expected}")
        return load

    async def steadily(
        self, requests: Sequence[Request], rate: int, *, statuses: frozenset[int] = _OK
    ) -> Load:
        """Send all of them, so many a second, however slow the answers are."""
        pace = ["-lazy", f"-rate={rate}", f"-duration={len(requests) / rate}s"]
        return await self._send(requests, pace, statuses)

    async def repeatedly(self, request: Request, most: int, seconds: float) -> Load:
        """Send the same one again and again, so many at a time."""
        pace = ["-rate=0", f"-max-workers={most}", f"-workers={most}", f"-duration={seconds}s"]
        return await self._send([request], pace, _OK)

    async def _send(self, requests: Sequence[Request], pace: list[str], statuses: frozenset[int]) -> Load:
        name = uuid.uuid4().hex
        targets, results = self._folder / f"{name}.targets", self._folder / f"{name}.results"
        await asyncio.to_thread(targets.write_text, "".join(map(_target, requests)), encoding="utf-8")
        common = ["-format=json", f"-targets={targets}", f"-timeout={_ANSWER_SECONDS}s", "-max-body=512"]
        try:
            await self._run("attack", *common, *self._authority, *pace, f"-output={results}")
            hits = [json.loads(line) for line in (await self._run("encode", str(results))).splitlines()]
        finally:
            targets.unlink()
            results.unlink(missing_ok=True)
        return _load([hit for hit in hits if hit["error"] != _NO_MORE], statuses)

    async def _run(self, *arguments: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            self._vegeta, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise BenchError(f"vegeta: {errors.decode(errors='replace').strip()[:500]}")
        return output


def _target(request: Request) -> str:
    target = {
        "method": "POST",
        "url": request.url,
        "header": {name: [value] for name, value in request.headers.items()},
        "body": base64.b64encode(request.body).decode(),
    }
    return json.dumps(target) + "\n"


def _load(hits: list[dict[str, Any]], statuses: frozenset[int]) -> Load:
    if not hits:
        return Load(0.0, [], 0)
    spans = [(_seconds(hit["timestamp"]), hit["latency"] / 1e9) for hit in hits]
    first, last = min(start for start, _ in spans), max(start + latency for start, latency in spans)
    latencies = [hit["latency"] / 1e9 for hit in hits if hit["code"] in statuses]
    return Load(last - first, latencies, len(hits) - len(latencies))


def _seconds(timestamp: str) -> float:
    """Seconds since the epoch of a time in RFC 3339; of its nanoseconds only the microseconds count."""
    return datetime.fromisoformat(timestamp).timestamp()
