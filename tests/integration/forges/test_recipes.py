"""The recipes of docs/recipes.md open an issue with the label, with payloads as the vendors document them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from coding_agent_docs.blocks import blocks
from coding_agent_docs.paths import DOCS
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.until import until

from tests.fixtures.forge import PERSON_TOKEN, REPOSITORY, client

PAGE = DOCS / "recipes.md"
LABEL = "coding agent"
DEADLINE = 60.0
GROUP: dict[str, Any] = {
    "version": "4",
    "groupKey": '{}:{alertname="DiskFull"}',
    "truncatedAlerts": 0,
    "status": "firing",
    "receiver": "agent",
    "groupLabels": {"alertname": "DiskFull"},
    "commonLabels": {"alertname": "DiskFull"},
    "commonAnnotations": {"summary": "The disk is full"},
    "externalURL": "http://alertmanager:9093",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "DiskFull"},
            "annotations": {"summary": 'The disk "data" is full'},
            "startsAt": "2026-12-01T09:52:26.739Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus:9090/graph",
            "fingerprint": "c6eadffa33fcdf37",
        }
    ],
}
"""What Alertmanager sends (its documentation, `webhook_config`)."""
EVENT = {
    "action": "triggered",
    "actor": {"id": "sentry", "name": "Sentry", "type": "application"},
    "data": {
        "event": {
            "title": "ReferenceError: heck is not defined",
            "web_url": "https://sentry.io/organizations/acme/issues/1117540176/",
            "issue_id": "1117540176",
        },
        "triggered_rule": "Very important alert",
    },
}
"""What Sentry sends (its documentation, *Issue alerts*)."""


def text(name: str) -> str:
    return next(block.text for block in blocks(PAGE) if block.what == name)


def labeled(forge: ForgeServer) -> list[str]:
    """The titles of open issues with the label."""
    with client(forge, PERSON_TOKEN) as api:
        if forge.flavour == "gitlab":
            found = api.get(f"/projects/{REPOSITORY.replace('/', '%2F')}/issues", params={"labels": LABEL})
        else:
            found = api.get(f"/repos/{REPOSITORY}/issues", params={"labels": LABEL})
    return sorted(one["title"] for one in found.raise_for_status().json())


def new(forge: ForgeServer, before: list[str]) -> list[str]:
    return [title for title in labeled(forge) if title not in before]


def address(forge: ForgeServer) -> str:
    with client(forge, PERSON_TOKEN) as api:
        return str(api.base_url).rstrip("/")


def shell(script: str, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": os.environ["PATH"], "NO_PROXY": "*", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def served(name: str, tmp_path: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run a program of the page, and yield its URL once it accepts connections."""
    (tmp_path / name).write_text(text(name))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, name],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "NO_PROXY": "*", "PORT": str(port), **environment},
    )
    try:

        def alive() -> None:
            assert process.poll() is None, "the program has ended"

        def listens() -> bool:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return True

        until("the program listens", listens, timeout=DEADLINE, alive=alive)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(DEADLINE)


def test_no_recipe_is_longer_than_fifteen_lines() -> None:
    lines = ((block, [line for line in block.text.splitlines() if line]) for block in blocks(PAGE))
    long = {block.what or block.line: len(written) for block, written in lines}
    assert {name: lines for name, lines in long.items() if lines > 15} == {}


def test_jiras_request_is_an_issue_with_the_label(github_forge: ForgeServer) -> None:
    before = labeled(github_forge)
    template = next(block.text for block in blocks(PAGE) if block.language == "json")
    values = iter(('The "bulk" discount', "Line 1\nline 2. From SHOP-7"))
    body = re.sub(r"\{\{.*?\}\}", lambda _: json.dumps(next(values)), template)
    with client(github_forge, PERSON_TOKEN) as api:
        assert api.post(f"/repos/{REPOSITORY}/issues", json=json.loads(body)).status_code == 201
    assert new(github_forge, before) == ['The "bulk" discount']


def test_the_cron_job_opens_an_issue(github_forge: ForgeServer) -> None:
    before = labeled(github_forge)
    job = yaml.safe_load(text("weekly.yaml"))["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    command = job["containers"][0]["command"]
    assert command[:2] == ["sh", "-c"]
    shell(command[2], {"API": address(github_forge), "TOKEN": PERSON_TOKEN})
    assert new(github_forge, before) == ["Update the dependencies"]


def test_the_pipeline_opens_an_issue(gitlab_forge: ForgeServer) -> None:
    before = labeled(gitlab_forge)
    (script,) = yaml.safe_load(text(".gitlab-ci.yml"))["update-dependencies"]["script"]
    with client(gitlab_forge, PERSON_TOKEN) as api:
        project = api.get(f"/projects/{REPOSITORY.replace('/', '%2F')}").json()["id"]
    variables = {"CI_API_V4_URL": address(gitlab_forge), "CI_PROJECT_ID": str(project)}
    shell(script, {**variables, "ISSUE_TOKEN": PERSON_TOKEN})
    assert new(gitlab_forge, before) == ["Update the dependencies"]


def test_a_group_of_alerts_is_one_issue(github_forge: ForgeServer, tmp_path: Path) -> None:
    before = labeled(github_forge)
    environment = {"API": address(github_forge), "TOKEN": PERSON_TOKEN, "KEY": "k-1"}
    with served("alerts.py", tmp_path, environment) as url, httpx2.Client(trust_env=False) as api:
        for path, group in (
            ("guessed", GROUP),
            ("k-1", {**GROUP, "status": "resolved"}),
            ("k-1", GROUP),
            ("k-1", GROUP),
        ):
            assert api.post(f"{url}/{path}", json=group, timeout=DEADLINE).status_code == 204
    assert new(github_forge, before) == ['Alert {}:{alertname="DiskFull"}']


@pytest.mark.parametrize(("secret", "status", "opened"), [("s-1", 204, 1), ("guessed", 401, 0)])
def test_an_error_is_an_issue_if_sentry_signed_it(
    secret: str, status: int, opened: int, github_forge: ForgeServer, tmp_path: Path
) -> None:
    before = labeled(github_forge)
    body = json.dumps(EVENT).encode()
    headers = {
        "Sentry-Hook-Resource": "event_alert",
        "Sentry-Hook-Signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    environment = {"API": address(github_forge), "TOKEN": PERSON_TOKEN, "CLIENT_SECRET": "s-1"}
    with served("errors.py", tmp_path, environment) as url, httpx2.Client(trust_env=False) as api:
        assert api.post(url, content=body, headers=headers, timeout=DEADLINE).status_code == status
    assert new(github_forge, before) == ["ReferenceError: heck is not defined"][:opened]
