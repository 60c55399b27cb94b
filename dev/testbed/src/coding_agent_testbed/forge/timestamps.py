"""Time stamps in the words of each forge."""

from __future__ import annotations

from datetime import UTC, datetime


def github_time(at: datetime) -> str:
    """GitHub's: whole seconds, `2026-01-02T03:04:05Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def gitlab_time(at: datetime) -> str:
    """GitLab's in its REST API: milliseconds, `2026-01-02T03:04:05.678Z`."""
    at = at.astimezone(UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def gitlab_hook_time(at: datetime) -> str:
    """GitLab's in webhooks: `2026-01-02 03:04:05 UTC`."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
