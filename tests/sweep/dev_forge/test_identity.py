"""Who a request is from, by its headers."""

from __future__ import annotations

import base64

import pytest
from coding_agent_forge.identity import authenticate
from coding_agent_forge.model import User

USERS = [User(1, "alice", "Alice", "alice-token"), User(2, "nobody", "Nobody", "")]


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("headers", "login"),
    [
        ({"authorization": "Bearer alice-token"}, "alice"),
        ({"authorization": "token alice-token"}, "alice"),
        ({"private-token": "alice-token"}, "alice"),
        ({"authorization": basic("x-access-token:alice-token")}, "alice"),
        ({"authorization": basic("oauth2:alice-token")}, "alice"),
        ({"authorization": basic("alice-token:")}, "alice"),
        ({}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer wrong"}, None),
        ({"authorization": basic("alice:wrong")}, None),
        ({"authorization": basic(":")}, None),
        ({"authorization": "Basic !!!"}, None),
        ({"authorization": "Digest alice-token"}, None),
        ({"authorization": "Bearer gehäım"}, None),
    ],
)
def test_a_request_is_from(headers: dict[str, str], login: str | None) -> None:
    user = authenticate(headers, USERS)

    assert (user.login if user else None) == login


def test_a_user_does_not_show_the_token() -> None:
    assert "alice-token" not in repr(USERS[0])
