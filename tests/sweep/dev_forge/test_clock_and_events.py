"""The forge's own clock, and the log of what people and programs did."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_forge import ForgeServer

from tests.fixtures.forge import REPOSITORY, client, sample_seed
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
