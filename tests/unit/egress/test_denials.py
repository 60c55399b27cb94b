"""Which lines of Squid's log count as denials."""

import pytest
from coding_agent_egress.__main__ import Denials


@pytest.mark.parametrize(
    ("result", "status", "counted"),
    [
        ("TCP_DENIED", 403, {"packages.example.com": 1}),
        # A client that hung up as soon as it was refused, as curl and git do.
        ("TCP_DENIED_ABORTED", 403, {"packages.example.com": 1}),
        ("TCP_DENIED", 407, {}),  # no valid identity
        ("TCP_MISS", 403, {}),  # the server's own answer
    ],
)
def test_what_the_proxy_refused_counts(result: str, status: int, counted: dict[str, int]) -> None:
    denials = Denials()
    entry = {"user": "job-1.workspace", "host": "packages.example.com", "port": "443"}
    denials.take({**entry, "result": result, "status": status})
    assert denials.of("job-1") == counted
