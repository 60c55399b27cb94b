"""The forge's own clock, and the log of what people and programs did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_forge import ForgeServer, Kind
from coding_agent_forge.eventlog import pushed_refs

from tests.fixtures.forge import BOT_TOKEN, REPOSITORY, admin, client, push_fix, sample_seed
from tests.fixtures.hook_receiver import HookReceiver

BEHIND = -7200.0
ITEM = {"github": f"/repos/{REPOSITORY}/issues/1", "gitlab": "/projects/acme%2Fpricing/issues/1"}


def times(value: Any) -> list[datetime]:
    """Every time in an answer or a payload."""
    if isinstance(value, dict):
        return [found for entry in value.values() for found in times(entry)]
    if isinstance(value, list):
        return [found for entry in value for found in times(entry)]
    try:
        found = datetime.fromisoformat(str(value).replace(" UTC", "Z"))
    except ValueError:
        return []
    return [found] if found.tzinfo else []


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_every_time_that_the_forge_shows_comes_from_its_own_clock(
    flavour: str, tmp_path: Path, hook_receiver: HookReceiver
) -> None:
    with ForgeServer(flavour, sample_seed(), tmp_path / "forge", clock_ahead=BEHIND) as forge:
        forge.add_hook(REPOSITORY, hook_receiver.url)
        forge.add_label(REPOSITORY, 1, "coding agent")
        forge.comment(REPOSITORY, 1, "Please hurry")
        told = [entry.payload for entry in hook_receiver.wait_for_count(2)]
        history = "timeline" if flavour == "github" else "resource_label_events"
        comments = "comments" if flavour == "github" else "notes"
        with client(forge) as api:
            answers = [api.get(ITEM[flavour] + path) for path in ("", f"/{history}", f"/{comments}")]

    now = datetime.now(UTC)
    shown = times([told, *(answer.json() for answer in answers)])
    shown += [parsedate_to_datetime(answer.headers["date"]) for answer in answers]
    assert len(shown) > 10
    late = now + timedelta(seconds=BEHIND)
    assert all(late - timedelta(seconds=120) < at <= late for at in shown)
    if flavour == "github":
        assert all(at.microsecond == 0 for at in shown)
        reset = int(answers[0].headers["x-ratelimit-reset"])
        assert reset < now.timestamp() - 3000


def test_each_forge_has_a_clock_that_can_be_set_while_it_runs(
    github_forge: ForgeServer, gitlab_forge: ForgeServer
) -> None:
    with admin(github_forge) as sandbox:
        answer = sandbox.put("/clock", json={"ahead_seconds": 300})
        shown = datetime.fromisoformat(answer.json()["now"])
    github, gitlab = (forge.sandbox.store.now() for forge in (github_forge, gitlab_forge))

    assert shown <= github
    assert timedelta(seconds=270) < github - gitlab <= timedelta(seconds=300)

    github_forge.set_clock(0)
    assert github_forge.sandbox.store.now() < github


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_the_event_log_says_who_did_what_and_when(flavour: str, tmp_path: Path) -> None:
    with ForgeServer(flavour, sample_seed(), tmp_path / "forge", clock_ahead=BEHIND) as forge:
        seeded = forge.events()[-1].id
        began = datetime.now(UTC)
        forge.add_label(REPOSITORY, 1, "coding agent")
        forge.remove_label(REPOSITORY, 1, "coding agent", by="coding-agent-bot")
        comment = forge.comment(REPOSITORY, 1, "First", by="coding-agent-bot")
        forge.edit_comment(REPOSITORY, 1, comment, "Second", by="coding-agent-bot")
        pushed = push_fix(forge, tmp_path)
        change_number = forge.open_change(REPOSITORY, "fix", "main", by="coding-agent-bot")
        forge.close(REPOSITORY, 1)
        forge.reopen(REPOSITORY, 1)
        events = forge.events(after=seeded)
        with admin(forge) as sandbox:
            shown = sandbox.get("/events", params={"after": seeded})
            answer = shown.json()

    bots = "coding-agent-bot"
    assert [(one.event, one.actor, one.kind, one.number) for one in events] == [
        ("labeled", "alice", Kind.ISSUE, 1),
        ("unlabeled", bots, Kind.ISSUE, 1),
        ("commented", bots, Kind.ISSUE, 1),
        ("comment_edited", bots, Kind.ISSUE, 1),
        ("pushed", bots, None, None),
        ("opened", bots, Kind.CHANGE, change_number),
        ("closed", "alice", Kind.ISSUE, 1),
        ("reopened", "alice", Kind.ISSUE, 1),
    ]
    assert {one.label for one in events[:2]} == {"coding agent"}
    assert [(one.comment, one.body) for one in events[2:4]] == [(comment, "First"), (comment, "Second")]
    assert (events[4].branch, events[4].before, events[4].after) == ("fix", "0" * 40, pushed)
    assert all(began <= one.at <= datetime.now(UTC) for one in events), "the machine's clock"
    assert [one.at for one in events] == sorted(one.at for one in events)
    assert [datetime.fromisoformat(one["at"]) for one in answer] == [one.at for one in events]
    assert [one["event"] for one in answer] == [one.event for one in events]
    assert BOT_TOKEN not in shown.text


@pytest.mark.parametrize("request_", [b"", b"0000", b"zzzz", b"0004", b"00", b"003fnot a ref"])
def test_a_push_that_names_no_branch_moves_none(request_: bytes) -> None:
    assert pushed_refs(request_, b"unpack ok\n") == []
