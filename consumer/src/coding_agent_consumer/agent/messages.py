"""The messages of a conversation as its transcript has them."""

from __future__ import annotations

import json

from pydantic import TypeAdapter
from pydantic_ai.messages import ModelMessage

from coding_agent_consumer.transcript import Fields

_MESSAGE: TypeAdapter[ModelMessage] = TypeAdapter(ModelMessage)


def fields_of(message: ModelMessage) -> Fields:
    fields: Fields = json.loads(_MESSAGE.dump_json(message))
    return fields
