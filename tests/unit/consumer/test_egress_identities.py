"""The identities that a consumer of a queue makes for its attempts at the egress proxy."""

from urllib.parse import urlsplit

import pytest
from coding_agent_consumer.attempt_egress import Identities
from coding_agent_core.egress import is_valid, job_of, profile_of
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.model import Settings

from tests.unit.consumer.making import ITEM

PROXY = "http://egress:3128"


def identities(**more: object) -> Identities:
    egress = {"proxy": PROXY, "key": ["new-key", "old"], "repositories": {"o/r": ["a.example.com"]}}
    made = Identities.of(Settings.model_validate({"egress": egress, **more}))
    assert made is not None
    return made


def test_commands_and_agent_have_identities_of_their_attempt() -> None:
    made = identities(gateway={"host": "gateway"})
    agent, workspace = made.agent("web-1-2"), made.workspace("web-1-2", ITEM)
    users = {}
    for name, variables in (("agent", agent), ("workspace", workspace)):
        url = urlsplit(variables["HTTPS_PROXY"])
        assert (url.hostname, url.port) == ("egress", 3128)
        assert url.username is not None
        assert url.password is not None
        assert is_valid(url.username, url.password, ["new-key"]), "the first key"
        assert job_of(url.username) == "web-1-2"
        assert "gateway" in variables["NO_PROXY"].split(","), "the gateway is on a network of the two"
        users[name] = url.username
    assert users["workspace"].endswith(profile_of("o/r")), "the list of its repository"
    assert users["agent"] == "web-1-2.agent"
    assert "new-key" not in repr(made)


def test_without_a_proxy_there_are_none_and_without_a_key_it_says_so() -> None:
    assert Identities.of(Settings()) is None
    with pytest.raises(SettingsError, match=r"egress\.key is not set"):
        Identities.of(Settings.model_validate({"egress": {"proxy": PROXY}}))
