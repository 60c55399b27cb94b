"""Head and body of an answer leave in one piece, so that a killed receiver leaves none half said."""

import asyncio
import socket

import pytest

from tests.fixtures.deliveries import encode, github_headers
from tests.fixtures.receiver import Receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")


def exchanges(port: int, request: bytes, count: int) -> list[bytes]:
    """What the first look at each answer shows."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        seen = []
        for _ in range(count):
            connection.sendall(request)
            seen.append(connection.recv(65536))
            if not seen[-1].endswith(b"}"):
                break
        return seen


async def test_an_answer_arrives_whole(receiver: Receiver) -> None:
    body = encode({"zen": "Keep it simple."})
    headers = github_headers(body, event="ping") | {"Host": "x", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = b"POST /webhook/github HTTP/1.1\r\n" + lines.encode() + b"\r\n" + body
    seen = await asyncio.to_thread(exchanges, receiver.port, request, 300)
    assert seen[-1].endswith(b"}"), f"answer {len(seen)} came in pieces"
