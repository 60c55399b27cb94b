"""What a request asks for, whether it may be sent, and which parts of it are sent. Pure.

The dummy credential is in the hands of the commands that the model runs, so a request is foreign input. It
may ask for text from a model that is allowed. It may not make the provider fetch addresses or run tools that
reach other hosts: that would be a way out past the egress proxy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl

import jiter

from coding_agent_consumer.gateway.ledger import Tokens
from coding_agent_consumer.gateway.wire import Operation, Route, WireFormat, positive

_BYTES_PER_TOKEN = 4
"""Of a request: English, code and JSON."""
_FILE_TOKENS = 2_000
"""Of an image or a file in a request; its base64 says little about it."""
_DEFAULT_OUTPUT = 16_384
"""Tokens reserved for an answer where the request sets no limit."""
_LOCAL_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "tool_search_")
"""Prefixes of Anthropic's tools that the client runs."""
_CLIENT_TOOLS = frozenset(
    {"", "function", "custom", "local_shell", "apply_patch", "tool_search"}
    | {"computer", "computer_use_preview"}
)
"""Types of tools that the client runs, or that run without any host but the provider's."""
_DECLARATIONS = ("functionDeclarations", "function_declarations")
"""Gemini names tools by key; the client runs these, the provider others (`urlContext`, `googleSearch`)."""
_WAYS_OUT = (
    *("mcp_servers", "web_search_options", "prompt", "cachedContent", "cached_content"),
    *("data_sources", "dataSources", "search_parameters", "enable_search", "plugins"),
)
"""Keys of a request. A stored `prompt` or content has tools of its own. The last five are of Azure OpenAI,
xAI, Model Studio and OpenRouter."""
_SEARCHING = ("*-search-preview*", "*-search-api*", "*:online")
"""Models that search the web without a tool: OpenAI's, and a suffix of OpenRouter's."""
_ADDRESS = re.compile(r"(?i:api_base|.*_(url|uri)(_prefix)?)|.*[a-z](Url|URL|Uri|URI)(Prefix)?")
"""Keys with an address that the provider reads from or writes to: `image_url`, `fileUri` and the like."""
_NO_FILES = frozenset({"tools", "functions", "metadata", "labels"})
"""Keys of a request that are not part of the conversation; tools are checked separately."""
_FILES = frozenset({"data", "file_data", "image_url", "url"})
"""Keys that hold a file or an image."""
_COUNTED = ("generateContentRequest", "generate_content_request")
"""Google's request to count tokens may hold the request that it is about."""
_OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
_GENERATION = ("generationConfig", "generation_config")
_OTHERS = ("model", "models", "fallbacks", "tools", "background", "stream", "stream_options", "n")
_CONVERSATION = ("messages", "input", "contents", "system", "systemInstruction", "system_instruction")
_READ = {
    name.casefold(): name
    for name in (*_WAYS_OUT, *_CONVERSATION, *_COUNTED, *_OUTPUT_LIMITS, *_GENERATION, *_OTHERS)
}
"""Keys of a request that decide whether it may be sent."""
_DATA = frozenset({"functionCall", "function_call", "args", "tools"})
"""Keys of calls and of schemas."""
_RESULTS = ("functionResponse", "function_response")
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""RFC 9110, section 7.6.1; in addition those that `Connection` names."""
_NOT_SENT = _HOP_BY_HOP | {
    *("host", "content-length", "accept-encoding", "expect", "cookie", "forwarded", "via"),
    *("authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "api-key"),
}
_DESTINATION = re.compile(r"(.*-)?(host|url|uri|base|method-override|portkey-config)(-.*)?")
"""Headers with which a gateway or a proxy at the provider sends a request elsewhere."""
_NOT_RETURNED = _HOP_BY_HOP | {
    *("date", "server", "set-cookie", "www-authenticate", "alt-svc"),
    *("strict-transport-security", "proxy-authenticate"),
}
_QUERY = frozenset({"alt", "beta", "limit", "after_id", "before_id", "pageSize", "pageToken"})
"""Parameters that are passed on; a key in the address is not."""


class RequestRefusedError(Exception):
    """The request is not sent; the text is for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Ask:
    """A request for an answer that may be sent.

    Attributes:
        body: to send; the client's own bytes unless usage had to be asked for.
        estimated: tokens of the request, and of the longest answer that it allows.
    """

    model: str
    body: bytes
    estimated: Tokens


def read_request(
    route: Route, body: bytes, *, models: Sequence[str] = (), provider_tools: bool = False
) -> Ask:
    """Check the body of a request for an answer.

    Args:
        models: names that are allowed, with `*`; empty allows all. They hold for the models that the provider
            may choose instead, too.
        provider_tools: allow tools that the provider runs, and addresses that it fetches.

    Raises:
        RequestRefusedError: it is not such a request, or it may not be sent.
    """
    data = _parsed(body)
    model = route.model if route.model is not None else data.get("model")
    if not isinstance(model, str) or not model:
        raise RequestRefusedError(400, "`model` is missing.")
    for name in (model, *_other_models(data)) if models else ():
        if not any(fnmatchcase(name, pattern) for pattern in models):
            raise RequestRefusedError(
                403, f"The model {name[:100]} is not allowed; an administrator can add it to gateway.models."
            )
    if data.get("background"):
        raise RequestRefusedError(
            400,
            "`background` is not supported, because the gateway could not count what such a request uses.",
        )
    nodes = _nodes(data)
    if not provider_tools and (found := next(_ways_out(route, model, nodes), None)) is not None:
        raise RequestRefusedError(
            403,
            f"{found} would reach other hosts from the provider, past the egress rules; an administrator can"
            " allow it with gateway.provider_tools.",
        )
    files = list(_files(nodes))
    estimated = Tokens(
        input=max(0, len(body) - sum(files)) // _BYTES_PER_TOKEN + _FILE_TOKENS * len(files),
        output=_longest_answer(data),
    )
    if route.operation is Operation.CHAT_COMPLETIONS and data.get("stream"):
        options = data.get("stream_options")
        options = options if isinstance(options, dict) else {}
        if options.get("include_usage") is not True:
            # Without it a stream does not say what it used.
            data["stream_options"] = {**options, "include_usage": True}
            body = json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return Ask(model, body, estimated)


def sent_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request that the provider gets; names are in lower case."""
    named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    unwanted = _NOT_SENT | named
    return {
        name: value
        for name, value in headers.items()
        if name not in unwanted and not _DESTINATION.fullmatch(name)
    }


def returned_headers(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that the client gets."""
    lines = [(name.lower(), value) for name, value in headers]
    named = {
        one.strip().lower() for name, value in lines if name == b"connection" for one in value.split(b",")
    }
    unwanted = {name.encode() for name in _NOT_RETURNED} | named
    return [(name, value) for name, value in lines if name not in unwanted]


def sent_parameters(query: bytes) -> list[tuple[str, str]]:
    """The parameters of a request's address that the provider gets."""
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return [(name, value) for name, value in given if name in _QUERY]


def _parsed(body: bytes) -> dict[str, Any]:
    """The request. If a provider took two keys for one, we might check one and it might use the other."""
    try:
        data = jiter.from_json(body, catch_duplicate_keys=True)
    except ValueError:
        # Slower, but it accepts half of a surrogate pair, which clients produce when they cut a text.
        try:
            data = json.loads(body.decode(), object_pairs_hook=_object)
        except (ValueError, RecursionError):
            raise RequestRefusedError(400, "The body is not JSON, or it names a key twice.") from None
    if not isinstance(data, dict):
        raise RequestRefusedError(400, "The body is not a JSON object.")
    for key in data:
        if _READ.get(key.casefold(), key) != key:  # Go's encoding/json ignores the case
            raise RequestRefusedError(400, f"`{key[:100]}` is not spelled `{_READ[key.casefold()]}`.")
    return data


def _longest_answer(data: Mapping[str, Any]) -> int:
    inner = [entry for name in _GENERATION if isinstance(entry := data.get(name), dict)]
    limit = max(positive(place.get(name)) for place in (data, *inner) for name in _OUTPUT_LIMITS)
    counts = [positive(place.get(name)) for place in inner for name in ("candidateCount", "candidate_count")]
    return (limit or _DEFAULT_OUTPUT) * max(1, positive(data.get("n")), *counts)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without repeated keys: of two values we might check one, and the provider use the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _other_models(data: Mapping[str, Any]) -> Iterator[str]:
    """Models that the provider may ask instead: `fallbacks` of Anthropic, `models` of OpenRouter."""
    for value in (data.get("fallbacks"), data.get("models")):
        for one in value if isinstance(value, list) else [value] if value else []:
            yield str(one.get("model") if isinstance(one, Mapping) else one)


def _ways_out(route: Route, model: str, nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What makes the provider reach other hosts, in words for the refusal."""
    if any(fnmatchcase(model, pattern) for pattern in _SEARCHING):
        yield f"The model {model[:100]}"
    requests = (nodes[0], *(node for key in _COUNTED if isinstance(node := nodes[0].get(key), Mapping)))
    yield from (f"`{key}`" for request in requests for key in _WAYS_OUT if key in request)
    # A long conversation has thousands of objects, but few different keys.
    suspicious = {key for key in set().union(*nodes) if key == "file_data" or _ADDRESS.fullmatch(key)}
    for node in nodes:
        kind = node.get("type")
        if kind == "url" and "url" in node:
            yield "A file by its address"
        # Tools also come with the conversation: `additional_tools`, `tool_search_output`, `tool_definition`.
        if tools := node.get("tools"):
            yield from _tools_out(route, tools)
        if kind == "tool_definition":
            yield from _tools_out(route, node.get("definition"))
        for key in suspicious.intersection(node):
            if _is_address(key, node[key]):
                yield f"`{key[:100]}` with an address"


def _is_address(key: str, value: Any) -> bool:
    """Whether a provider would fetch what a key of `_ADDRESS`, or `file_data`, holds."""
    if key == "file_data":
        return isinstance(value, str) and "://" in value[:20]  # OpenRouter
    given = value.get("url") if isinstance(value, Mapping) else value
    return isinstance(given, str) and not given.startswith("data:")


def _tools_out(route: Route, tools: Any) -> Iterator[str]:
    """Which of these tools the provider runs."""
    waiting = list(tools) if isinstance(tools, list) else [tools] if tools else []
    while waiting:
        tool = waiting.pop()
        if not isinstance(tool, Mapping):
            yield "A tool that is not an object"
            continue
        if route.format is WireFormat.GOOGLE:
            yield from (f"The tool `{key[:100]}`" for key in tool if key not in _DECLARATIONS)
            continue
        kind = tool.get("type", "")
        if kind == "namespace":
            waiting.extend(tool["tools"] if isinstance(tool.get("tools"), list) else [None])
            continue
        if kind == "web_search" and tool.get("external_web_access") is False:
            continue  # OpenAI's own index
        if not isinstance(kind, str) or not (kind in _CLIENT_TOOLS or kind.startswith(_LOCAL_TOOLS)):
            yield f"The tool `{str(kind)[:100]}`"


def _nodes(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The request and the objects in it; not those of tools' schemas, calls and results, which are data."""
    found: list[dict[str, Any]] = [data]
    waiting: list[Any] = [value for key, value in data.items() if key not in _NO_FILES]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            found.append(value)
            call = value.get("type") == "tool_use"
            for key, entry in value.items():
                if not isinstance(entry, (list, dict)) or key in _DATA or (call and key == "input"):
                    continue
                if key in _RESULTS and isinstance(entry, dict):
                    waiting.append({name: part for name, part in entry.items() if name != "response"})
                else:
                    waiting.append(entry)
    return found


def _files(nodes: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """Characters of each image or file in the request."""
    for node in nodes:
        for key in _FILES.intersection(node):
            value = node[key]
            if isinstance(value, str) and (key in ("data", "file_data") or value.startswith("data:")):
                yield len(value)
