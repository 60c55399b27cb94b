"""Searches a request for ways to other hosts, for models, and for parts without a known size or price.

A request is read as the provider could read it, and not as its format says: a compatible service can have
keys of its own, ignore their case, and look at a key in any object. So the rules hold at every depth, except
in parts that are only data to a provider: schemas, and the arguments and results of calls. There is no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from coding_agent_core.settings.llm import WireFormat

from coding_agent_consumer.gateway.wire_formats import RequestRefusedError, Route

_LOCAL_TOOLS = ("bash_", "text_editor_", "computer_", "memory_", "tool_search_")
"""Prefixes of Anthropic's tools that the client runs."""
_CLIENT_TOOLS = frozenset(
    {"", "function", "custom", "local_shell", "apply_patch", "tool_search"}
    | {"computer", "computer_use_preview"}
)
"""Types of tools that the client runs, or that run without any host but the provider's."""
_DECLARATIONS = ("functionDeclarations", "function_declarations")
"""Gemini names tools by key. The client runs these; the provider runs `urlContext`, `googleSearch`, etc."""
_WAYS_OUT = (
    *("mcp_servers", "web_search_options", "prompt", "cachedContent", "cached_content"),
    *("data_sources", "dataSources", "search_parameters", "enable_search", "plugins"),
)
"""Keys that make the provider reach other hosts. A stored `prompt` or content has tools of its own. The last
five are keys of Azure OpenAI, xAI, Model Studio and OpenRouter."""
_SEARCHING = ("*-search-preview*", "*-search-api*", "*:online")
"""Models that search the web without a tool: OpenAI's, and a suffix of OpenRouter's."""
_ADDRESS = re.compile(r".*ur[il]s?(_?prefix)?|.*_base|.*endpoint|.*host(name)?")
"""Keys, in any case, whose value is an address that the provider reads from or writes to."""
_FILES = frozenset({"data", "file_data", "filedata"})
"""Keys, in lower case, whose value is a file in base64. At OpenRouter, `file_data` can be an address."""
_LABELS = frozenset({"metadata", "labels", "client_metadata", "logit_bias"})
"""Keys of objects in which the client chooses the keys."""
_REFERENCES = frozenset({"$ref", "$dynamicref", "$recursiveref"})
"""Keys of a schema, in lower case, whose address some servers fetch (llama.cpp's schema converter does)."""

_TEXTS = frozenset(
    {"text", "content", "input", "instructions", "system", "output", "arguments", "stdout", "stderr", "code"}
    | {"thinking", "reasoning", "reasoning_content", "refusal", "cited_text", "diff"}
    | {"stop", "stop_sequences", "stopSequences"}
)
"""Keys whose strings the model reads or wrote; providers do not interpret them."""
_TEXTS_OF_TOOLS = frozenset({"description", "definition"})
_TOOLS = ("tools", "functions", *_DECLARATIONS)
_SCHEMAS_OF_TOOLS = frozenset(
    {"parameters", "parametersJsonSchema", "parameters_json_schema", "response", "responseJsonSchema"}
    | {"response_json_schema", "input_schema", "output_schema", "input_examples"}
)
_SCHEMAS = frozenset(
    {"schema", "responseSchema", "response_schema", "responseJsonSchema", "response_json_schema"}
)
_CALLS = {"functionCall": "args", "function_call": "args"}
_RESULTS = {"functionResponse": "response", "function_response": "response"}
_DATA_OF_TYPES = {
    "tool_use": "input",
    "server_tool_use": "input",
    "tool_search_call": "arguments",
    "local_shell_call": "action",
    "shell_call": "action",
    "computer_call": "action",
    "web_search_call": "action",
    "apply_patch_call": "operation",
}
"""For items of these types, the key of a call's arguments."""

_COUNTED = ("generateContentRequest", "generate_content_request")
"""Google's request to count tokens may contain the request whose tokens are counted."""
_TOP = frozenset({"", *_COUNTED})
"""Keys of objects that are a request themselves; the empty key is the request's own."""
_CONVERSATION = ("messages", "input", "contents", "system", "systemInstruction", "system_instruction")
OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
GENERATION = ("generationConfig", "generation_config")
CANDIDATES = ("candidateCount", "candidate_count")

_SIZED = frozenset(
    {"model", "models", "fallbacks", "stream", "stream_options", "temperature", "top_p", "top_k", "seed"}
    | {"tools", "tool_choice", "metadata", "stop", "store", "user", "service_tier", "serviceTier", "n"}
    # Anthropic
    | {"max_tokens", "messages", "system", "stop_sequences", "thinking", "output_config", "output_format"}
    | {"cache_control", "speed", "inference_geo", "diagnostics", "user_profile_id", "workspace_id"}
    # OpenAI
    | {"max_completion_tokens", "frequency_penalty", "presence_penalty", "function_call", "functions"}
    | {"logit_bias", "logprobs", "top_logprobs", "modalities", "parallel_tool_calls", "prompt_cache_key"}
    | {"prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "reasoning", "response_format"}
    | {"safety_identifier", "verbosity", "include", "input", "instructions", "max_output_tokens", "text"}
    | {"client_metadata", "truncation"}
    # Google
    | {"contents", "systemInstruction", "system_instruction", *GENERATION, "safetySettings"}
    | {"safety_settings", "toolConfig", "tool_config", "labels"}
)
"""Keys of a request that add only the tokens of their own text, and none of another request or a file."""
_SIZED_PARTS = frozenset(
    {"type", "role", "content", "text", "id", "name", "status", "phase", "index", "format", "annotations"}
    | {"logprobs", "cache_control", "prompt_cache_breakpoint", "mode", "ttl", "scope", "summary", "caller"}
    | {"namespace", "execution"}
    # Calls and their results
    | {"input", "tool_use_id", "is_error", "tool_name", "call_id", "arguments", "output", "tool_calls"}
    | {"tool_call_id", "function", "custom", "function_call", "functionCall", "functionResponse"}
    | {"function_response", "args", "response", "action", "operation", "tools", "tool", "definition"}
    | {"parts", "stdout", "stderr", "outcome", "exit_code", "max_output_length", "success"}
    # What the model wrote
    | {"thinking", "signature", "data", "encrypted_content", "refusal", "reasoning", "reasoning_content"}
    | {"reasoning_details", "thought", "thoughtSignature", "thought_signature", "cited_text", "citations"}
    # Keys of an item that Codex returns
    | {"metadata", "internal_chat_message_metadata_passthrough"}
)
"""Keys of a conversation's objects whose tokens are those of their own text; an encrypted thought is longer
than the thought."""
_SIZED_TYPES = frozenset(
    {"", "text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal", "message"}
    | {"tool_use", "tool_result", "tool_reference", "thinking", "redacted_thinking", "reasoning"}
    | {"function", "function_call", "function_call_output", "custom", "custom_tool_call"}
    | {"custom_tool_call_output", "local_shell_call", "local_shell_call_output", "shell_call"}
    | {"shell_call_output", "apply_patch_call", "apply_patch_call_output", "tool_search_call"}
    | {"tool_search_output", "additional_tools", "web_search_call", "tool_addition", "tool_removal"}
    | {"tool_definition", "ephemeral", "reasoning.text", "reasoning.summary", "reasoning.encrypted"}
    | {"exit", "timeout", "exec", "direct"}
)
_CLEARING = "clear_"
"""Prefix of Anthropic's context edits that only remove something."""

_ORDINARY = {
    "service_tier": ("auto", "default", "standard", "standard_only", "service_tier_standard"),
    "servicetier": ("auto", "default", "standard", "service_tier_standard", "service_tier_unspecified"),
    "speed": ("standard",),
    "inference_geo": ("global", "not_available"),
    "ttl": ("5m", "1h", "30m"),
    "modalities": ("text",),
    "response_modalities": ("text", "modality_unspecified"),
    "responsemodalities": ("text", "modality_unspecified"),
}
"""Values with the list price; other values cost more or less, or are not text."""
_SPECIAL = frozenset({"audio", "speechconfig", "speech_config", "input_audio", "audio_url", "video_url"})
_SPECIAL |= {"billing_policy", "imageconfig", "image_config"}
_MEDIA = ("audio/", "video/", "data:audio", "data:video")

_READ = {
    name.casefold(): name
    for name in (
        *(*_WAYS_OUT, *_CONVERSATION, *_COUNTED, *OUTPUT_LIMITS, *GENERATION, *CANDIDATES, *_TOOLS),
        *(*_CALLS, *_RESULTS, *_TEXTS, *_TEXTS_OF_TOOLS, *_SCHEMAS, *_SCHEMAS_OF_TOOLS),
        *(*_SIZED, *_SIZED_PARTS, "background", "url", "args", "type"),
    )
}
"""Keys that decide whether a request may be sent, by their names with folded case."""


@dataclass
class Contents:
    """The parts of a request that decide whether it is allowed and how much it costs.

    Attributes:
        way_out: the part that makes the provider reach other hosts, in words for the refusal.
        models: the models that the request names, except the one that is asked.
        file_length: characters of images and files.
        unsized: a part that can add a number of tokens that the request does not show.
        special: a part with a price other than that of text in the ordinary mode.
    """

    way_out: str | None = None
    models: list[str] = field(default_factory=list)
    file_length: int = 0
    unsized: str | None = None
    special: str | None = None


class _Location(NamedTuple):
    """The location of an object in the request.

    Attributes:
        key: the key of the object, or of the list that it is in; empty: the object is the request.
        conversation: whether the object is in a part that the model reads.
        tool: whether the object is in the declaration of a tool.
        kind: the object's `type`.
    """

    key: str = ""
    conversation: bool = False
    tool: bool = False
    kind: str = ""

    def inside(self, key: str) -> _Location:
        """Return the location of an object under a key of this one."""
        return _Location(
            key,
            self.conversation or (self.key in _TOP and key in _CONVERSATION),
            self.tool or key in _TOOLS or (key == "definition" and self.kind == "tool_definition"),
        )


def read_contents(route: Route, model: str, data: dict[str, Any]) -> Contents:
    """Read the whole request once.

    Raises:
        RequestRefusedError: a key that matters is written in another case, or has a control character.
    """
    contents = Contents()
    if any(fnmatchcase(model.casefold(), pattern) for pattern in _SEARCHING):
        contents.way_out = f"The model {model[:100]}"
    waiting: list[tuple[Any, _Location]] = [(data, _Location())]
    while waiting:
        value, place = waiting.pop()
        if isinstance(value, list):
            waiting.extend((entry, place) for entry in value if isinstance(entry, (dict, list)))
            for entry in value:
                if isinstance(entry, list):
                    _read_texts(contents, place.key, entry, place)
            continue
        if not isinstance(value, dict):
            continue
        waiting.extend(_read_object(contents, route, value, place))
    if contents.way_out is not None:
        contents.unsized = contents.unsized or contents.way_out
    return contents


def _read_object(
    contents: Contents, route: Route, value: Mapping[str, Any], place: _Location
) -> Iterator[tuple[Any, _Location]]:
    """Read one object. Yield the objects and lists in it that are still to be read."""
    kind = value.get("type", "")
    place = _Location(place.key, place.conversation, place.tool, kind if isinstance(kind, str) else "?")
    if place.conversation and not place.tool:
        contents.unsized = contents.unsized or _unsized_part(value, place)
    for key, entry in value.items():
        if entry is None:
            continue
        if place.key in _LABELS:
            _read_texts(contents, key, entry, place)
            yield entry, place
            continue
        if key in _TEXTS and isinstance(entry, str) and place.key not in _TOP:
            continue  # most of a conversation
        _check_spelling(key)
        if _is_schema(key, place):
            contents.way_out = contents.way_out or next(_references(entry), None)
        elif not _is_data(key, entry, place):
            _read_entry(contents, route, key, entry, place)
            if isinstance(entry, (dict, list)):
                yield entry, place.inside(key)


def _read_entry(contents: Contents, route: Route, key: str, entry: Any, place: _Location) -> None:
    name = key.casefold()
    if name in _WAYS_OUT_FOLDED:
        contents.way_out = contents.way_out or f"`{key[:100]}`"
    # The conversation can have tools too: `additional_tools`, `tool_search_output`, `tool_definition`.
    if key == "tools" or (key == "definition" and place.kind == "tool_definition"):
        contents.way_out = contents.way_out or next(_tools_out(route, entry), None)
    asked = name == "model" and place.key == "" and route.model is None
    if name in ("model", "models", "fallbacks") and not asked:
        contents.models.extend(_names(entry))
    if place.key in _TOP:
        contents.unsized = contents.unsized or _unsized_entry(key, entry)
    if contents.special is None and _is_special(name, entry):
        contents.special = f"`{key[:100]}`"
    _read_texts(contents, key, entry, place)


def _read_texts(contents: Contents, key: str, entry: Any, place: _Location) -> None:
    if key in _TEXTS and place.key not in _LABELS:
        return
    if (place.tool and key in _TEXTS_OF_TOOLS) or (key == "data" and place.kind == "text"):
        return
    name = key.casefold()
    for text in (entry,) if isinstance(entry, str) else entry if isinstance(entry, list) else ():
        if not isinstance(text, str):
            continue
        if text.startswith("data:") or name in _FILES:
            contents.file_length += len(text)
        if contents.special is None and text[:10].casefold().startswith(_MEDIA):
            contents.special = f"`{key[:100]}` with {text[:40].partition(';')[0]}"
        if contents.way_out is None and _is_address(name, text):
            contents.way_out = f"`{key[:100]}` with an address"


def _is_address(name: str, text: str) -> bool:
    """Whether a provider could fetch the value of a key as an address."""
    if text.startswith("data:"):
        return False
    if _ADDRESS.fullmatch(name):
        return text != ""
    return "://" in text or text.lstrip().startswith("//")


def _check_spelling(key: str) -> None:
    """Refuse a key that the provider could read as a different key than we do.

    Go's encoding/json ignores the case; parsers in C can end a key at a control character.
    """
    if (name := _READ.get(key.casefold(), key)) != key:
        raise RequestRefusedError(400, f"`{key[:100]}` is not spelled `{name}`.")
    if not key.isprintable():
        raise RequestRefusedError(400, f"The key {key[:100]!r} has a control character.")


def _is_data(key: str, entry: Any, place: _Location) -> bool:
    """Whether the value of a key is the arguments or the result of a call that the client runs."""
    if not isinstance(entry, (dict, list)) or place.key in _TOP:
        return False
    return key in (_CALLS.get(place.key), _RESULTS.get(place.key), _DATA_OF_TYPES.get(place.kind))


def _is_schema(key: str, place: _Location) -> bool:
    if place.tool and key in _SCHEMAS_OF_TOOLS:
        return True
    return key in _SCHEMAS and place.key in ("json_schema", "format", "output_format", *GENERATION)


def _references(schema: Any) -> Iterator[str]:
    """Yield the references of a schema to parts at an address."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            for key, entry in value.items():
                if isinstance(entry, (dict, list)):
                    waiting.append(entry)
                elif key.casefold() in _REFERENCES and isinstance(entry, str) and "//" in entry:
                    yield f"`{key[:100]}` with an address"


def _names(value: Any) -> Iterator[str]:
    """Yield the model names in a value, which may be one name or a list of names."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str):
            yield one.removeprefix("models/")


def _is_special(name: str, entry: Any) -> bool:
    if name in _SPECIAL:
        return entry not in (False, "", {}, [])
    ordinary = _ORDINARY.get(name)
    if ordinary is None:
        return False
    values = entry if isinstance(entry, list) else [entry]
    return any(str(value).casefold() not in ordinary for value in values)


def _unsized_entry(key: str, entry: Any) -> str | None:
    """Return a key of the request, quoted, if it can add tokens other than those of its own text."""
    if key in _SIZED or key in _COUNTED or entry in (False, "", [], {}):
        return None
    if key == "context_management" and isinstance(entry, dict):
        edits = entry.get("edits")
        listed = edits if isinstance(edits, list) else [edits]
        kinds = [one.get("type") if isinstance(one, dict) else None for one in listed]
        if len(entry) == 1 and all(isinstance(one, str) and one.startswith(_CLEARING) for one in kinds):
            return None
    return f"`{key[:100]}`"


def _unsized_part(node: Mapping[str, Any], place: _Location) -> str | None:
    """Return, in words, a part of a conversation's object that can add tokens other than its text's."""
    kind = place.kind
    if kind not in _SIZED_TYPES:
        return f"`{kind[:100]}`"
    for key in node:
        if key not in _SIZED_PARTS and node[key] is not None:
            return f"`{key[:100]}`"
    # OpenAI completes these from what it stores. `item_reference` may be left out.
    stored = kind == "message" or (place.key == "input" and not kind)
    if stored and "id" in node and "content" not in node:
        return "an item by its id"
    if kind == "reasoning" and "id" in node and not isinstance(node.get("encrypted_content"), str):
        return "`reasoning` by its id"
    return None


def _tools_out(route: Route, tools: Any) -> Iterator[str]:
    """Yield the names of the declared tools that the provider itself runs."""
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


_WAYS_OUT_FOLDED = frozenset(key.casefold() for key in _WAYS_OUT)
