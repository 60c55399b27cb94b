"""How the model ends its work: by the tool `finish`, or by a plain answer after it did something.

Plain text is allowed so that no request forces a tool call, which some servers refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Literal

from coding_agent_core.reasons import Reason
from pydantic import BaseModel, Field
from pydantic_ai import ModelRetry, ToolOutput
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart

FINISH = "finish"
_SAY_LENGTH = 300
"""Characters of the agent's own words in a sentence for a person."""
_USE_TOOLS = (
    "Nothing was done yet. Call the tools to work in the repository. If nothing is to be done or it cannot be"
    f" done, call `{FINISH}` with the status that says so."
)
_NATIVE_CALLS = "That was a tool call written as text, which does nothing. Call the tool itself."


class Finish(BaseModel):
    """The end of the work."""

    status: Literal["done", "nothing_to_change", "cannot"] = Field(
        description="done: the request is fulfilled and checked. nothing_to_change: the repository is right"
        " as it is. cannot: it cannot be done as asked; say why in the summary."
    )
    summary: str = Field(
        min_length=1,
        description="For the person who asked, in Markdown: what was changed, why, and how it was checked.",
    )


FINISH_TOOL = ToolOutput(
    Finish, name=FINISH, description="End the work. Call it once, alone, when everything is done and checked."
)


def concluded(output: Finish | str) -> tuple[Reason, str, str]:
    """Reason, sentence for the person, and summary."""
    if isinstance(output, str):
        return Reason.COMPLETED, "The agent finished its work.", output.strip()
    summary = output.summary.strip()
    match output.status:
        case "done":
            return Reason.COMPLETED, "The agent finished its work.", summary
        case "nothing_to_change":
            return Reason.NOTHING_TO_CHANGE, "The agent found nothing to change.", summary
        case "cannot":
            return Reason.CANNOT_BE_DONE, f"The agent cannot do this: {_first_words(summary)}", summary


def check_text(text: str, messages: list[ModelMessage], tool_names: Collection[str]) -> None:
    """Refuse a plain answer that cannot be the end of the work.

    Raises:
        ModelRetry: with a word to the model on what to do instead.
    """
    if _is_written_call(text, tool_names):
        raise ModelRetry(_NATIVE_CALLS)
    if not any(
        isinstance(part, ToolCallPart)
        for message in messages
        if isinstance(message, ModelResponse)
        for part in message.parts
    ):
        raise ModelRetry(_USE_TOOLS)


def _is_written_call(text: str, tool_names: Collection[str]) -> bool:
    bare = re.sub(r"</?tool_call>|```(?:json)?", "", text).strip()
    if not bare.startswith("{"):
        return False
    try:
        data = json.loads(bare)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("name") in tool_names


def _first_words(text: str) -> str:
    line = next((line.strip(" #*-") for line in text.splitlines() if line.strip(" #*-")), "no reason given")
    return line if len(line) <= _SAY_LENGTH else f"{line[:_SAY_LENGTH].rstrip()}…"
