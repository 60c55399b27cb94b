"""A real RabbitMQ server of one's own, for benchmarks and tests.

It is Debian's `rabbitmq-server`, started on free loopback ports with its own data, cookie and port mapper, so
that it meets no other broker on the machine and leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path

from coding_agent_testbed.cluster.network import free_ports

_START_SECONDS = 150
"""For a start or an end on a machine that does much else."""
_INSTALL = (
    "RabbitMQ is not installed, and a real one is used here. On Debian or Ubuntu: "
    "`apt-get install --no-install-recommends rabbitmq-server` (the service itself need not run)."
)


def _server_program() -> Path:
    """The server's own script: Debian's wrapper on PATH would switch to the system's user and paths."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if found:
        return found[-1]
    on_path = shutil.which("rabbitmq-server")
    if on_path is None or shutil.which("epmd") is None:
        raise RuntimeError(_INSTALL)
    return Path(on_path)


def freeze(pid: int) -> None:
    """Send SIGSTOP, and wait until the process has stopped.

    One of its threads takes the signal and stops the others: until that one gets the processor, they go on.

    Raises:
        RuntimeError: it did not stop.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + _START_SECONDS
    while not _is_stopped(pid):
        if time.monotonic() > deadline:
            raise RuntimeError("the process did not stop at SIGSTOP")
        time.sleep(0.01)


def _is_stopped(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task")
    try:
        states = [(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads.iterdir()]
    except (FileNotFoundError, ProcessLookupError):  # one has just ended, so it was not stopped
        return False
    return set(states) == {"T"}


class Broker:
    """A RabbitMQ server that can be stopped, killed, frozen and started again; its data stays."""

    user = "guest"
    password = "guest"
    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self._program = _server_program()
        self._folder = folder
        self.port, epmd_port, dist_port = free_ports(3)  # a restart needs them again
        self._node = f"test-{uuid.uuid4().hex[:8]}@localhost"
        self._server: subprocess.Popen[bytes] | None = None
        home = folder / "home"
        home.mkdir(parents=True)
        cookie = home / ".erlang.cookie"
        cookie.write_text(uuid.uuid4().hex)
        cookie.chmod(0o400)
        (folder / "enabled_plugins").write_text("[].")
        # A channel looks at the age of its deliveries once per tick; a minute by default.
        (folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 500}]}].")
        (folder / "rabbitmq-env.conf").write_text("")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
            # Makes the script exec the server, so that the child we started is the server itself.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        # In the foreground: a port mapper that the server starts itself becomes a daemon that outlives it.
        self._epmd = subprocess.Popen(
            ["epmd", "-port", str(epmd_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process id of the server, which must run."""
        assert self._server is not None
        return self._server.pid

    def start(self) -> None:
        """Start the server and wait until it speaks AMQP; one that is frozen goes on."""
        if self._server is not None:
            self.thaw()
            return
        with (self._folder / "console.log").open("ab") as log:
            self._server = subprocess.Popen(
                [str(self._program)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._speaks():
            if self._server.poll() is not None or time.monotonic() > deadline:
                tail = (self._folder / "console.log").read_text(errors="replace")[-3000:]
                self.kill()
                raise RuntimeError(f"RabbitMQ did not start:\n{tail}")

    def stop(self) -> None:
        """End the server in good order (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Connections stay open, and nobody answers."""
        assert self._server is not None
        freeze(self._server.pid)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def set_consumer_timeout(self, milliseconds: int) -> None:
        """Seconds after which an unacknowledged delivery closes its channel; for channels opened from now."""
        self._control("eval", f"application:set_env(rabbit, consumer_timeout, {milliseconds}).")

    def setting(self, name: str) -> str:
        """The value in force of a setting of RabbitMQ's own, as Erlang writes it."""
        return self._control("eval", f"{{ok, V}} = application:get_env(rabbit, {name}), V.").strip()

    def close(self) -> None:
        """End everything that was started."""
        if self._server is not None:
            self.kill()
        self._epmd.kill()
        self._epmd.wait(10)

    def _control(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._program.with_name("rabbitmqctl")), "--node", self._node, *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=self._environment,
            cwd=self._folder,
            timeout=_START_SECONDS,
        )
        return done.stdout

    def _signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        self._server.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._server is None:
            return
        self._server.send_signal(number)
        if number is signal.SIGTERM:
            self._server.send_signal(signal.SIGCONT)  # a frozen server would not hear it
        self._server.wait(_START_SECONDS)
        self._server = None

    def _speaks(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                if connection.recv(1) == b"\x01":
                    return True
        except OSError:
            pass  # nobody listens yet
        time.sleep(0.05)  # the deadline of `start` bounds these
        return False
