"""`make trial` with the sandbox forges and a real Gitea: it takes every step and removes what it made."""

import argparse
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from coding_agent_demo.trial import Pace, Report, run
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.git import branches
from coding_agent_testbed.gitea import Api, GiteaServer, Sample, WebSession
from rich.console import Console

from tests.fixtures.forge import BOT_TOKEN, PERSON_TOKEN, REPOSITORY

PACE = Pace(look=0.3, person=60.0, agent=240.0)


@dataclass(kw_only=True)
class Place(ABC):
    """A repository on a forge, as a person sees it.

    Attributes:
        path: the bare repository on disk.
    """

    platform: str
    api_url: str
    repository: str
    path: Path
    bot: str
    bot_token: str
    person_token: str

    @abstractmethod
    def put_label(self, number: int, label: str) -> None: ...

    @abstractmethod
    def take_label(self, number: int, label: str) -> None: ...

    @abstractmethod
    def comment(self, change: int, text: str) -> None: ...

    @abstractmethod
    def labels(self) -> set[str]: ...

    @abstractmethod
    def states(self) -> list[tuple[bool, bool]]:
        """Whether each item is open, and whether it is merged."""


@dataclass(kw_only=True)
class SandboxPlace(Place):
    forge: ForgeServer

    def put_label(self, number: int, label: str) -> None:
        self.forge.add_label(self.repository, number, label)

    def take_label(self, number: int, label: str) -> None:
        self.forge.remove_label(self.repository, number, label)

    def comment(self, change: int, text: str) -> None:
        self.forge.comment(self.repository, change, text, kind="change")

    def labels(self) -> set[str]:
        return {label.name for label in self.forge.repository(self.repository).labels}

    def states(self) -> list[tuple[bool, bool]]:
        items = self.forge.repository(self.repository).items
        return [(item.open, item.merged_at is not None) for item in items]


@dataclass(kw_only=True)
class GiteaPlace(Place):
    page: WebSession
    api: Api

    def put_label(self, number: int, label: str) -> None:
        self.page.put_label(number, label)

    def take_label(self, number: int, label: str) -> None:
        self.page.take_label(number, label)

    def comment(self, change: int, text: str) -> None:
        self.page.comment(change, text)

    def labels(self) -> set[str]:
        return set(self.api.labels(self.repository))

    def states(self) -> list[tuple[bool, bool]]:
        found = self.api.call("GET", f"/repos/{self.repository}/issues", state="all")
        pulls = [item["pull_request"] for item in found if item["pull_request"]]
        assert len(pulls) <= 1
        return [(item["state"] == "open", bool((item["pull_request"] or {}).get("merged"))) for item in found]


@pytest.fixture(params=["github", "gitlab"])
def sandbox(request: pytest.FixtureRequest) -> Place:
    """Both sandbox forges."""
    forge: ForgeServer = request.getfixturevalue(f"{request.param}_forge")
    return SandboxPlace(
        platform=forge.flavour.value,
        api_url=forge.api_url,
        repository=REPOSITORY,
        path=forge.repository(REPOSITORY).path,
        bot="coding-agent-bot",
        bot_token=BOT_TOKEN,
        person_token=PERSON_TOKEN,
        forge=forge,
    )


@pytest.fixture
def on_gitea(gitea: GiteaServer, gitea_sample: Sample) -> Iterator[GiteaPlace]:
    """A repository on the real Gitea. The bot may only write, and so is not told what others may do."""
    sample = gitea_sample
    with gitea.api() as api, WebSession(gitea.url, sample.repository, sample.maintainer) as page:
        yield GiteaPlace(
            platform="gitea",
            api_url=gitea.url,
            repository=sample.repository,
            path=gitea.repository_folder(sample.repository),
            bot=sample.bot.login,
            bot_token=sample.bot.token,
            person_token=sample.maintainer.token,
            page=page,
            api=api,
        )


class Reader(io.StringIO):
    """A person who reads what the trial prints, and does it."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    def write(self, text: str) -> int:
        if found := re.search(
            r"You: (Put|Remove) the label “(.+)” (?:on|from) \S+/(\d+)$", text, re.MULTILINE
        ):
            act = self._place.put_label if found[1] == "Put" else self._place.take_label
            act(int(found[3]), found[2])
        elif found := re.search(r"You: Comment on \S+/(\d+): “(.+)”", text):
            self._place.comment(int(found[1]), found[2])
        return super().write(text)


async def tried(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch, person: str
) -> tuple[Report, str]:
    """Run the trial; its report, and the report's text. Without a token, the person reads what it prints."""
    monkeypatch.setenv(f"{place.platform.upper()}_PERSONAL_ACCESS_TOKEN", place.bot_token)
    monkeypatch.setenv("TRIAL_PERSON_TOKEN", person)
    owner, _, repository = place.repository.partition("/")
    report = folder / "report.md"
    arguments = argparse.Namespace(
        forge=place.platform, owner=owner, repo=repository, api_url=place.api_url, report=str(report)
    )
    return await run(arguments, Console(file=Reader(place), width=400), PACE), report.read_text()


async def see_every_step(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch, *, by_hand: bool
) -> None:
    labels, states, heads = place.labels(), place.states(), set(branches(place.path))
    person = "" if by_hand else place.person_token
    report, text = await tried(place, folder, monkeypatch, person)
    assert (report.problem, report.left) == ("", [])
    assert len(report.lines) == 10
    assert all(line.endswith("| yes |") for line in report.lines)
    assert "every step worked" in text
    assert "Removed everything" in text
    assert place.bot_token not in text
    assert place.person_token not in text
    assert ("in a browser" in text) is by_hand
    assert sorted(place.states()) == sorted([*states, *[(False, False)] * 3])
    assert place.labels() == labels
    assert set(branches(place.path)) == heads


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sandbox", "by_hand"),
    [("github", False), ("gitlab", False), ("gitlab", True)],
    indirect=["sandbox"],
    ids=["github", "gitlab", "gitlab-by-hand"],
)
async def test_it_walks_through_every_step_and_leaves_nothing(
    sandbox: Place, by_hand: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await see_every_step(sandbox, tmp_path, monkeypatch, by_hand=by_hand)


@pytest.mark.timeout(600)
async def test_people_follow_its_words_in_the_pages_of_a_real_gitea(
    on_gitea: GiteaPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gitea.api.add_collaborator(on_gitea.repository, on_gitea.bot, "admin")
    await see_every_step(on_gitea, tmp_path, monkeypatch, by_hand=True)


async def test_it_says_why_it_cannot_begin(
    sandbox: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, text = await tried(sandbox, tmp_path, monkeypatch, BOT_TOKEN)
    assert "Both tokens are of coding-agent-bot" in report.problem
    assert "a step did not work" in text
    assert report.left == []


async def test_it_says_before_it_begins_that_an_account_on_gitea_lacks_a_right(
    on_gitea: GiteaPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = on_gitea.labels()
    report, _ = await tried(on_gitea, tmp_path, monkeypatch, on_gitea.person_token)
    assert re.search(r"refused reading what alice\S* may do .*\(403\)", report.problem)
    assert report.left == []
    assert on_gitea.labels() == labels
    assert not any(opened for opened, _ in on_gitea.states())
