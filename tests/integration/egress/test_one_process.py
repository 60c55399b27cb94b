"""The egress proxy next to one process: each attempt has an identity, and a warning says what is missing."""

from __future__ import annotations

import pytest

from tests.fixtures.egress import KEY, StartEgress
from tests.fixtures.system import DONE, StartSystem
from tests.integration.main_job.scripts import finish, run, script

pytestmark = pytest.mark.long
ASK = """python3 -c "
import urllib.request, urllib.error
try:
    urllib.request.urlopen('http://secrets.invalid/', timeout=60)
except urllib.error.HTTPError as error:
    print('ASKED', error.code)
"
echo made > made.md
"""


def test_commands_have_the_proxy_and_the_comment_says_what_it_denied(
    start_system: StartSystem, start_egress: StartEgress
) -> None:
    proxy = start_egress({})
    system = start_system(
        "github", script(run(ASK), finish()), egress={"proxy": f"http://{proxy.address}", "key": KEY}
    )
    program = system.start_webhook()
    system.put_label(1)
    system.wait_for_label(1, DONE)
    comment = system.wait_for_comment(1, "Blocked by the egress proxy")
    assert "`secrets.invalid` (1 time)" in comment
    assert "ASKED 403" in str(system.model.requests)
    assert KEY not in str(system.model.requests)
    assert "nothing stops a command that bypasses it" in program.text()
