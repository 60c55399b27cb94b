"""S6: a body that cannot be read has a status and a plain reason."""

import pytest
from coding_agent_receiver.payload import BodyError, decode_payload, require_json


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "not JSON or was cut short"),
        (b'{"action": "labe', 400, "not JSON or was cut short (line 1, column 12)"),
        (b"payload=%7B%7D", 400, "not JSON"),
        (b'{"a": 1}}', 400, "not JSON"),
        (b'\xef\xbb\xbf{"a": 1}', 400, "not JSON"),
        (b'{"a": "\xff"}', 400, "not UTF-8 (byte 7)"),
        ('{"a": 1}'.encode("utf-16"), 400, "not UTF-8"),
        (b'{"a": NaN}', 400, "NaN is not a JSON value"),
        (b'{"a": -Infinity}', 400, "-Infinity is not a JSON value"),
        (b'{"a": ' + b"9" * 5000 + b"}", 400, "a number that is too long"),
        (b"[" * 200_000, 400, "nested too deeply"),
        (b'{"a":' * 200_000, 400, "nested too deeply"),
        (b"[]", 422, "not an object"),
        (b"null", 422, "not an object"),
        (b'"text"', 422, "not an object"),
        (b"7", 422, "not an object"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(body, status, reason):
    with pytest.raises(BodyError) as caught:
        decode_payload(body)
    assert caught.value.status == status
    assert reason in str(caught.value)


def test_of_duplicate_keys_the_last_wins():
    assert decode_payload(b'{"action": "opened", "action": "labeled"}') == {"action": "labeled"}


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_is_accepted_by_its_content_type(content_type):
    require_json(content_type)


@pytest.mark.parametrize(
    "content_type", [None, "", "application/x-www-form-urlencoded", "text/plain", "application/jsonp"]
)
def test_any_other_content_type_is_415(content_type):
    with pytest.raises(BodyError, match="application/json") as caught:
        require_json(content_type)
    assert caught.value.status == 415
