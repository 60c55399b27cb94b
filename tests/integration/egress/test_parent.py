"""The egress proxy behind a proxy of the company's: a second real Squid, which asks for a password."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from coding_agent_cluster.network import free_ports

from tests.fixtures.egress import EgressProxy, StartEgress, remove_memory
from tests.fixtures.system import until
from tests.integration.egress.test_proxy import machine

__all__ = ["machine"]
USER, PASSWORD = "egress-proxy", "p:a ss%w/rd"
PUBLIC = "203.0.113.7"
"""Nobody has it (RFC 5737): who asks for it directly gets no answer."""
CHECK = """#!/bin/sh
while read -r user given; do
        if [ "$user $given" = "{expected}" ]; then echo OK; else echo ERR; fi
done
"""


@dataclass
class Parent:
    port: int
    log: Path

    def asked(self) -> list[str]:
        """The methods and addresses of the requests that it let through."""
        text = self.log.read_text() if self.log.exists() else ""
        whole = text.rpartition("\n")[0].splitlines()
        return [line.split()[1] for line in whole if line.split()[0] == "200"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    """It alone knows where `outside.test` really is."""
    folder = tmp_path_factory.mktemp("parent")
    [port] = free_ports(1)
    found = Parent(port, folder / "access.log")
    check = folder / "check"
    # Squid gives its helper blanks and percent signs in URL escapes.
    check.write_text(CHECK.format(expected=f"{USER} p:a%20ss%25w/rd"))
    check.chmod(0o755)
    (folder / "hosts").write_text("127.0.0.1 outside.test\n")
    (folder / "squid.conf").write_text(
        f"""
http_port 127.0.0.1:{found.port}
pid_filename none
coredump_dir {folder}
cache_log {folder}/cache.log
logformat short %>Hs %rm:%>rd %un
access_log stdio:{found.log} logformat=short
hosts_file {folder}/hosts
visible_hostname parent
cache deny all
shutdown_lifetime 1 seconds
auth_param basic program {check}
auth_param basic children 1
auth_param basic realm company
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""
    )
    squid = shutil.which("squid", path=f"{os.environ['PATH']}:/usr/sbin") or "squid"
    other = (
        ["unshare", "--user", "--map-user=10001", "--map-group=10001"] if getpass.getuser() == "root" else []
    )
    process = subprocess.Popen(
        # A name of its own: two that start at once would take the same names of shared memory.
        [*other, squid, "-N", "-n", f"parent{port}", "-f", str(folder / "squid.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def up() -> bool:
        assert process.poll() is None, (folder / "cache.log").read_text()
        with socket.socket() as way:
            return way.connect_ex(("127.0.0.1", found.port)) == 0

    try:
        until(up, "the parent listens")
        yield found
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        remove_memory(f"parent{port}")


@pytest.fixture(scope="module")
def proxy(start_egress: StartEgress, parent: Parent, machine: int) -> EgressProxy:
    allow = [f"{name}:{machine}" for name in ("outside.test", "inside.test")]
    way = {"host": "127.0.0.1", "port": parent.port, "credentials": f"{USER}:{PASSWORD}"}
    return start_egress(
        {"egress": {"allow": allow, "private": ["inside.test"], "parent": way}},
        {"outside.test": PUBLIC, "inside.test": "127.0.0.1", "hidden.test": PUBLIC},
    )


def test_other_machines_are_reached_through_it(proxy: EgressProxy, parent: Parent, machine: int) -> None:
    answer = proxy.get(f"http://outside.test:{machine}/")
    assert (answer.status_code, answer.text) == (200, "ok")
    until(lambda: "GET:outside.test" in parent.asked(), "the parent was asked")
    # A tunnel too; what it leads to speaks no TLS.
    with pytest.raises(Exception, match=r"SSL|TLS|EOF|disconnected"):
        proxy.get(f"https://outside.test:{machine}/")
    until(lambda: "CONNECT:outside.test" in parent.asked(), "the parent made the tunnel")


def test_hosts_with_a_private_address_are_reached_without_it(
    proxy: EgressProxy, parent: Parent, machine: int
) -> None:
    assert proxy.get(f"http://inside.test:{machine}/").status_code == 200
    assert not any("inside.test" in request for request in parent.asked())


def test_what_is_denied_does_not_reach_it(proxy: EgressProxy, parent: Parent, machine: int) -> None:
    assert proxy.get(f"http://hidden.test:{machine}/", "parent-1").status_code == 403
    assert proxy.get("https://hidden.test/", "parent-1").status_code == 403
    expected = {f"hidden.test:{machine}": 1, "hidden.test": 1}
    until(lambda: proxy.denials("parent-1") == expected, "the agent hears it from our own proxy")
    assert not any("hidden.test" in request for request in parent.asked())
    assert PASSWORD not in proxy.log()
