"""Which processes that keep a queue in memory are alive."""

import subprocess
import sys
from pathlib import Path

from coding_agent_core.queues.live_processes import Process

OTHER = """
import sys
from pathlib import Path
from coding_agent_core.queues.live_processes import Process

process = Process(Path(sys.argv[1]))
print(process.id, flush=True)
sys.stdin.read()
"""


def test_another_process_is_alive_until_it_is_killed(tmp_path: Path) -> None:
    own = Process(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        other_id = other.stdout.readline().strip()
        assert own.is_alive(own.id)
        assert own.is_alive(other_id)
        assert not own.is_alive("0" * 32), "of another machine"
    finally:
        other.kill()
        other.wait(60)
    assert not own.is_alive(other_id)
    third = Process(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"starting", own.id, third.id}
