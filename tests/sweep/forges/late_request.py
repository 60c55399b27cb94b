"""Sends a request into a network that drops everything, gives up, and lets packets through again.

Run as root in a network namespace of its own. Prints the client's error and what the server received until no
connection was left, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from coding_agent_core.errors import ForgeError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import Clock, RetryPolicy
from coding_agent_core.settings.section import Secrets, SecretSettings
from coding_agent_forges.rest import client
from coding_agent_forges.rest.calls import Call
from coding_agent_forges.rest.client import ForgeClient, Token
from pydantic import SecretStr

_LEFT_S = 60.0
_GONE = frozenset({"06", "0A"})
"""The states TIME_WAIT and LISTEN, in which no data is sent; see `proc_net_tcp.rst` of the kernel."""
# Network namespaces share its lock: wait for it, because the nodes of other tests hold it for a moment.
_IPTABLES = ("iptables", "-w", "30")
received: list[str] = []


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        received.append(self.rfile.read(int(self.headers["content-length"])).decode())
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def connections_to(port: int) -> int:
    """The number of clients' connections to a port that can still send."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(line[2].rpartition(":")[2], 16) == port and line[3] not in _GONE for line in lines)


async def give_up(port: int) -> str:
    """The error of a request whose packets are dropped."""
    policy = RetryPolicy(tries=1)
    token = Token(Platform.GITHUB, Secrets(SecretSettings(values=(SecretStr("token"),))), "token")
    client = ForgeClient("forge", f"http://127.0.0.1:{port}", token, {}, policy, Clock())
    drop = ["INPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP"]
    try:
        await client.send(Call("GET", "/", "connecting"))
        subprocess.run([*_IPTABLES, "-I", *drop], check=True, timeout=60)
        await client.send(Call("POST", "/comments", "commenting", json={"body": "Running"}))
    except ForgeError as error:
        return str(error)
    finally:
        await client.aclose()
        subprocess.run([*_IPTABLES, "-D", *drop], check=True, timeout=60)
    return ""


def main() -> int:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=60)
    client.TIMEOUT = 2.0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    error = asyncio.run(give_up(port))
    end = time.monotonic() + _LEFT_S
    while connections_to(port) and time.monotonic() < end:
        time.sleep(0.05)
    print(json.dumps({"error": error, "received": received, "left": connections_to(port)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
