"""Requests over kept connections: what a server may do with a connection, and what the caller then sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from coding_agent_core.errors import SettingsError
from coding_agent_core.kubernetes.connections import Connections, Response
from coding_agent_core.kubernetes.transport import Access
from kubernetes.aio import client

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nRetry-After: 7\r\n\r\nhi"


class Server:
    """Answers each connection as a test says, and counts them."""

    def __init__(
        self, serve: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ):
        self._serve = serve
        self.connections = 0
        self.heads: list[str] = []

    @asynccontextmanager
    async def open(self, most: int = 10, path: str = "") -> AsyncIterator[Connections]:
        listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        connections = Connections(f"http://127.0.0.1:{port}{path}", most, context=None)
        try:
            yield connections
        finally:
            await connections.aclose()
            listening.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._serve(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def read(self, reader: asyncio.StreamReader) -> None:
        """One request without a body."""
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())


async def get(connections: Connections, method: str = "GET", seconds: float = 60.0) -> Response:
    return await connections.request(method, "/a", {}, None, seconds)


async def answers_all(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await server.read(reader)
        writer.write(OK)


async def test_a_connection_is_used_again() -> None:
    server = Server(answers_all)
    async with server.open(path="/below/") as connections:
        found = [await get(connections) for _ in range(3)]
    assert [(answer.status, answer.body, answer.headers["retry-after"]) for answer in found] == [
        (200, b"hi", "7")
    ] * 3
    assert server.connections == 1
    assert server.heads[0].startswith("GET /below/a HTTP/1.1\r\n")
    assert "\r\nHost: 127.0.0.1:" in server.heads[0]


async def test_an_answer_in_chunks_and_pieces() -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        whole = (
            b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        for index in range(len(whole)):
            writer.write(whole[index : index + 1])
            await writer.drain()
            await asyncio.sleep(0)

    async with Server(serve).open() as connections:
        answer = await get(connections)
    assert (answer.status, answer.body) == (404, b"abcde")


@pytest.mark.parametrize(("method", "sent"), [("GET", 2), ("DELETE", 2), ("POST", 1), ("PATCH", 1)])
async def test_a_connection_that_closes_when_it_is_used_again(method: str, sent: int) -> None:
    """What cannot do anything twice is sent again, over another connection; the rest fails."""

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(OK)
        if server.connections == 1:
            await server.read(reader)  # the second request: no answer
        else:
            await answers_all(server, reader, writer)

    server = Server(serve)
    async with server.open() as connections:
        await get(connections)
        if sent == 2:
            assert (await get(connections, method)).body == b"hi"
        else:
            with pytest.raises(ConnectionError, match="closed before the answer"):
                await get(connections, method)
    assert [head.split()[0] for head in server.heads[1:]] == [method] * sent


async def test_a_connection_that_the_server_closes_after_an_answer_is_not_used_again() -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    server = Server(serve)
    async with server.open() as connections:
        assert [(await get(connections, "POST")).status for _ in range(3)] == [200] * 3
    assert server.connections == 3


async def test_no_answer_in_time_ends_the_connection() -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        if server.connections == 1:
            await reader.read()  # until the client is gone
        else:
            writer.write(OK)

    server = Server(serve)
    async with server.open(most=1) as connections:
        with pytest.raises(TimeoutError):
            await get(connections, seconds=0.05)
        assert (await get(connections)).body == b"hi"
    assert server.connections == 2


async def test_a_cancelled_request_leaves_no_answer_for_the_next_one() -> None:
    received, gone = asyncio.Event(), asyncio.Event()

    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        received.set()
        if server.connections == 1:
            await reader.read()  # until the client is gone
            gone.set()
        else:
            writer.write(OK)

    server = Server(serve)
    async with server.open(most=1) as connections:
        request = asyncio.create_task(get(connections))
        await received.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        async with asyncio.timeout(60):
            await gone.wait()
        assert (await get(connections)).body == b"hi"
    assert server.connections == 2


@pytest.mark.parametrize("more", [OK, b"x"], ids=["an answer", "a byte"])
async def test_what_comes_behind_an_answer_is_not_the_next_ones(more: bytes) -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(OK + more if server.connections == 1 else OK.replace(b"hi", b"me"))
        await reader.read()

    server = Server(serve)
    async with server.open() as connections:
        first = await asyncio.gather(get(connections), return_exceptions=True)
        assert isinstance(first[0], ConnectionError) or first[0].body == b"hi"  # type: ignore[union-attr]
        assert (await get(connections)).body == b"me"


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"],
    ids=["nothing", "not HTTP", "half"],
)
async def test_an_answer_that_is_not_whole_is_an_error(answer: bytes) -> None:
    async def serve(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(answer)

    server = Server(serve)
    async with server.open() as connections:
        with pytest.raises(ConnectionError):
            await get(connections)
    assert server.connections == 1


@pytest.mark.parametrize(
    ("path", "headers"), [("/a b", {}), ("/a\r\nX: y", {}), ("/a", {"Authorization": "Bearer a\r\nX: y"})]
)
async def test_a_line_cannot_begin_another(path: str, headers: dict[str, str]) -> None:
    connections = Connections("http://127.0.0.1:1", 1, context=None)
    with pytest.raises(ValueError, match="not a request that can be sent"):
        await connections.request("GET", path, headers, None, 1.0)


CONFIG = """
current-context: a
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {token: secret-token}}]
contexts: [{name: a, context: {cluster: c, user: u, namespace: team}}]
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    file = tmp_path / "config"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def account(tmp_path: Path) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("t")
    return folder


def test_what_a_person_names_wins_over_the_pods_account(kubeconfig: Path, account: Path) -> None:
    environment = {"KUBECONFIG": str(kubeconfig), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert Access.find(environment, account) == Access(str(kubeconfig))


def test_in_a_pod_its_account_is_used(account: Path) -> None:
    assert Access.find({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, account) == Access(None)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [({}, "set KUBECONFIG"), ({"KUBECONFIG": "/nowhere/config"}, "no file /nowhere/config")],
)
def test_no_way_to_a_cluster_is_said_at_the_start(
    tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        Access.find({"HOME": str(tmp_path), **environment}, tmp_path / "none")


async def test_the_contexts_namespace_and_token_are_taken(kubeconfig: Path) -> None:
    settings = client.Configuration()
    assert await Access(str(kubeconfig)).load(settings) == "team"
    assert settings.host == "http://127.0.0.1:1"
    assert settings.api_key == {"BearerToken": "Bearer secret-token"}


@pytest.mark.parametrize("text", ["", "current-context: gone\ncontexts: []", "[]"])
async def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"cannot use .*/config"):
        await Access(str(file)).load(client.Configuration())
