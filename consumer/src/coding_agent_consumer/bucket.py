"""An S3-compatible bucket as a store of transcripts.

The library's own coroutines are not used: their threads outlive the event loop, and about one process in six
ended with SIGABRT instead of its exit code (obstore 0.12.1). The same calls made from a thread never did.
Requests are not retried here: the next upload is the next try.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from coding_agent_core.errors import StoreError
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings.attempts import S3
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, S3Config

_T = TypeVar("_T")
_CHUNK = 1000
"""Objects in one answer of a listing; S3's own maximum."""


class S3Bucket:
    """A bucket. Keys are below its configured prefix; every method may raise `StoreError`."""

    def __init__(self, settings: S3, *, timeout: float | None = None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            timeout: seconds for one request, if less than `settings.timeout`.

        Raises:
            StoreError: the settings are invalid.
        """
        self._name = f"the bucket {settings.bucket}"
        limit = timedelta(seconds=min(settings.timeout, timeout or settings.timeout))
        client: ClientConfig = {"timeout": limit, "connect_timeout": limit}
        config: S3Config = {
            "region": settings.region,
            "virtual_hosted_style_request": not settings.path_style,
        }
        if (endpoint := settings.endpoint_url) is not None:
            # The form that wins over AWS_ENDPOINT_URL_S3 of the environment.
            config["aws_endpoint_url_s3"] = endpoint.rstrip("/")
            client["allow_http"] = endpoint.startswith("http://")
        key_id = Secrets(settings.access_key_id).first()
        secret = Secrets(settings.secret_access_key).first()
        if key_id is not None and secret is not None:
            config["access_key_id"] = key_id
            config["secret_access_key"] = secret
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
        """An object, or its last bytes; `None` if it does not exist."""

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
        try:
            return await asyncio.to_thread(action)
        except (BaseError, OSError, ValueError) as error:
            raise StoreError(f"{self._name} {_why(error)}") from None


def _why(error: Exception) -> str:
    """In our words: the library's message holds the store's answer, which may repeat the key's id."""
    status = re.search(r"status code: (\d{3})", str(error))
    code = status.group(1) if status else ""
    # Errors of a listing have no class of their own.
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or code in ("401", "403"):
        return "refuses our keys (context_storage.s3)"
    if isinstance(error, FileNotFoundError) or code == "404":
        return "does not exist (context_storage.s3)"
    return f"answered HTTP {code}" if code else f"cannot be reached ({type(error).__name__})"
