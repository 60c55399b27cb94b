"""Runs a Gitea server, with its data in one folder, on a free port, with an administrator."""

import os
import pwd
import secrets
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2

from coding_agent_testbed.cluster.network import free_ports
from coding_agent_testbed.gitea.accounts import Account
from coding_agent_testbed.gitea.api import Api
from coding_agent_testbed.gitea.errors import GiteaError
from coding_agent_testbed.gitea.program import Program, find
from coding_agent_testbed.gitea.settings import app_ini
from coding_agent_testbed.gitea.styles import write_styles

_START_SECONDS = 120.0
"""For a first start, which makes some 150 tables, on a machine that does much else."""
_COMMAND_SECONDS = 120.0
ADMIN = "gitea-admin"


class GiteaServer:
    """A server that can be stopped, killed and started again; its data and its port stay.

    Args:
        folder: is made if it is absent; whoever made it removes it.
        program: the binary; by default the one in the cache.
        address: the address to listen on; 0.0.0.0 lets pods of a node in.
        host: the name or address under which others reach it, as its ROOT_URL says; by default the address.
        hook_hosts: where webhooks may go: `loopback`, networks and names, as Gitea's ALLOWED_HOST_LIST.
        actions: whether repositories may run workflows.
        public_url: where others reach it, without a trailing slash, if a proxy stands before it; its
            ROOT_URL.

    Raises:
        GiteaError: the program was not built.
    """

    def __init__(
        self,
        folder: Path,
        *,
        program: Program | None = None,
        address: str = "127.0.0.1",
        host: str = "",
        hook_hosts: str = "loopback",
        actions: bool = False,
        public_url: str = "",
    ) -> None:
        self._program = program or find()
        self._folder = folder.absolute()
        [self.port] = free_ports(1)
        self.url = f"http://{host or address}:{self.port}"
        self.api_url = f"{self.url}/api/v1"
        self._local_url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: Account | None = None
        (self._folder / "home").mkdir(parents=True, exist_ok=True)
        write_styles(self._folder / "custom", self._program.static)
        self._config.write_text(
            app_ini(
                folder=self._folder,
                static=self._program.static,
                address=address,
                port=self.port,
                root_url=f"{public_url or self.url}/",
                hook_hosts=hook_hosts,
                secret=secrets.token_hex(32),
                actions=actions,
                as_root=os.geteuid() == 0,
            ),
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def admin(self) -> Account:
        """The administrator, whom the first start creates."""
        assert self._admin is not None
        return self._admin

    @property
    def pid(self) -> int | None:
        """The number of its process; `None` if it does not run."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    @property
    def log(self) -> Path:
        """The file with the output of the server."""
        return self._folder / "gitea.log"

    def repository_folder(self, repository: str) -> Path:
        """The bare repository of `OWNER/NAME` on disk."""
        return self._folder / "repositories" / f"{repository.lower()}.git"

    def api(self, account: Account | None = None) -> Api:
        """A client of the API as this account, by default as the administrator."""
        return Api(self.api_url, (account or self.admin).token)

    def start(self) -> None:
        """Start it and wait until it answers; the first time, make the administrator.

        Raises:
            GiteaError: it does not answer in time; the message has the end of its log.
        """
        if self._process is not None:
            return
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command("web"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise GiteaError(f"Gitea did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
        if self._admin is None:
            self._admin = self._make_admin()

    def stop(self) -> None:
        """Stop the server with SIGTERM, and with SIGKILL if that takes too long."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop the server with SIGKILL, so that it cannot end anything in order."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)
        self._process = None

    def _answers(self) -> bool:
        try:
            answer = httpx2.get(f"{self._local_url}/api/healthz", timeout=5, trust_env=False)
        except httpx2.HTTPError:
            time.sleep(0.05)  # the deadline of `start` bounds these
            return False
        return answer.status_code == 200

    def _make_admin(self) -> Account:
        password = secrets.token_hex(16)
        self._run(
            *("admin", "user", "create", "--admin", "--must-change-password=false", "--username", ADMIN),
            *("--password", password, "--email", f"{ADMIN}@gitea.invalid"),
        )
        return Api.sign_in(self.api_url, ADMIN, password)

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                self._command(*arguments),
                env=self._environment(),
                cwd=self._folder,
                capture_output=True,
                text=True,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise GiteaError(f"gitea {' '.join(arguments[:3])} took too long") from error
        if done.returncode:
            raise GiteaError(f"gitea {' '.join(arguments[:3])} failed: {done.stdout}{done.stderr}"[:2000])
        return done.stdout

    @property
    def _config(self) -> Path:
        return self._folder / "app.ini"

    def _command(self, *arguments: str) -> list[str]:
        return [str(self._program.binary), *arguments, "--config", str(self._config)]

    def _environment(self) -> dict[str, str]:
        # Gitea compares USER with the user that it runs as.
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder / "home"),
            "USER": pwd.getpwuid(os.geteuid()).pw_name,
            "LANG": "C.UTF-8",
            "GITEA_WORK_DIR": str(self._folder),
        }
