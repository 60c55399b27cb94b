"""The real Gitea of tests: its webhooks are still the recorded ones, and people can use its web page."""

import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from coding_agent_testbed.gitea import GiteaError, GiteaServer, Sample, WebSession

from tests.fixtures.hook_receiver import HookReceiver, Received
from tests.sweep.testbed.gitea_recording import (
    FILE,
    FOLDER,
    LABEL,
    SECRET,
    fixed,
    headers,
    kind,
    tell,
    trimmed,
)


def test_a_gitea_sends_and_answers_what_is_recorded(
    gitea: GiteaServer, gitea_sample: Sample, hook_receiver: HookReceiver
) -> None:
    story = tell(gitea, gitea_sample, hook_receiver)

    names = {f"webhook_{name}" for name in story.steps} | {f"answer_{name}" for name in story.answers}
    assert names == {file.stem for file in FOLDER.glob("*.json")}
    for name, deliveries in story.steps.items():
        recorded = json.loads((FOLDER / f"webhook_{name}.json").read_text(encoding="utf-8"))
        assert sorted(map(_shape, deliveries)) == sorted(_recorded_shape(entry) for entry in recorded), name
    for name, answer in story.answers.items():
        recorded = json.loads((FOLDER / f"answer_{name}.json").read_text(encoding="utf-8"))
        assert answer["status"] == recorded["status"], name
        assert _paths(answer["body"]) == _paths(recorded["body"]), name
    for delivery in hook_receiver.deliveries:
        signature = hmac.new(SECRET.encode(), delivery.body, hashlib.sha256).hexdigest()
        assert delivery.headers["x-hub-signature-256"] == f"sha256={signature}"
    version = gitea.api().call("GET", "/version")["version"]
    assert version == story.answers["server_version"]["body"]["version"]


def test_people_work_in_the_web_page(gitea: GiteaServer, gitea_sample: Sample) -> None:
    repository = gitea_sample.repository
    with (
        gitea.api(gitea_sample.bot) as bot,
        WebSession(gitea.url, repository, gitea_sample.maintainer) as person,
    ):
        number = person.open_issue("Discount starts too late", "See the code.", LABEL)
        path = f"/repos/{repository}/issues/{number}"
        assert _labels(bot.call("GET", path)) == [LABEL]
        person.put_label(number, "bug")
        person.take_label(number, LABEL)
        assert _labels(bot.call("GET", path)) == ["bug"]
        person.comment(number, "Please look")
        person.close(number, "No longer needed")
        assert bot.call("GET", path)["state"] == "closed"
        person.reopen(number)
        assert bot.call("GET", path)["state"] == "open"
        assert [entry["body"] for entry in bot.call("GET", f"{path}/comments")] == [
            "Please look",
            "No longer needed",
        ]

        text = bot.read_file(repository, FILE)
        bot.commit(repository, "agent/1", {FILE: fixed(text)}, "Start at the step", onto="main")
        pull = bot.create_pull(repository, "agent/1", "Start at the step")
        line = 1 + fixed(text)[: fixed(text).index("quantity >= pieces")].count("\n")
        person.comment_line(pull, FILE, line, "This line needs a test.")
        person.review(pull, "reject", "Please add a test")
        [review] = bot.call("GET", f"/repos/{repository}/pulls/{pull}/reviews")
        [inline] = bot.call("GET", f"/repos/{repository}/pulls/{pull}/reviews/{review['id']}/comments")
        assert (review["state"], review["body"]) == ("REQUEST_CHANGES", "Please add a test")
        assert (inline["path"], inline["position"], inline["body"]) == (FILE, line, "This line needs a test.")
        person.review(pull, "approve")
        person.merge(pull)
        assert bot.call("GET", f"/repos/{repository}/pulls/{pull}")["merged"]


def test_a_stranger_may_do_little(gitea: GiteaServer, gitea_sample: Sample) -> None:
    repository, stranger = gitea_sample.repository, gitea_sample.stranger
    with gitea.api(stranger) as api:
        number = api.create_issue(repository, "A wish")
        with pytest.raises(GiteaError, match="403"):
            api.add_label(repository, number, LABEL)
    with WebSession(gitea.url, repository, stranger) as page:
        page.comment(number, "Me too")
        with pytest.raises(GiteaError):
            page.put_label(number, LABEL)
    with pytest.raises(GiteaError, match="could not log in"):
        WebSession(gitea.url, repository, replace(stranger, password="wrong"))
    page_of_registration = httpx2.get(f"{gitea.url}/user/sign_up", timeout=60, trust_env=False).text
    assert "Registration is disabled" in page_of_registration


def _labels(issue: dict[str, Any]) -> list[str]:
    return [label["name"] for label in issue["labels"]]


def _shape(delivery: Received) -> tuple[str, list[str], list[str]]:
    return kind(delivery), sorted(headers(delivery)), _paths(trimmed(delivery.payload))


def _recorded_shape(entry: dict[str, Any]) -> tuple[str, list[str], list[str]]:
    return entry["event"], sorted(entry["headers"]), _paths(entry["body"])


def _paths(value: Any, path: str = "") -> list[str]:
    """The path of each key in some JSON, sorted; entries of a list have no numbers."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, entry in value.items():
            found |= {f"{path}.{key}", *_paths(entry, f"{path}.{key}")}
    elif isinstance(value, list):
        for entry in value:
            found |= set(_paths(entry, f"{path}[]"))
    return sorted(found)
