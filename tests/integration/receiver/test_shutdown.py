"""SIGTERM while a request is being answered: it is finished, the sink is closed, the exit code is 0."""

import asyncio
import signal
import sys
from typing import Any

import httpx2

from tests.fixtures.deliveries import encode, github_headers, github_issue

PROGRAM = """
import asyncio, sys
from coding_agent_receiver.server import run
from tests.fixtures.deliveries import RecordingSink, settings

class SlowSink(RecordingSink):
    async def submit(self, request):
        print("entered", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        return await super().submit(request)

    async def aclose(self):
        print("closed", flush=True)

import logging
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
run(settings(server={"host": "127.0.0.1", "port": 0}), SlowSink())
"""


async def read_until(stream: Any, text: Any) -> Any:
    """Read lines until one contains the text; that line."""
    async with asyncio.timeout(60):
        while True:
            line = (await stream.readline()).decode()
            assert line, f"the program ended before it said {text!r}"
            if text in line:
                return line.strip()


async def test_a_request_in_flight_is_finished() -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        port = (await read_until(program.stdout, "listening on")).rpartition(":")[2]
        body = encode(github_issue())
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60
        ) as http:
            sending = asyncio.create_task(
                http.post("/webhook/github", content=body, headers=github_headers(body))
            )
            await read_until(program.stdout, "entered")
            program.send_signal(signal.SIGTERM)
            await read_until(program.stdout, "Waiting for connections to close")
            assert program.stdin
            program.stdin.write(b"go on\n")
            response = await sending
        assert response.json()["status"] == "success"
        await read_until(program.stdout, "closed")
        assert await program.wait() == 0
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
