"""What a request must prove and hold."""

import hashlib
import hmac
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from coding_agent_core.platforms.addresses import client_group, parse_address
from coding_agent_forges.gitlab.webhook import GitLabToken
from coding_agent_forges.webhooks.proof import BodySignature
from coding_agent_receiver.webhook_request import (
    BodyError,
    client_address,
    decode_payload,
    require_json,
)

from tests.fixtures.deliveries import sign

BODY = b'{"action": "labeled"}'
DIGEST = sign(BODY, "right").removeprefix("sha256=")


def github_verified(body: Any, header: Any, secrets: Any) -> Any:
    check = BodySignature.of(header, secrets)
    if check is None:
        return False
    for byte in body:
        check.update(bytes([byte]))
    return check.valid()


def test_githubs_own_documented_example_is_verified() -> None:
    # https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
    header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert github_verified(b"Hello, World!", header, ["It's a Secret to Everybody"])


@pytest.mark.parametrize(
    ("header", "secrets", "verified"),
    [
        (f"sha256={DIGEST}", ["right"], True),
        (f"sha256={DIGEST}", ["right", "new"], True),
        (f"sha256={DIGEST}", ["old", "right"], True),
        (f"sha256={DIGEST}", ["", "right"], True),
        (f"sha256={DIGEST.upper()}", ["right"], True),
        (f"sha256={DIGEST}", ["wrong"], False),
        (f"sha256={DIGEST}", [], False),
        (f"sha256={sign(BODY, '').removeprefix('sha256=')}", [""], False),
        (None, ["right"], False),
        ("", ["right"], False),
        (f"sha1={hmac.new(b'right', BODY, hashlib.sha1).hexdigest()}", ["right"], False),
        (f"sha256={DIGEST[:-1]}", ["right"], False),
        (f"sha256={DIGEST}0", ["right"], False),
        ("sha256=" + "é" * 64, ["right"], False),
        ("sha256=" + "٣" * 64, ["right"], False),
    ],
)
def test_a_github_request_is_verified_only_by_the_hmac_of_its_body(
    header: Any, secrets: Any, verified: Any
) -> None:
    assert github_verified(BODY, header, secrets) is verified


def test_a_changed_body_is_not_verified() -> None:
    assert not github_verified(BODY + b" ", f"sha256={DIGEST}", ["right"])


@pytest.mark.parametrize(
    ("header", "tokens", "verified"),
    [
        ("right", ["right"], True),
        ("right", ["old", "right"], True),
        ("right", ["wrong"], False),
        ("right", [], False),
        ("", [""], False),
        (None, ["right"], False),
        # A token of UTF-8 letters arrives decoded as Latin-1.
        ("pässwörd".encode().decode("latin-1"), ["pässwörd"], True),
        ("é", ["right"], False),
    ],
)
def test_a_gitlab_request_is_verified_only_by_its_token(header: Any, tokens: Any, verified: Any) -> None:
    assert (GitLabToken.of(header, tokens) is not None) is verified


TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.66, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.66, 198.51.100.1, 10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("fd00::1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
    ],
)
def test_the_client_is_the_right_most_hop_that_is_no_trusted_proxy(
    peer: Any, forwarded: Any, client: Any
) -> None:
    assert client_address(peer, forwarded, TRUSTED) == ip_address(client)


@pytest.mark.parametrize("text", ["", "unknown", "_hidden", "1.2.3.4.5", "2001:db8::g"])
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("address", "group"), [("198.51.100.1", "198.51.100.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64")]
)
def test_an_ipv6_client_has_a_whole_64(address: Any, group: Any) -> None:
    assert client_group(ip_address(address)) == group


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "not JSON or was cut short"),
        (b'{"action": "labe', 400, "not JSON or was cut short (line 1, column 12)"),
        (b'\xef\xbb\xbf{"a": 1}', 400, "not JSON"),
        (b'{"a": "\xff"}', 400, "not UTF-8 (byte 7)"),
        ('{"a": 1}'.encode("utf-16"), 400, "not UTF-8"),
        (b'{"a": NaN}', 400, "NaN is not a JSON value"),
        (b'{"a": ' + b"9" * 5000 + b"}", 400, "a number that is too long"),
        (b'{"a":' * 200_000, 400, "nested too deeply"),
        (b"[]", 422, "not an object"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(body: bytes, status: int, reason: str) -> None:
    with pytest.raises(BodyError) as caught:
        decode_payload(body)
    assert caught.value.status == status
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "content_type", [None, "", "application/x-www-form-urlencoded", "text/plain", "application/jsonp"]
)
def test_any_other_content_type_is_415(content_type: str | None) -> None:
    with pytest.raises(BodyError, match="application/json") as caught:
        require_json(content_type)
    assert caught.value.status == 415
