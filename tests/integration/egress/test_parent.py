"""The egress proxy behind a proxy of the company's: a second real Squid, which asks for a password."""

from collections.abc import Iterator

import pytest
from coding_agent_testbed.until import until

from tests.fixtures.company_proxy import CompanyProxy, serve
from tests.fixtures.egress import EgressProxy, StartEgress
from tests.integration.egress.test_proxy import machine

__all__ = ["machine"]
USER, PASSWORD = "egress-proxy", "p:a ss%w/rd"
PUBLIC = "203.0.113.7"
"""Nobody has it (RFC 5737): who asks for it directly gets no answer."""


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompanyProxy]:
    """It alone knows where `outside.test` really is."""
    # Squid gives its helper blanks and percent signs in URL escapes.
    expected = f"{USER} p:a%20ss%25w/rd"
    with serve(tmp_path_factory.mktemp("parent"), {"outside.test": "127.0.0.1"}, expected) as found:
        yield found


@pytest.fixture(scope="module")
def proxy(start_egress: StartEgress, parent: CompanyProxy, machine: int) -> EgressProxy:
    allow = [f"{name}:{machine}" for name in ("outside.test", "inside.test")]
    way = {"host": "127.0.0.1", "port": parent.port, "credentials": f"{USER}:{PASSWORD}"}
    return start_egress(
        {"egress": {"allow": allow, "private": ["inside.test"], "parent": way}},
        {"outside.test": PUBLIC, "inside.test": "127.0.0.1", "hidden.test": PUBLIC},
    )


def test_other_machines_are_reached_through_it(
    proxy: EgressProxy, parent: CompanyProxy, machine: int
) -> None:
    answer = proxy.get(f"http://outside.test:{machine}/")
    assert (answer.status_code, answer.text) == (200, "ok")
    until("the parent was asked", lambda: "GET:outside.test" in parent.asked())
    # A tunnel too; what it leads to speaks no TLS.
    with pytest.raises(Exception, match=r"SSL|TLS|EOF|disconnected"):
        proxy.get(f"https://outside.test:{machine}/")
    until("the parent made the tunnel", lambda: "CONNECT:outside.test" in parent.asked())


def test_hosts_with_a_private_address_are_reached_without_it(
    proxy: EgressProxy, parent: CompanyProxy, machine: int
) -> None:
    assert proxy.get(f"http://inside.test:{machine}/").status_code == 200
    assert not any("inside.test" in request for request in parent.asked())


def test_what_is_denied_does_not_reach_it(proxy: EgressProxy, parent: CompanyProxy, machine: int) -> None:
    assert proxy.get(f"http://hidden.test:{machine}/", "parent-1").status_code == 403
    assert proxy.get("https://hidden.test/", "parent-1").status_code == 403
    expected = {f"hidden.test:{machine}": 1, "hidden.test": 1}
    until("the agent hears it from our own proxy", lambda: proxy.denials("parent-1") == expected)
    assert not any("hidden.test" in request for request in parent.asked())
    assert PASSWORD not in proxy.log()
