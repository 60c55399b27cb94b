"""Decides whether a request may be sent, and the most that its answer can use, without I/O.

The commands that the model runs have the gateway's own credential, so a request is untrusted input. It may
ask for text from a model that is allowed. It may not make the provider fetch addresses or run tools that
reach other hosts: this would be a way around the egress proxy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NoReturn

import jiter

from coding_agent_consumer.gateway.contents import CANDIDATES, GENERATION, Contents, read_contents
from coding_agent_consumer.gateway.ledger import Size, Tokens
from coding_agent_consumer.gateway.wire_formats import Operation, RequestRefusedError, Route, positive

_VALUES_LIMIT = 200_000
"""The most JSON values of a request. A conversation of a million tokens has a tenth of this. Values take
memory and time: 11 million of them took 900 MiB and stopped the attempt for 37 seconds."""
_MARKS_LIMIT = 10 * _VALUES_LIMIT
"""The most commas, brackets and quotes of a request, including those in its texts."""
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Matches a text, even one without an end. Otherwise each quote in such a text would be tried as a beginning,
and 100,000 escaped quotes would take minutes."""
_BYTES_PER_TOKEN = 4
"""A rough mean for requests, which are English, code and JSON."""
_FILE_TOKENS = 2_000
"""An image or file of a request counts as this many: its base64 says little about its tokens."""
_ADDED_TOKENS = 4_000
"""The most tokens that a provider adds to a request for its tools (Anthropic, *Tool use pricing*: up to 804
for the instructions, and 245 to 1,000 for each tool of its own)."""
_OUTPUT_LIMITS = {
    Operation.MESSAGES: ("max_tokens",),
    Operation.CHAT_COMPLETIONS: ("max_tokens", "max_completion_tokens"),
    Operation.RESPONSES: ("max_output_tokens",),
    Operation.GENERATE_CONTENT: ("maxOutputTokens", "max_output_tokens"),
}

LongestAnswer = Callable[[str], int | None]
"""Returns the tokens of a model's longest answer; `None`: not known."""


@dataclass(frozen=True)
class ModelRequest:
    """A checked request for an answer, which may be sent.

    Attributes:
        models: the model that is asked, and those that the provider may use instead.
        body: the body to send: the client's own bytes, unless something had to be added or left out.
        size: how much the answer can use.
        special: a part with a price other than that of text in the ordinary mode; `None`: there is none.
    """

    models: tuple[str, ...]
    body: bytes
    size: Size
    special: str | None = None


def read_request(
    route: Route,
    body: bytes,
    *,
    models: Sequence[str] = (),
    provider_tools: bool = False,
    longest: LongestAnswer = lambda _: None,
) -> ModelRequest:
    """Check the body of a request for an answer.

    Args:
        models: names that are allowed, with `*`; if empty, all are. Models that the provider may choose
            instead must be allowed too.
        provider_tools: whether to allow tools that the provider runs, and addresses that it fetches.
        longest: gives the longest answer to a request that sets no limit.

    Raises:
        RequestRefusedError: the body is not such a request, or the request may not be sent.
    """
    data = _parsed(body)
    model = route.model if route.model is not None else data.get("model")
    if not isinstance(model, str) or not model:
        raise RequestRefusedError(400, "`model` is missing.")
    changed = _without_foreign_metadata(data)
    contents = read_contents(route, model, data)
    named = tuple(dict.fromkeys((model, *contents.models)))
    for name in named if models else ():
        if not any(name == pattern or fnmatchcase(name, pattern) for pattern in models):
            raise RequestRefusedError(
                403, f"The model {name[:100]} is not allowed; an administrator can add it to gateway.models."
            )
    # The answer of such a request is fetched later, by its id.
    if data.get("background"):
        raise RequestRefusedError(
            400,
            "`background` is not supported, because the gateway could not count what such a request uses.",
        )
    if not provider_tools and contents.way_out is not None:
        raise RequestRefusedError(
            403,
            f"{contents.way_out} would reach other hosts from the provider, past the egress rules; an "
            "administrator can allow it with gateway.provider_tools.",
        )
    limit = _output_limit(route.operation, data, named, longest)
    size = _size(len(body), contents, limit)
    if route.operation is Operation.CHAT_COMPLETIONS and data.get("stream"):
        options = data.get("stream_options")
        options = options if isinstance(options, dict) else {}
        if options.get("include_usage") is not True:
            # Without this option, a stream does not say what it used.
            data["stream_options"] = {**options, "include_usage": True}
            changed = True
    # Unchanged bytes are sent as they came: they are unambiguous, and writing them again costs more CPU time
    # than reading them.
    if changed:
        body = _written(data)
    return ModelRequest(named, body, size, contents.special)


def _written(data: dict[str, Any]) -> bytes:
    try:
        return json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair can only be sent as an escape
        return json.dumps(data).encode()


def _parsed(body: bytes) -> dict[str, Any]:
    """Parse a request; refuse a repeated key, as we might check one value and the provider use the other."""
    _check_values(body)
    try:
        data = jiter.from_json(body, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError:
        # This is slower, but accepts half a surrogate pair, which clients produce when they cut a text.
        try:
            # Two parsers may read a repeated key differently: ours the harmless one, the provider's the
            # other.
            data = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise RequestRefusedError(400, "The body is not JSON, or it names a key twice.") from None
    if not isinstance(data, dict):
        raise RequestRefusedError(400, "The body is not a JSON object.")
    return data


def _check_values(body: bytes) -> None:
    """Limit the values before the body is parsed: each mark outside of a text begins a value."""
    values = _marks(body)
    if values > _VALUES_LIMIT and values + body.count(b'"') <= _MARKS_LIMIT:
        values = _marks(_STRING.sub(b"", body))
    if values > _VALUES_LIMIT:
        raise RequestRefusedError(413, f"The request has more than {_VALUES_LIMIT} values.")


def _marks(text: bytes) -> int:
    return len(text) - len(text.translate(None, b",[{"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; a repeated key is an error.

    Raises:
        ValueError: a key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _without_foreign_metadata(data: dict[str, Any]) -> bool:
    """Leave out what Codex says about the repository if it has addresses, which are the clone's remotes."""
    metadata = data.get("client_metadata")
    if not isinstance(metadata, dict) or not any("://" in str(value) for value in metadata.values()):
        return False
    del data["client_metadata"]
    return True


def _size(length: int, contents: Contents, limit: int | None) -> Size:
    text = max(0, length - contents.file_length)
    least = text // _BYTES_PER_TOKEN + (_FILE_TOKENS if contents.file_length else 0)
    if contents.unsized is not None or limit is None:
        return Size(least, None)
    return Size(least, Tokens(input=length + _ADDED_TOKENS, output=limit))


def _output_limit(
    operation: Operation, data: Mapping[str, Any], models: Sequence[str], longest: LongestAnswer
) -> int | None:
    """Return the most output tokens of all answers to the request together; `None` if not known."""
    inner = [entry for name in GENERATION if isinstance(entry := data.get(name), dict)]
    places = inner if operation is Operation.GENERATE_CONTENT else [data]
    limits = [positive(place.get(name)) for place in places for name in _OUTPUT_LIMITS.get(operation, ())]
    limit: int | None = max(limits, default=0)
    if not limit:
        known = [longest(name) for name in models]
        limit = None if None in known else max(filter(None, known), default=None)
    answers = [positive(place.get(name)) for place in inner for name in CANDIDATES]
    return None if limit is None else limit * max(1, positive(data.get("n")), *answers)
