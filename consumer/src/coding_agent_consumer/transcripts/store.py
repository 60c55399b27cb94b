"""One attempt's transcript: written while the agent works, and kept after the attempt.

The agent always appends to a local file: in a scratch folder, or on a mounted volume. If a bucket is
configured, the file is uploaded there while the attempt runs, so that a killed agent leaves what it had, and
once more at the end. If the bucket is down, an attempt loses only its record.

The library for buckets takes 15 MB of memory, so it is imported only where a bucket is configured.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from coding_agent_core.errors import StoreError
from coding_agent_core.platforms.text import last_lines
from coding_agent_core.runtime.retry import Deadline
from coding_agent_core.settings.connections import BUCKET_TOKEN, S3, ContextStorage
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.attempts import MAX_TAIL, Outcome, folder_of, transcript_key
from coding_agent_core.task.model import Item

from coding_agent_consumer.transcripts.transcript import LastLines, recap

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, S3Config

_logger = logging.getLogger("coding_agent.transcript")

_T = TypeVar("_T")
_CHUNK = 1000
"""The most objects in one answer of a bucket's listing, which is S3's own maximum."""
_FETCH_TIMEOUT = 15.0
"""Seconds that reading earlier transcripts from the bucket may take before the work."""
_FETCH_SIZE = 512 * 1024
"""The most bytes at the end of an earlier transcript that are read for its recap."""
_EARLIER = 3
"""The recap covers this many earlier attempts, the newest ones."""
_GIVE_UP = 5
"""After this many failed uploads in a row, the attempt does not try again until its end."""
UPLOAD_S = 15.0
"""Seconds between two uploads of a running attempt's transcript. Each one sends the whole file again."""
_LAST_TRIES = 3
"""Tries of the last upload, for which the time of the attempt's end is the limit too."""
_REQUEST_S = 30.0
"""Seconds for one request. A large transcript is sent in parts of 5 MB, one request for each, so 1.5
Mbit/s are enough."""
_PAUSE = 1.0
"""Seconds between two tries of the last upload."""
_TAIL = 1500
"""The most characters of the last steps. Together with a summary, they fit into a termination message."""


@dataclass
class Transcripts:
    """The transcript of an attempt, and those of earlier attempts of its task.

    Attributes:
        base: the folder of the local files.
        sleep: waits the given seconds between two uploads.
        lines: receives the last steps, which are shown even if no transcript is kept.
    """

    storage: ContextStorage
    base: Path
    item: Item
    run: int
    uuid: str
    attempt: int
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    lines: LastLines = field(default_factory=lambda: LastLines(_TAIL), init=False)
    _keeping: asyncio.Task[None] | None = field(default=None, init=False)
    _uploaded: int = field(default=-1, init=False)
    _putting: asyncio.Future[None] | None = field(default=None, init=False)
    _problem: str = field(default="", init=False)

    @property
    def key(self) -> str:
        return transcript_key(self.item, self.run, self.uuid, self.attempt)

    @property
    def path(self) -> Path | None:
        """The file to which the agent appends; `None` if no transcripts are kept."""
        return self.base / self.key if self.storage.enabled else None

    async def begin(self) -> str:
        """Prepare for the agent's first line.

        Returns:
            what earlier attempts did; empty if nothing is known.
        """
        path = self.path
        if path is None:
            return ""
        bucket = self._bucket(None)
        recaps = await asyncio.to_thread(self._local_recaps)
        if bucket is not None:
            try:
                async with asyncio.timeout(_FETCH_TIMEOUT):
                    await self._fetch(bucket, recaps)
            except (TimeoutError, StoreError) as error:
                _logger.warning("Earlier transcripts cannot be read: %s", error or "it took too long")
        # An earlier pod may have been killed in the middle of a line.
        await asyncio.to_thread(_end_the_line, path)
        self._keeping = asyncio.create_task(self._keep(path, bucket))
        newest = [recaps[number] for number in sorted(recaps)[-_EARLIER:]]
        return "\n\n".join(filter(None, newest))

    def so_far(self, outcome: Outcome) -> Outcome:
        """Return the outcome with the last steps, and with the location of what is stored already."""
        kept = self.path is not None and self.storage.s3 is None
        return self._located(outcome, self.lines.text(), kept=kept)

    async def end(self, outcome: Outcome, *, within: float = 20.0) -> Outcome:
        """Upload the whole transcript; add its location and the last steps to the outcome.

        Args:
            within: seconds that the last upload may take. Without any upload, the outcome has no location.
        """
        path = self.path
        if path is None:
            return outcome.model_copy(update={"tail": last_lines(self.lines.text(), _TAIL)})
        if self._keeping is not None:
            # The upload below takes the whole file, and two uploads of one object would race.
            self._keeping.cancel()
        kept = await self._last_upload(path, within)
        written = await asyncio.to_thread(recap, path, _TAIL)
        tail = last_lines(written or self.lines.text(), _TAIL)
        if not kept and self._problem:
            tail = last_lines(f"{tail}\n(The transcript is incomplete: {self._problem}.)", MAX_TAIL)
        return self._located(outcome, tail, kept=kept)

    def _located(self, outcome: Outcome, tail: str, *, kept: bool) -> Outcome:
        there = kept or self._uploaded >= 0
        return outcome.model_copy(
            update={
                "transcript": self.storage.place_of(self.key) if there else None,
                "transcript_url": self.storage.url_of(self.key) if there else None,
                "tail": tail,
            }
        )

    def _bucket(self, timeout: float | None) -> S3Bucket | None:
        if self.storage.s3 is None:
            return None
        try:
            return S3Bucket(self.storage.s3, timeout=timeout)
        except StoreError as error:
            self._failed(error)
            return None

    def _local_recaps(self) -> dict[int, str]:
        folder = self.base / folder_of(self.item, self.run, self.uuid)
        found = {attempt_of_key(path.name): path for path in folder.glob("attempt-*.jsonl")}
        return {
            number: recap(path)
            for number, path in found.items()
            if number is not None and number <= self.attempt
        }

    async def _fetch(self, bucket: S3Bucket, recaps: dict[int, str]) -> None:
        """Fetch earlier attempts' transcripts from the bucket, and that of an earlier pod of this attempt."""
        folder = folder_of(self.item, self.run, self.uuid)
        keys = {attempt_of_key(key): key for key in await bucket.keys(folder)}
        # The attempt's own number is among them: an earlier pod of this attempt may have been evicted.
        numbers = sorted(number for number in keys if number is not None and number <= self.attempt)
        for number in numbers[-_EARLIER:]:
            if recaps.get(number):
                continue
            own = number == self.attempt
            data = await bucket.get(keys[number], last=None if own else _FETCH_SIZE)
            if data is None:
                continue
            path = self.base / transcript_key(self.item, self.run, self.uuid, number)
            await asyncio.to_thread(write_private, path, data)
            recaps[number] = await asyncio.to_thread(recap, path)

    async def _keep(self, path: Path, bucket: S3Bucket | None) -> None:
        """Remove old transcripts once, and upload new lines from time to time."""
        await self._remove_old(bucket)
        failures = 0
        # After so many failures in a row, only the last upload is tried.
        while bucket is not None and failures < _GIVE_UP:
            await self.sleep(UPLOAD_S * 2**failures)
            try:
                await self._upload(path, bucket)
                failures = 0
            except (OSError, StoreError) as error:
                failures += 1
                self._failed(error)

    async def _upload(self, path: Path, bucket: S3Bucket) -> None:
        size = _size(path)
        if size is None or size == self._uploaded:
            return
        data = await asyncio.to_thread(path.read_bytes)
        # A request cannot be cancelled, and the next upload must not overtake this one.
        self._putting = asyncio.ensure_future(bucket.put(self.key, data))
        await asyncio.shield(self._putting)
        self._uploaded = len(data)
        self._problem = ""

    async def _last_upload(self, path: Path, within: float) -> bool:
        """Upload the rest of the transcript. Return whether it is complete where it is kept."""
        if self.storage.s3 is None:
            return _size(path) is not None
        deadline = Deadline.after(within)
        if self._putting is not None and not self._putting.done():
            await asyncio.wait({self._putting}, timeout=within)
            if self._putting.done():
                self._putting.exception()  # only the upload below matters now
        for _ in range(_LAST_TRIES):
            left = deadline.left
            bucket = self._bucket(left) if left > 0 else None
            if bucket is None:
                break
            try:
                await self._upload(path, bucket)
            except (OSError, StoreError) as error:
                self._failed(error)
                await self.sleep(min(_PAUSE, max(0.0, deadline.left)))
            else:
                return self._uploaded >= 0
        return False

    async def _remove_old(self, bucket: S3Bucket | None) -> None:
        days = self.storage.cleanup_days
        now = datetime.now(UTC)
        await asyncio.to_thread(cleanup, self.base, days, now=now)
        if bucket is None or days <= 0:
            return
        try:
            await bucket.remove_older(now - timedelta(days=days))
        except StoreError as error:
            _logger.warning("Cannot remove old transcripts (a lifecycle rule can do it): %s", error)

    def _failed(self, error: object) -> None:
        if not self._problem:
            _logger.warning("Cannot upload the transcript for now: %s", error)
        self._problem = str(error)


def _size(path: Path) -> int | None:
    """Return the size of a file, `None` if there is none."""
    return path.stat().st_size if path.exists() else None


def _end_the_line(path: Path) -> None:
    """End a line that a crash cut off, so that the next message starts a new line."""
    data = path.read_bytes()[-1:] if path.exists() else b"\n"
    if data not in (b"\n", b""):
        with path.open("ab") as file:
            file.write(b"\n")


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as opened:
        opened.write(data)


def cleanup(base_dir: Path, days: int, *, now: datetime) -> int:
    """Remove transcripts last written over `days` days ago (0: none) and empty folders; return how many."""
    if days <= 0 or not base_dir.is_dir():
        return 0
    oldest = now.timestamp() - days * 86_400
    removed: list[Path] = []
    for path in base_dir.rglob("*.jsonl"):
        try:
            if path.is_file() and not path.is_symlink() and path.stat().st_mtime < oldest:
                path.unlink()
                removed.append(path)
        except FileNotFoundError:
            continue  # another attempt on the same volume was faster
        except OSError as error:
            _logger.warning("Cannot remove the old transcript %s: %s", path, error.strerror)
    folders = {folder for path in removed for folder in path.parents if base_dir in folder.parents}
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):  # it is not empty
            folder.rmdir()
    return len(removed)


class S3Bucket:
    """An S3-compatible bucket. Keys are below its configured prefix; every method may raise `StoreError`.

    The library's own coroutines are not used: their threads outlive the event loop, and about one process in
    six ended with SIGABRT instead of its exit code (obstore 0.12.1). No process ended like that when the same
    calls were made from a thread. Requests are not retried here: the next upload is the next try.
    """

    def __init__(self, settings: S3, *, timeout: float | None = None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            timeout: seconds for one request, if less than `_REQUEST_S`.

        Raises:
            StoreError: the settings are invalid.
        """
        from obstore.exceptions import BaseError  # noqa: PLC0415 - see the module's docstring
        from obstore.store import S3Store  # noqa: PLC0415

        self._name = f"the bucket {settings.bucket}"
        limit = timedelta(seconds=min(_REQUEST_S, timeout or _REQUEST_S))
        client: ClientConfig = {"timeout": limit, "connect_timeout": limit}
        config: S3Config = {
            "region": settings.region,
            "virtual_hosted_style_request": not settings.path_style,
        }
        if (endpoint := settings.endpoint_url) is not None:
            # In this form, the setting overrides AWS_ENDPOINT_URL_S3 of the environment.
            config["aws_endpoint_url_s3"] = endpoint.rstrip("/")
            client["allow_http"] = endpoint.startswith("http://")
        key_id = Secrets(settings.access_key_id).first()
        secret = Secrets(settings.secret_access_key).first()
        if key_id is not None and secret is not None:
            config["access_key_id"] = key_id
            config["secret_access_key"] = secret
        if settings.identity is not None and settings.exchange is not None:
            if not BUCKET_TOKEN.is_file():
                raise StoreError(
                    f"{self._name} cannot be used: context_storage.s3.identity: "
                    f"{BUCKET_TOKEN} does not exist; mount a token of the pod's "
                    "ServiceAccount there"
                )
            # The store asks STS for credentials itself, and again before they expire.
            config["role_arn"] = settings.identity.role_arn
            config["role_session_name"] = "coding-agent"
            config["web_identity_token_file"] = str(BUCKET_TOKEN)
            # Its types have another name for this key, which the library itself (0.12.1) refuses.
            config["aws_endpoint_url_sts"] = settings.exchange  # type: ignore[typeddict-unknown-key]
        try:
            self._store = S3Store(
                settings.bucket,
                prefix=settings.prefix.strip("/") or None,
                config=config,
                client_options=client,
                retry_config={"max_retries": 0, "retry_timeout": limit},
            )
        except (BaseError, ValueError) as error:
            raise StoreError(f"{self._name} cannot be used: {type(error).__name__}") from None

    async def put(self, key: str, data: bytes) -> None:
        await self._call(lambda: self._store.put(key, data))

    async def get(self, key: str, *, last: int | None = None) -> bytes | None:
        """Return an object, or its `last` bytes; `None` if it does not exist."""

        def read() -> bytes | None:
            try:
                size = self._store.head(key)["size"]
                if last is None or size <= last:
                    return self._store.get(key).bytes().to_bytes()
                return self._store.get_range(key, start=size - last, end=size).to_bytes()
            except FileNotFoundError:
                return None

        return await self._call(read)

    async def keys(self, folder: str) -> list[str]:
        return await self._call(lambda: [str(entry["path"]) for entry in self._all(folder)])

    async def remove_older(self, moment: datetime) -> int:
        """Remove transcripts that were last written before this moment; return how many."""

        def remove() -> int:
            old = [
                str(entry["path"])
                for entry in self._all(None)
                if entry["last_modified"] < moment and str(entry["path"]).endswith(".jsonl")
            ]
            for start in range(0, len(old), _CHUNK):
                self._store.delete(old[start : start + _CHUNK])
            return len(old)

        return await self._call(remove)

    def _all(self, folder: str | None) -> Iterator[ObjectMeta]:
        for batch in self._store.list(folder, chunk_size=_CHUNK):
            yield from batch

    async def _call(self, action: Callable[[], _T]) -> _T:
        from obstore.exceptions import BaseError  # noqa: PLC0415

        try:
            return await asyncio.to_thread(action)
        except (BaseError, OSError, ValueError) as error:
            raise StoreError(f"{self._name} {_why(error)}") from None


def _why(error: Exception) -> str:
    """Return our own text for an error: the library's message quotes the answer, which may show a key id."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError  # noqa: PLC0415

    status = re.search(r"status code: (\d{3})", str(error))
    code = status.group(1) if status else ""
    # Errors of a listing have no classes of their own.
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or code in ("401", "403"):
        return "refuses our keys (context_storage.s3)"
    if isinstance(error, FileNotFoundError) or code == "404":
        return "does not exist (context_storage.s3)"
    return f"answered HTTP {code}" if code else f"cannot be reached ({type(error).__name__})"


def attempt_of_key(key: str) -> int | None:
    """Return the number of the attempt whose transcript has this key; `None` for any other key."""
    found = re.search(r"(?:^|/)attempt-(\d{1,6})\.jsonl$", key)
    return int(found.group(1)) if found else None
