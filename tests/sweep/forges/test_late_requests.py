"""A request that we gave up never reaches the forge later, when the network works again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.fixtures.system import ROOT


def test_the_forge_never_receives_a_request_that_was_given_up() -> None:
    script = Path(__file__).with_name("late_request.py")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found.pop("error").startswith("forge cannot be reached while commenting: Read")
    assert found == {"received": [], "left": 0}
