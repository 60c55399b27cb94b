"""Which heads of the bot's changes merged with their base, and since when: from the forge's log and git."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.eventlog import ForgeEvent
from coding_agent_testbed.forge.model import Kind

from tests.chaos.forges import TriedForge


def records(forge: TriedForge, host: str) -> Iterator[dict[str, Any]]:
    """A record for each pair of a change's head and base that there was while the change was open."""
    events = forge.events()
    tips = _first_tips(forge, events)
    open_changes: dict[tuple[str, int], str] = {}
    branches: dict[tuple[str, int], str] = {}
    known: dict[tuple[str, int], tuple[str, str]] = {}
    for event in events:
        if event.event == "pushed" and event.branch and event.after:
            tips[event.repository, event.branch] = event.after
        if event.kind is Kind.CHANGE and event.number is not None:
            key = event.repository, event.number
            match event.event:
                case "opened":
                    branches[key] = open_changes[key] = event.branch or ""
                case "reopened":
                    open_changes[key] = branches[key]
                case "closed" | "merged":
                    open_changes.pop(key, None)
        for key, branch in open_changes.items():
            repository = forge.repository(key[0])
            head, base = tips.get((key[0], branch)), tips.get((key[0], repository.default_branch))
            if head is None or base is None or known.get(key) == (head, base):
                continue
            known[key] = head, base
            yield {
                "record": "mergeability",
                "at": event.at.isoformat(timespec="microseconds"),
                "host": host,
                "repository": key[0],
                "number": key[1],
                "head": head,
                "base": base,
                "merges": git.merged_tree(repository.path, base, head) is not None,
            }


def _first_tips(forge: TriedForge, events: Sequence[ForgeEvent]) -> dict[tuple[str, str], str]:
    """Where the default branches were before the first push to them."""
    tips: dict[tuple[str, str], str] = {}
    for event in events:
        if event.event == "pushed" and event.branch and event.before:
            tips.setdefault((event.repository, event.branch), event.before)
    for name in {event.repository for event in events}:
        branch = forge.repository(name).default_branch
        tip = git.branch_sha(forge.repository(name).path, branch)
        if tip is not None:
            tips.setdefault((name, branch), tip)
    return {place: tip for place, tip in tips.items() if tip.strip("0")}
