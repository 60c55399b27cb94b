"""The reporter behind a company's proxy: the forge through it, the API server without it."""

import pytest
from coding_agent_testbed.until import until

from tests.fixtures.company_proxy import CompanyProxy
from tests.integration.operator_reporter.world import BOT, World


@pytest.mark.parametrize("flavour", ["gitlab"])
def test_only_the_forge_is_asked_through_the_proxy(world: World, company_proxy: CompanyProxy) -> None:
    """A pod reaches the API server by an address, which no list of exceptions names."""
    reporter = world.reporter().start(**company_proxy.variables)
    try:
        number = world.issue(BOT)
        world.task(number)
        world.shows(number, "waiting", {BOT})
        expected = {"GET:127.0.0.1", "POST:127.0.0.1"}
        until("the proxy has written its log", lambda: expected <= company_proxy.asked())
        assert "CONNECT:127.0.0.1" not in company_proxy.asked()
    finally:
        reporter.stop()
