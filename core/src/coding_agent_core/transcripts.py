"""Where an attempt's transcript is stored, derived from settings, task and attempt. Pure."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

from coding_agent_core.outcome import MAX_PLACE
from coding_agent_core.settings.attempts import ContextStorage
from coding_agent_core.tasks import Item


def folder_of(item: Item, run: int, uuid: str) -> str:
    """The folder of a task's transcripts in the store: `github/github.com/acme/shop/issue-7/run-1-UUID`.

    The run's number alone does not identify a task: counting restarts once the item's last task is deleted,
    and transcripts are kept longer than tasks.
    """
    platform, host, place, kind, number = item.identity.split("|")
    plain = re.fullmatch(r"[A-Za-z0-9-]{1,64}", uuid)
    task = uuid if plain else hashlib.sha256(uuid.encode()).hexdigest()[:32]
    parts = [platform, host, *place.split("/"), f"{kind}-{number}", f"run-{run}-{task}"]
    return "/".join(re.sub(r"^\.+|[^A-Za-z0-9._-]", "_", part) or "_" for part in parts)


def key_of(item: Item, run: int, uuid: str, attempt: int) -> str:
    """The key of an attempt's transcript in the store."""
    return f"{folder_of(item, run, uuid)}/attempt-{attempt}.jsonl"


def attempt_of(key: str) -> int | None:
    """The attempt whose transcript has this key; `None` if it is not a transcript's key."""
    found = re.search(r"(?:^|/)attempt-(\d{1,6})\.jsonl$", key)
    return int(found.group(1)) if found else None


def place_of(storage: ContextStorage, key: str) -> str | None:
    """The transcript's location, if it outlives the attempt: a relative folder belongs to its process."""
    if not storage.enabled:
        return None
    if storage.s3 is not None:
        prefix = storage.s3.prefix.strip("/")
        place = f"s3://{storage.s3.bucket}/{prefix + '/' if prefix else ''}{key}"
    elif storage.base_dir.is_absolute():
        place = str(storage.base_dir / key)
    else:
        return None
    return place if len(place) <= MAX_PLACE else None


def url_of(storage: ContextStorage, key: str) -> str | None:
    """The web address, if `context_storage.link` is set and the transcript outlives the attempt."""
    place = place_of(storage, key)
    if place is None or storage.link is None:
        return None
    url = storage.link.replace("{key}", quote(key)).replace("{place}", quote(place, safe=""))
    return url if len(url) <= MAX_PLACE else None
