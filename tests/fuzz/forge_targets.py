"""What a forge sends: webhooks and their proof, addresses of senders, and the hidden line of our comment."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from typing import Any

from coding_agent_core.platforms.addresses import client_group
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.reporting.comment import Links, Report, comment, read_state
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.receiver import networks
from coding_agent_core.task.agenttask import AgentTask, manifest
from coding_agent_core.task.commands import command_in, store
from coding_agent_core.task.model import CommandName, Item, task_name
from coding_agent_forges.gitea import webhook as gitea
from coding_agent_forges.github import webhook as github
from coding_agent_forges.gitlab import webhook as gitlab
from coding_agent_forges.rest.hidden_line import CheckedBody, checked, signed
from coding_agent_forges.webhooks.events import (
    Accepted,
    Commanded,
    Ignored,
    Meaning,
    PlatformWebhooks,
    Rescan,
    Withdrawn,
)
from coding_agent_forges.webhooks.payload import FieldError
from coding_agent_receiver.webhook_request import BodyError, client_address, decode_payload

from tests.fixtures.deliveries import NOW, SECRET, TOKEN, issue
from tests.fuzz.bounds import at_most, header_of, refusals, stored, written

SETTINGS = Settings.model_validate(
    {
        "webhook": {
            "github": {"secret": [SECRET, "the-next-secret"]},
            "gitlab": {"token": [TOKEN, "the-next-token"]},
            "gitea": {"secret": [SECRET, "the-next-secret"]},
            "commands": {"enabled": True},
        },
        "github": {"account": "coding-agent-bot"},
        "gitlab": {"account": "coding-agent-bot"},
        "gitea": {"account": "coding-agent-bot", "api_url": "http://127.0.0.1:3000"},
        "rounds": {"enabled": True},
    }
)
_LABELS = SETTINGS.labels(Platform.GITHUB)
_TRUSTED = networks(("10.0.0.0/8", "fd00::/8"))
_KEYS = ["k" * 32]
_LINKS = Links("https://github.com", "coding-agent/")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_TASK_BYTES = 32 * 1024
"""More than an AgentTask of a webhook takes: 1,024 characters of the title and 2,048 of the URL are most."""
_REASON = 2_000
"""A sentence for a log or for the answer to a webhook."""


def github_webhook(data: bytes) -> bool:
    """A line with the event and the delivery's id, then the body."""
    return _webhook(github, "x-github-event", "x-github-delivery", data)


def gitlab_webhook(data: bytes) -> bool:
    """The same for GitLab."""
    return _webhook(gitlab, "x-gitlab-event", "idempotency-key", data)


def gitea_webhook(data: bytes) -> bool:
    """The same for Gitea."""
    return _webhook(gitea, "x-gitea-event", "x-gitea-delivery", data)


def _webhook(module: PlatformWebhooks, event: str, identifier: str, data: bytes) -> bool:
    head, body = header_of(data)
    name, _, key = head.partition("|")
    delivered = module.delivery({event: name, identifier: key})
    try:
        payload = decode_payload(body)
        at_most(len(module.action_of(payload)), len(body))
        meaning = module.interpret(delivered, payload, SETTINGS, NOW)
    except BodyError as error:
        if error.status not in (400, 422):
            raise
        at_most(len(str(error)), _REASON)
        return False
    except FieldError as error:
        at_most(len(str(error)), _REASON)
        return False
    return _check_meaning(meaning)


def _check_meaning(meaning: Meaning) -> bool:
    match meaning:
        case Ignored(reason):
            at_most(len(reason), _REASON)
            return False
        case Accepted(request):
            _check_item(request.item)
            task = manifest(request, run=1, timeout_seconds=3600, max_attempts=3)
            at_most(len(written(task)), _TASK_BYTES)
            assert refusals(task) == [], "the API server stores what the receiver creates"
            read = AgentTask.of(json.loads(written(task)))
            assert read.spec.item == request.item
            assert read.spec.trigger == request.trigger
            assert not read.missing_labels
            if request.answers is not None:
                _check_item(request.answers)
        case Withdrawn(withdrawal):
            _check_item(withdrawal.item)
            at_most(len(withdrawal.reason), _REASON)
            assert (withdrawal.before is None) == (withdrawal.at is None)
        case Commanded(command):
            _check_item(command.item)
            assert command.name in CommandName
            patch = store(stored({"source": {}}), command)
            assert isinstance(patch, Mapping)
            at_most(len(written(patch)), 2_000)
        case Rescan(items, why):
            for item in items:
                _check_item(item)
            at_most(len(why), _REASON)
    return True


def _check_item(item: Item) -> None:
    assert item.number > 0
    at_most(len(item.repository), 6_000)
    name = task_name(item, 999)
    at_most(len(name), 63)
    assert _NAME.fullmatch(name)


def signature(data: bytes) -> bool:
    """A line with the header of the proof, then the body. A header proves this body and no other."""
    head, body = header_of(data)
    given = {"x-hub-signature-256": head, "x-gitlab-token": head}
    right = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    secrets = ("the-next-secret", SECRET)
    checked = github.verification(given, secrets)
    assert _valid(checked, body) == (head.lower() == right)
    proof = github.verification({"x-hub-signature-256": right}, secrets)
    assert proof is not None
    for start in range(0, len(body), 7):
        proof.update(body[start : start + 7])
    assert proof.valid(), "the body may arrive in pieces"
    for other in (body + b"\n", body[:-1] if body else b"x", b"{}" if body != b"{}" else b"[]"):
        assert not _valid(github.verification({"x-hub-signature-256": right}, secrets), other)
    assert not _valid(github.verification({"x-hub-signature-256": right}, ("another-secret", "")), body)
    assert github.verification(given, ("", "")) is None, "without a secret, nothing is authentic"
    token = gitlab.verification(given, (TOKEN, ""))
    assert (token is not None) == (head == TOKEN)
    return checked is not None or token is not None


def _valid(proof: Any, body: bytes) -> bool:
    if proof is None:
        return False
    proof.update(body)
    return bool(proof.valid())


def sender(data: bytes) -> bool:
    """A line with the peer's address, then one X-Forwarded-For header a line."""
    head, rest = header_of(data)
    forwarded = rest.decode("latin-1").split("\n")
    address = client_address(head, forwarded, _TRUSTED)
    at_most(len(client_group(address)), 60)
    direct = client_address(head, [], _TRUSTED)
    if direct is not None and not any(direct in network for network in _TRUSTED):
        assert address == direct, "only a trusted proxy can name another client"
    return address != direct


def comment_state(data: bytes) -> bool:
    """The text of a comment. Its state survives being written and read again."""
    body = data.decode("utf-8", "replace")
    name = command_in(body, tuple(CommandName))
    assert name is None or body.startswith(f"/{name}")
    assert checked(signed(body, issue(), _KEYS), issue(), _KEYS) == CheckedBody(body)
    assert read_state(checked(body, issue(), _KEYS).body) is None, "nobody signed it"
    state = read_state(body)
    if state is None:
        return False
    url = state.change_url
    if url is not None and _LINKS.change_problem(url, issue()) is not None:
        state = state.model_copy(update={"change_url": None})  # nothing shows such an address
    for text in ("", body):
        shown = Report("demo", issue(), _LABELS, state, 3, NOW, message=text, summary=text, tail=text)
        assert read_state(comment(shown)) == state
    return True
