"""Web addresses from the API's: pure."""

from __future__ import annotations

from urllib.parse import quote, urlsplit


def web_base(api_url: str) -> str:
    """Where people and git find the forge whose REST API is at `api_url`, without a trailing slash.

    `https://api.github.com` -> `https://github.com`; `https://HOST/api/v3` and `https://HOST/path/api/v4` ->
    what stands before `/api/`; `https://api.TENANT.ghe.com` -> `https://TENANT.ghe.com`.
    """
    parts = urlsplit(api_url)
    # Whatever stands before an `@` are credentials, which belong into no URL of ours.
    location = parts.netloc.rpartition("@")[2]
    if "/api/" in f"{parts.path}/":
        return f"{parts.scheme}://{location}{parts.path.split('/api/')[0]}"
    return f"{parts.scheme}://{location.removeprefix('api.')}"


def clone_url(api_url: str, repository: str) -> str:
    """The http(s) URL of a repository by its full path."""
    return f"{web_base(api_url)}/{quote(repository.strip('/'))}.git"
