"""Whatever arrives, signed or not, is answered below 500 (the issue's property over headers and bodies)."""

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from coding_agent_receiver.server import create_app
from hypothesis import HealthCheck, example, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from tests.fixtures.deliveries import TOKEN, RecordingSink, github_issue, gitlab_merge_request, settings, sign

QUICK = budget(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ANSWERS = {200, 400, 401, 413, 415, 422, 429}
APP = create_app(settings(max_body_bytes=100_000), RecordingSink())

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        ["\ud800", "\x00", "coding agent", "labeled", "closed", "https://github.com:x/", "9" * 400]
    ),
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
HEADER = st.binary(max_size=200).map(lambda raw: bytes(byte for byte in raw if byte not in b"\r\n\x00"))


REAL = [("github", "issues", github_issue()), ("gitlab", "System Hook", gitlab_merge_request())]
NASTY: list[Any] = [..., None, -7, "\ud800\x00\r\n", [], {"name": None}]


def post(forge: Any, body: Any, headers: Any) -> Any:
    """Send one request through the whole application, without a network."""

    async def send() -> Any:
        transport = httpx2.ASGITransport(APP, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://receiver") as http:
            return await http.post(f"/webhook/{forge}", content=body, headers=headers)

    return asyncio.run(send())


def authentic(forge: Any, event: Any, body: Any) -> Any:
    """Headers that pass verification, with an event of any bytes."""
    proof = (
        [(b"x-hub-signature-256", sign(body).encode()), (b"x-github-event", event)]
        if forge == "github"
        else [(b"x-gitlab-token", TOKEN.encode()), (b"x-gitlab-event", event)]
    )
    return [(b"content-type", b"application/json"), *proof]


def places(value: Any, path: Any = ()) -> Iterator[Any]:
    """Every place in a JSON value."""
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, child in children:
        yield from places(child, (*path, name))


def replaced(payload: Any, path: Any, value: Any) -> Any:
    """The payload with another value, or nothing, at a place."""
    if not path:
        return value
    changed = copy.deepcopy(payload)
    target = changed
    for name in path[:-1]:
        target = target[name]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return changed


@pytest.mark.parametrize(("forge", "event", "original"), REAL)
async def test_no_value_at_any_place_of_a_real_payload_finds_a_5xx(
    forge: Any, event: str, original: Any
) -> None:
    transport = httpx2.ASGITransport(APP, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://receiver") as http:
        for path in list(places(original))[1:]:
            for value in NASTY:
                body = json.dumps(replaced(original, path, value)).encode()
                headers = authentic(forge, event.encode(), body)
                response = await http.post(f"/webhook/{forge}", content=body, headers=headers)
                assert response.status_code in {200, 422}, (path, value, response.text)


@QUICK
@given(forge=st.sampled_from(["github", "gitlab"]), event=HEADER, body=st.binary(max_size=300) | ANY_JSON)
@example(forge="github", event=b"issues", body=b'{"action": "labeled", "label": {"name": "coding agent"}}')
@example(forge="gitlab", event=b"Issue Hook", body=b'{"object_kind": "issue"}')
def test_no_authentic_body_and_event_finds_a_5xx(forge: Any, event: str, body: bytes) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert post(forge, raw, authentic(forge, event, raw)).status_code in ANSWERS
