"""`python -m coding_agent_testbed.gitea`: a Gitea with the sample, until interrupted; prints its users."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from threading import Event

from coding_agent_testbed.errors import TestbedError
from coding_agent_testbed.gitea.program import prepare
from coding_agent_testbed.gitea.sample import make_sample
from coding_agent_testbed.gitea.server import GiteaServer


def main() -> int:
    """Run it."""
    options = argparse.ArgumentParser(prog="coding_agent_testbed.gitea", description=__doc__)
    options.add_argument("--folder", type=Path, help="keep the data there instead of in a temporary folder")
    options.add_argument(
        "--hook", nargs=2, metavar=("URL", "SECRET"), help="send the sample's webhooks there"
    )
    chosen = options.parse_args()
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with tempfile.TemporaryDirectory() as scratch:
        try:
            _serve(chosen.folder or Path(scratch), chosen.hook, ended)
        except TestbedError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def _serve(folder: Path, hook: list[str] | None, ended: Event) -> None:
    with GiteaServer(folder, program=prepare()) as server:
        sample = make_sample(server)
        if hook:
            with server.api() as admin:
                admin.add_hook(sample.repository, *hook)
        print(f"{sample.url}/{sample.repository}")
        for account in (sample.admin, sample.bot, sample.maintainer, sample.stranger):
            print(f"{account.login:<18} password {account.password} token {account.token}")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    sys.exit(main())
