"""The forge is away at each point of a task in queue mode, where labels and comment are its own too."""

from typing import Any

import pytest

from tests.fixtures.system import BOT, DONE, PROCESSING, StartSystem
from tests.integration.main_job.scripts import finish, script, write

LONGER = 6
"""Requests that fail: more than one call tries, so that the task itself has to wait."""
GITHUB = "/api/v3/repos/acme/pricing"

OUTAGES: list[dict[str, Any]] = [
    {"path": f"{GITHUB}/issues/1/comments", "method": "GET", "times": LONGER, "status": 503},
    {"path": r"/acme/pricing\.git", "times": 3, "status": 503},
    {"path": f"{GITHUB}/issues/1/labels", "method": "POST", "times": 1, "close": "after"},
    {"path": f"{GITHUB}/issues/1/labels", "method": "POST", "times": LONGER, "status": 503},
    {"path": f"{GITHUB}/issues/1/labels/", "method": "DELETE", "times": 1, "close": "after"},
    {"path": f"{GITHUB}/issues/1/labels/", "method": "DELETE", "times": 2, "status": 503},
    {"path": f"{GITHUB}/issues/1/comments", "method": "POST", "times": 1, "close": "after"},
    {"path": f"{GITHUB}/issues/comments/", "method": "PATCH", "times": LONGER, "status": 503},
]


@pytest.mark.long
def test_outages_cost_nothing_and_double_nothing(start_system: StartSystem) -> None:
    system = start_system("github", script(write("a.md", "a\n"), finish()))
    system.start_webhook()
    for fault in OUTAGES:
        system.fault(**fault)
    system.put_label(1)
    system.wait_for_label(1, DONE)
    [comment] = system.comments(1)
    assert "Coding agent: done" in comment.body
    assert "attempt 1 of 3" in comment.body, "an outage of the forge is not a failed attempt"
    assert len(system.changes()) == 1
    flow = [event for event in system.label_history(1) if event[1] in (BOT, PROCESSING, DONE)]
    assert flow == [
        ("labeled", BOT),
        ("labeled", PROCESSING),
        ("unlabeled", BOT),
        ("labeled", DONE),
        ("unlabeled", PROCESSING),
    ]
