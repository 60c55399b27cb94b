"""Run by `test_third_forge.py` with a third forge: every program takes it from the registry."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.item.forge_tasks import ForgeTask
from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.reporting.comment import State
from coding_agent_core.settings.load import load_settings
from coding_agent_core.task.model import Item, Phase, item_of
from coding_agent_forges.connect import connect_all, forge_of
from coding_agent_forges.webhooks.events import Accepted
from coding_agent_operator.reporter.reporter_program import rate_for
from coding_agent_receiver.app import WEBHOOKS, task_text
from coding_agent_receiver.poller import scope_problem
from coding_agent_user_config.__main__ import read_settings

HOST = "code.example.net"


def delivered(folder: Path, environment: dict[str, str]) -> Item:
    """The item of the webhook that `helm test` would send."""
    settings = load_settings(folder / "config.yaml", environment)
    sample: dict[str, Any] = json.loads((folder / "forges.json").read_text())["example"]["sample"]
    sys.path.insert(0, str(folder))
    import selftest  # type: ignore[import-not-found] # noqa: PLC0415 - the chart's, which the test puts here

    body, headers = selftest.delivery(sample, "a-secret", HOST, "coding agent", 7)
    webhooks = WEBHOOKS[Platform("example")]
    lower = {name.lower(): value for name, value in headers.items()}
    proof = webhooks.verification(lower, ["a-secret"])
    assert proof is not None
    proof.update(body)
    assert proof.valid()
    meaning = webhooks.interpret(webhooks.delivery(lower), json.loads(body), settings, datetime.now(UTC))
    assert isinstance(meaning, Accepted), meaning
    return meaning.request.item


def main(folder: Path) -> None:
    """Ask each program for the third forge."""
    platform = Platform("example")
    environment = {
        "TASK_SOURCE": "example",
        "EXAMPLE_API_URL": f"https://{HOST}/api/v4",
        "EXAMPLE_PERSONAL_ACCESS_TOKEN": "a-token",
        "EXAMPLE_WEBHOOK_TOKEN": "a-secret",
        "EXAMPLE_WEBHOOK_SECRET": "a-secret",
    }
    settings = load_settings(folder / "config.yaml", environment)
    assert settings.webhook.secret(platform).configured
    item = delivered(folder, environment)
    assert Item.from_key(item.key, host=HOST, repository=item.repository) == item
    assert task_text(item).startswith("TaskExampleIssue("), task_text(item)
    address = FACTS[platform].example.replace(FACTS[platform].web_host, HOST)
    assert item_of(address, hosts={HOST: platform}).platform is platform
    with pytest.raises(ValueError, match="have addresses like"):
        item_of(address, hosts={})
    forges = connect_all(settings)
    forge = forge_of(forges, item)
    assert forge.platform is platform
    state = State(uuid="u", phase=Phase.RUNNING)
    assert ForgeTask(forge, item, settings.labels(platform), state, max_attempts=1).item == item
    asyncio.run(forge.aclose())
    assert rate_for(settings.reporter, platform, HOST).creates_per_minute
    assert scope_problem(settings) is None
    public = load_settings(folder / "config.yaml", {"TASK_SOURCE": "example"})
    assert "example.assignee" in str(scope_problem(public))
    (folder / "example").mkdir()
    (folder / "example" / "alice.yaml").write_text("llm: {provider: openai}\n")
    assert read_settings(folder, "example", "alice") == {"llm": {"provider": "openai"}}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
