"""A download that fails for a moment is tried again; a compiler that says no is not."""

import fcntl
import re
from pathlib import Path

import pytest
from coding_agent_cluster import locks
from coding_agent_cluster.again import again
from coding_agent_cluster.errors import BuildError, ClusterError

DOWNLOADS = (
    "go: example.com/x@v1.2.3: reading https://proxy/x.zip: 502 Bad Gateway",
    'Get "https://proxy/x.mod": dial tcp 127.0.0.1:443: connect: connection refused',
    'x@v1.2.3: Get "https://proxy/x.zip": EOF',
    "npm error code ECONNRESET",
    "error: Failed to fetch: https://index/simple/x: HTTP status server error (503 Service Unavailable)",
    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 12",
    "E: Unable to locate package libseccomp-dev",
)
OTHERS = ("compiler says no", "verifying module: checksum mismatch", "the file ./503.go is missing")


class Failing:
    """Fails so often with these words; then it works."""

    def __init__(self, times: int, said: str) -> None:
        self.left, self.said = times, said
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.left:
            raise BuildError(self.said)
        return "done"


@pytest.mark.parametrize("said", DOWNLOADS)
def test_a_download_is_tried_three_times_with_pauses(said: str) -> None:
    work, pauses = Failing(2, said), list[float]()
    assert again("it", work, pause=pauses.append) == "done"
    assert pauses == [5, 10]
    hopeless = Failing(9, said)
    with pytest.raises(BuildError, match=re.escape(said)):
        again("it", hopeless, pause=pauses.append)
    assert hopeless.calls == 3


@pytest.mark.parametrize("said", OTHERS)
def test_anything_else_ends_it_at_once(said: str) -> None:
    work = Failing(1, said)
    with pytest.raises(ClusterError):
        again("it", work, pause=lambda _: None)
    assert work.calls == 1


def test_a_lock_that_its_former_holder_has_removed_is_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "plane.lock"
    real, removals = fcntl.flock, iter([file])

    def flock(handle: int, how: int) -> None:
        real(handle, how)
        for gone in removals:  # the first time: whoever held it before us removed it at its end
            gone.unlink()

    monkeypatch.setattr("fcntl.flock", flock)
    with locks.locked(file), pytest.raises(ClusterError, match="using plane"), locks.try_locked(file):
        pass
