"""The proxies of `make chaos`, between real ends: a sandbox forge, and a receiver that only remembers."""

from __future__ import annotations

import socket
from pathlib import Path
from random import Random

import pytest
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.until import until

from tests.chaos.proxies import DeliveryProxy, TcpProxy, Treatment
from tests.fixtures.hook_receiver import HookReceiver
from tests.fixtures.system import BOT, REPOSITORY, SECRET, sample_repository

ID = {"github": "x-github-delivery", "gitlab": "x-gitlab-event-uuid"}


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_a_delivery_is_recorded_with_what_it_says_and_how_it_was_answered(
    flavour: str, hook_receiver: HookReceiver, tmp_path: Path
) -> None:
    with (
        ForgeServer(flavour, sample_repository(), tmp_path) as forge,
        DeliveryProxy(hook_receiver.url, "forge.test", "coding-agent-bot") as proxy,
    ):
        forge.add_hook(REPOSITORY, f"{proxy.url}/webhook", SECRET)
        hook_receiver.status = 202
        forge.add_label(REPOSITORY, 1, BOT)
        until("a record", lambda: proxy.records)
        [record] = proxy.records
        assert {**record, "at": ""} == {
            **{"record": "delivery", "at": "", "host": "forge.test", "repository": REPOSITORY},
            **{"kind": "issue", "number": 1, "event": "labeled", "label": BOT, "status": 202},
        }

        end = proxy.treat(Treatment(dropped=1.0), Random(1))
        forge.remove_label(REPOSITORY, 1, BOT)
        until("a record of the delivery that failed", lambda: len(proxy.records) == 2)
        assert (proxy.records[1]["event"], proxy.records[1]["status"]) == ("unlabeled", 0)
        assert proxy.failed == 1
        end()

        end = proxy.treat(Treatment(doubled=1.0), Random(1))
        forge.comment(REPOSITORY, 1, "/run")
        first, second = hook_receiver.wait_for_count(3)[1:]
        end()
        assert first.body == second.body
        assert first.headers[ID[flavour]] != second.headers[ID[flavour]]

        end = proxy.treat(Treatment(late=1.0, seconds=(0.2, 0.2)), Random(1))
        forge.close(REPOSITORY, 1)
        hook_receiver.wait_for_count(4)
        end()
        until("nothing is under way", lambda: proxy.idle)


def test_a_cut_connection_is_silent_and_then_passes_on_what_waited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = TcpProxy(server.getsockname())
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as near:
            far, _ = server.accept()
            far.settimeout(60)
            near.sendall(b"one")
            assert far.recv(10) == b"one"
            heal = proxy.cut()
            far.settimeout(0.2)  # meant to expire
            near.sendall(b"two")
            with pytest.raises(TimeoutError):
                far.recv(10)
            assert heal().count == 1
            far.settimeout(60)
            assert far.recv(10) == b"two"
            assert proxy.reset().count == 1
            assert far.recv(10) == b""
            far.close()
        proxy.close()
