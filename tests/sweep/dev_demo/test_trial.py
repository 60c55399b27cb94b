"""`make trial` with the sandbox forges: it walks through every step, and removes all that it made."""

import argparse
import io
import re
from pathlib import Path

import pytest
from coding_agent_demo.trial import Pace, Report, run
from coding_agent_forge import ForgeServer
from coding_agent_forge.git import branch_sha
from rich.console import Console

from tests.fixtures.forge import BOT_TOKEN, PERSON_TOKEN, REPOSITORY

PACE = Pace(look=0.3, person=60.0, agent=240.0)


@pytest.fixture(params=["github", "gitlab"])
def forge(request: pytest.FixtureRequest) -> ForgeServer:
    """Both forges."""
    forge: ForgeServer = request.getfixturevalue(f"{request.param}_forge")
    return forge


class Reader(io.StringIO):
    """A person who reads what the trial prints, and does it."""

    def __init__(self, forge: ForgeServer) -> None:
        super().__init__()
        self._forge = forge

    def write(self, text: str) -> int:
        forge = self._forge
        if found := re.search(
            r"You: (Put|Remove) the label “(.+)” (?:on|from) \S+/(\d+)$", text, re.MULTILINE
        ):
            act = forge.add_label if found[1] == "Put" else forge.remove_label
            act(REPOSITORY, int(found[3]), found[2])
        elif found := re.search(r"You: Comment on \S+/(\d+): “(.+)”", text):
            forge.comment(REPOSITORY, int(found[1]), found[2], kind="change")
        return super().write(text)


async def tried(
    forge: ForgeServer, folder: Path, monkeypatch: pytest.MonkeyPatch, person: str
) -> tuple[Report, str]:
    """Run the trial; its report, and the report's text. Without a token, the person reads what it prints."""
    monkeypatch.setenv(f"{forge.flavour.value.upper()}_PERSONAL_ACCESS_TOKEN", BOT_TOKEN)
    monkeypatch.setenv("TRIAL_PERSON_TOKEN", person)
    owner, _, repository = REPOSITORY.partition("/")
    report = folder / "report.md"
    arguments = argparse.Namespace(
        forge=forge.flavour.value, owner=owner, repo=repository, api_url=forge.api_url, report=str(report)
    )
    return await run(arguments, Console(file=Reader(forge), width=400), PACE), report.read_text()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("forge", "person"),
    [("github", PERSON_TOKEN), ("gitlab", PERSON_TOKEN), ("gitlab", "")],
    indirect=["forge"],
    ids=["github", "gitlab", "gitlab-by-hand"],
)
async def test_it_walks_through_every_step_and_leaves_nothing(
    forge: ForgeServer, person: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = forge.repository(REPOSITORY)
    labels, items = {label.name for label in repository.labels}, len(repository.items)
    report, text = await tried(forge, tmp_path, monkeypatch, person)
    assert (report.problem, report.left) == ("", [])
    assert len(report.lines) == 10
    assert all(line.endswith("| yes |") for line in report.lines)
    assert "every step worked" in text
    assert "Removed everything" in text
    assert BOT_TOKEN not in text
    assert PERSON_TOKEN not in text
    assert ("in a browser" in text) is (person == "")
    made = repository.items[items:]
    assert [(item.open, item.merged_at) for item in made] == [(False, None)] * 3
    assert {label.name for label in repository.labels} == labels
    [change] = [item for item in made if item.head]
    assert branch_sha(repository.path, change.head) is None


async def test_it_says_why_it_cannot_begin(
    forge: ForgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, text = await tried(forge, tmp_path, monkeypatch, BOT_TOKEN)
    assert "Both tokens are of coding-agent-bot" in report.problem
    assert "a step did not work" in text
    assert report.left == []
