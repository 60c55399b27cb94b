"""Changes that a person opens."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

import httpx

from tests.fixtures.system import REPOSITORY, System


def open_change(system: System, files: Mapping[str, str] | None = None) -> int:
    """A person pushes a branch with these files and opens a change for it; its number."""
    path = str(system.forge.repository(REPOSITORY).path)
    tree = system.folder / "person"
    subprocess.run(["git", "clone", "-q", path, str(tree)], check=True, timeout=30)
    for name, text in (files or {}).items():
        (tree / name).write_text(text, encoding="utf-8")
    for command in (
        ["checkout", "-q", "-b", "feature"],
        ["add", "--all"],
        [
            *("-c", "user.name=Alice", "-c", "user.email=a@example.com"),
            *("commit", "-q", "--allow-empty", "-m", "A feature"),
        ],
        ["push", "-q", "origin", "feature"],
    ):
        subprocess.run(["git", "-C", str(tree), *command], check=True, timeout=30)
    if system.flavour == "github":
        answer = httpx.post(
            f"{system.forge.api_url}/repos/{REPOSITORY}/pulls",
            json={"title": "A feature", "head": "feature", "base": "main"},
            headers={"Authorization": "Bearer alice-token"},
            timeout=10,
        )
        return int(answer.raise_for_status().json()["number"])
    answer = httpx.post(
        f"{system.forge.api_url}/projects/acme%2Fpricing/merge_requests",
        json={"title": "A feature", "source_branch": "feature", "target_branch": "main"},
        headers={"PRIVATE-TOKEN": "alice-token"},
        timeout=10,
    )
    return int(answer.raise_for_status().json()["iid"])
