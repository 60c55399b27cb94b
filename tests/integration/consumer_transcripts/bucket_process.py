"""Uses a bucket and exits with 65: `bucket_process.py SETTINGS`."""

from __future__ import annotations

import asyncio
import sys

from coding_agent_consumer.transcript_store import S3Bucket
from coding_agent_core.settings.attempts import S3


async def main(settings: str) -> int:
    bucket = S3Bucket(S3.model_validate_json(settings))
    for number in range(50):
        await bucket.put(f"{number}.jsonl", b"x")
    assert len(await bucket.keys("")) == 50
    return 65


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
