"""A stand-in for the agent: a process with secrets, which runs commands in a workspace and prints results.

Run as a script with one JSON argument; also as another user, for which it makes Python reachable first.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from coding_agent_consumer.workspace import linux
from coding_agent_consumer.workspace.launch import harden_agent_process, launch_workspace
from coding_agent_core.settings.attempt_settings import WorkspaceSettings


def become(uid: int, needed: list[str]) -> None:
    """Be an ordinary user, to whom Python and our sources stay readable wherever they are installed."""
    closed = sorted({blocked for path in needed if (blocked := closed_ancestor(path))})
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    kept = {}
    for path in needed:
        if closed_ancestor(path):
            kept[path] = tempfile.mkdtemp(prefix="reachable-")
            linux.mount(path, kept[path], None, linux.MS_BIND)
    for folder in closed:
        linux.mount("tmpfs", folder, "tmpfs", 0, "mode=0755")
    for path, place in kept.items():
        os.makedirs(path, exist_ok=True)
        linux.mount(place, path, None, linux.MS_BIND)
        linux.unmount_detached(place)
        os.rmdir(place)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def closed_ancestor(path: str) -> str | None:
    return next((str(up) for up in reversed(Path(path).parents) if not up.stat().st_mode & 0o001), None)


async def work(wish: dict[str, Any]) -> dict[str, Any]:
    settings = WorkspaceSettings(isolation=wish["isolation"], command_timeout=wish.get("timeout", 60))
    outputs = []
    async with (
        launch_workspace(
            settings,
            hidden=[Path(path) for path in wish["hidden"]],
            base_dir=Path(wish["base_dir"]),
        ) as workspace,
        gateways(wish.get("upstream")) as credentials,
    ):
        socket = str(getattr(workspace, "_path"))  # noqa: B009 - a private one, for the trials
        for command in wish["commands"]:
            text = command.replace("@AGENT@", str(os.getpid())).replace("@SOCKET@", socket)
            for name, value in credentials.items():
                text = text.replace(name, value)
            outputs.append((await workspace.run(text)).output)
        if wish.get("announce"):
            print(json.dumps({"pid": os.getpid(), "socket": socket}), flush=True)
            await asyncio.Event().wait()
    return {"outputs": outputs, "pid": os.getpid()}


@asynccontextmanager
async def gateways(upstream: str | None) -> AsyncIterator[dict[str, str]]:
    """A gateway with the real key, and another attempt's, whose credential must be worth nothing."""
    if upstream is None:
        yield {}
        return
    from coding_agent_consumer.gateway.gateway_server import open_gateway  # noqa: PLC0415 - slow
    from coding_agent_consumer.gateway.upstream import Upstream  # noqa: PLC0415 - slow
    from coding_agent_core.settings.llm import WireFormat  # noqa: PLC0415 - slow

    providers = [Upstream(WireFormat.OPENAI, upstream, os.environ["OPENAI_API_KEY"])]
    async with open_gateway(providers) as gateway, open_gateway(providers) as other:
        yield {"@GATEWAY@": gateway.url, "@DUMMY@": gateway.credential, "@OTHER@": other.credential}


def main() -> None:
    wish = json.loads(sys.argv[1])
    if wish.get("uid") is not None and os.geteuid() == 0:
        # The whole checkout: each of our distributions may import another.
        checkout = str(Path(__file__).resolve().parents[3])
        become(wish["uid"], sorted({sys.base_prefix, sys.prefix, checkout}))
        # Again as a fresh program: a change of user hides a process's environment by itself.
        os.execve(sys.executable, [sys.executable, __file__, json.dumps({**wish, "uid": None})], os.environ)
    if wish.get("forbid_namespaces"):
        # A user namespace around us in which no more of them may be made.

        linux.unshare(linux.CLONE_NEWUSER)
        for kind in ("user", "mnt", "pid"):
            Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")
        linux.drop_capabilities()
    if wish.get("harden", True):
        harden_agent_process()
    print(json.dumps(asyncio.run(work(wish))), flush=True)


if __name__ == "__main__":
    main()
