"""Choose the headers and parameters that providers get, and the headers that clients get back.

Only listed ones are passed on, because a provider, or a proxy in front of it, can have headers and parameters
that change where a request goes, what it costs, or whether its answer says what it used. There is no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from coding_agent_consumer.gateway.wire_formats import RequestRefusedError

_JSON = "application/json"
_SENT = re.compile(
    r"user-agent|anthropic-version|anthropic-beta|anthropic-dangerous-direct-browser-access|openai-beta"
    r"|x-stainless-[a-z-]+|x-app|x-goog-api-client|originator|version"
    r"|(x-)?(session|thread|conversation|client-request|request|claude-code-session|codex-window)[_-]id"
    r"|x-session-affinity|x-codex-beta-features|traceparent|idempotency-key"
)
"""Versions and betas of the API, the client's name, and ids with which providers find their caches and logs.

`openai-organization`, `openai-project` and `x-goog-user-project` are missing because they choose who pays.
"""
_ACCEPTED = frozenset({_JSON, "text/event-stream", "*/*"})
"""Types of answers that the gateway can count."""
_PARAMETERS = {
    "alt": re.compile("json|sse"),  # Google's `proto` cannot be counted
    "beta": re.compile("true"),
    "limit": re.compile(r"[0-9]{1,6}"),
    "pageSize": re.compile(r"[0-9]{1,6}"),
    "after_id": re.compile(r"[\w.:-]{1,256}"),
    "before_id": re.compile(r"[\w.:-]{1,256}"),
    "pageToken": re.compile(r"[\w.:=/+-]{1,2048}"),
}
"""Parameters that are passed on, with their allowed values. Keys and Google's `fields` are not among them."""
_NOT_RETURNED = frozenset(
    {
        # The first line is from RFC 9110, section 7.6.1. The headers that `Connection` names are added.
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("date", "server", "set-cookie", "www-authenticate", "alt-svc"),
        *("strict-transport-security", "proxy-authenticate"),
    }
)


_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
"""W3C Trace Context, version 00; ids of zeros only are invalid."""


def traceparent(given: str, trace: str, span: str) -> str:
    """Return the header with which a provider finds its traces of a request, as W3C Trace Context says.

    The gateway participates in the trace: it keeps the client's trace and flags, and names its own span as
    the parent. A request without a valid header belongs to the attempt's trace.

    Args:
        given: the client's header; empty if there is none.
        trace: the id of the attempt's trace, 32 hexadecimal digits.
        span: the id of this request, 16 hexadecimal digits.
    """
    # The flag `sampled` (01) is set: most servers record a trace with a parent only if the parent says so.
    kept = _TRACEPARENT.fullmatch(given)
    return f"00-{kept[1]}-{span}-{kept[2]}" if kept else f"00-{trace}-{span}-01"


def sent_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a client's request that the gateway passes on; names are in lower case."""
    named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    sent = {name: value for name, value in headers.items() if _SENT.fullmatch(name) and name not in named}
    accepted = [one.partition(";")[0].strip().lower() for one in headers.get("accept", "*/*").split(",")]
    sent["accept"] = headers.get("accept", "*/*") if _ACCEPTED.issuperset(accepted) else "*/*"
    return sent


def check_content(headers: Mapping[str, str]) -> None:
    """Refuse a body that is not plain JSON: the provider could read it in another way than we do.

    Raises:
        RequestRefusedError: the headers say that the body is something else.
    """
    # What is compressed cannot be checked, and a small body may become a huge one.
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestRefusedError(
            400, "Compressed requests are not supported; send the request uncompressed."
        )
    kind, _, more = headers.get("content-type", _JSON).lower().partition(";")
    if kind.strip() != _JSON or more.strip() not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise RequestRefusedError(415, f"The body must be `Content-Type: {_JSON}`, in UTF-8.")


def sent_parameters(query: bytes) -> list[tuple[str, str]]:
    """Return the parameters of a request's address that the provider gets.

    Raises:
        RequestRefusedError: an allowed parameter has a value that is not supported.
    """
    sent = []
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        allowed = _PARAMETERS.get(name)
        if allowed is None:
            continue
        if not allowed.fullmatch(value):
            raise RequestRefusedError(400, f"The parameter {name}={value[:100]} is not supported.")
        sent.append((name, value))
    return sent


def returned_headers(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that the client gets."""
    lines = [(name.lower(), value) for name, value in headers]
    named = {
        one.strip().lower() for name, value in lines if name == b"connection" for one in value.split(b",")
    }
    unwanted = {name.encode() for name in _NOT_RETURNED} | named
    return [(name, value) for name, value in lines if name not in unwanted]
