"""S1, S3, B1: what counts as coming from the forge."""

import hashlib
import hmac

import pytest
from coding_agent_receiver.verify import github_verified, gitlab_verified

from tests.fixtures.deliveries import sign

BODY = b'{"action": "labeled"}'
DIGEST = sign(BODY, "right").removeprefix("sha256=")


def test_githubs_own_documented_example_is_verified():
    # https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
    header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert github_verified(b"Hello, World!", header, ["It's a Secret to Everybody"])


@pytest.mark.parametrize(
    ("header", "secrets", "verified"),
    [
        (f"sha256={DIGEST}", ["right"], True),
        (f"sha256={DIGEST}", ["new", "right"], True),
        (f"sha256={DIGEST}", ["right", "new"], True),
        (f"sha256={DIGEST.upper()}", ["right"], True),
        (f"sha256={DIGEST}", ["wrong"], False),
        (f"sha256={DIGEST}", [], False),
        (f"sha256={sign(BODY, '').removeprefix('sha256=')}", [""], False),
        (None, ["right"], False),
        ("", ["right"], False),
        (DIGEST, ["right"], False),
        (f"sha1={hmac.new(b'right', BODY, hashlib.sha1).hexdigest()}", ["right"], False),
        (f"sha256={DIGEST[:-1]}", ["right"], False),
        (f"sha256={DIGEST}0", ["right"], False),
        (f"sha256={DIGEST}\n", ["right"], False),
        (f"sha256=sha256={DIGEST}", ["right"], False),
        (f"SHA256={DIGEST}", ["right"], False),
        ("sha256=" + "é" * 64, ["right"], False),
        ("sha256=" + "٣" * 64, ["right"], False),
        ("sha256=" + "zz" * 32, ["right"], False),
    ],
)
def test_a_github_request_is_verified_only_by_the_hmac_of_its_body(header, secrets, verified):
    assert github_verified(BODY, header, secrets) is verified


def test_a_changed_body_is_not_verified():
    assert not github_verified(BODY + b" ", f"sha256={DIGEST}", ["right"])


@pytest.mark.parametrize(
    ("header", "tokens", "verified"),
    [
        ("right", ["right"], True),
        ("right", ["old", "right"], True),
        ("right", ["wrong"], False),
        ("right", [], False),
        ("righ", ["right"], False),
        ("", [""], False),
        (None, ["right"], False),
        # A token of UTF-8 letters arrives decoded as Latin-1.
        ("pässwörd".encode().decode("latin-1"), ["pässwörd"], True),
        ("é", ["right"], False),
        ("漢字", ["right"], False),
    ],
)
def test_a_gitlab_request_is_verified_only_by_its_token(header, tokens, verified):
    assert gitlab_verified(header, tokens) is verified
