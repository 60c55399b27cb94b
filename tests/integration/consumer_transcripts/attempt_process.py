"""An attempt as a process of its own, to be killed: writes one line, then works on."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from coding_agent_consumer.transcript import Scrub, Transcript
from coding_agent_consumer.transcript_store import Transcripts
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.settings.attempts import ContextStorage
from coding_agent_core.tasks import Item
from pydantic_ai.messages import ModelResponse, TextPart

ITEM = Item(
    platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.ISSUE, number=7
)


async def main(settings: str, folder: str) -> None:
    storage = ContextStorage.model_validate_json(settings)
    transcripts = Transcripts(storage, Path(folder), ITEM, run=1, uuid="uuid-1", attempt=1)
    await transcripts.begin()
    Transcript(transcripts.path, Scrub([])).append(ModelResponse(parts=[TextPart("I am attempt 1.")]))
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
