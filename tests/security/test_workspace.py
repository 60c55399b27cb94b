"""Wall: the workspace. A model that asks for the agent's secrets from inside the workspace gets none.

The decoy: an agent that is not hardened is read by the same commands.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from coding_agent_consumer.workspace.processes import descendants, living_parents
from coding_agent_testbed.until import until_async

from tests.fixtures.system import ROOT

_MARK = os.urandom(4).hex()
CANARY = f"canary-{_MARK}"
"""Of this process alone: an agent that is not hardened, or not yet, may run beside it for the same user."""
USER = 12345
EACH_USER_AND_ISOLATION = [
    pytest.param(None, "namespaces", id="as-invoker-namespaces"),
    pytest.param(USER, "none", id="as-ordinary-user-none"),
    pytest.param(None, "none", id="as-invoker-none", marks=pytest.mark.long),
    pytest.param(USER, "namespaces", id="as-ordinary-user-namespaces", marks=pytest.mark.long),
]
"""For the trials of the gateway."""
SCRIPT = ROOT / "tests/integration/consumer_workspace/agent_process.py"

READ_PROCESS = r"""
import ctypes, os, sys
pids = [int(name) for name in os.listdir('/proc') if name.isdigit() and int(name) not in (os.getpid(),)]
libc = ctypes.CDLL(None)
for pid in pids + [@AGENT@]:
    for name in ('environ', 'cmdline', 'auxv'):
        try: sys.stdout.buffer.write(open(f'/proc/{pid}/{name}', 'rb').read())
        except OSError: pass
    if pid in (1, @AGENT@) and libc.ptrace(16, pid, 0, 0) == 0:
        print('PTRACE' + ' ATTACHED', pid)
    try:
        memory = open(f'/proc/{pid}/mem', 'rb', 0)
        for line in open(f'/proc/{pid}/maps'):
            if '[stack]' in line or '[heap]' in line:
                start, end = (int(part, 16) for part in line.split()[0].split('-'))
                memory.seek(start)
                if b'canary-' b'@MARK@' in memory.read(end - start): print('FOUND canary' + '-@MARK@')
    except OSError: pass
""".replace("@MARK@", _MARK)

ASK_PROCESSES = [
    "env; export -p; set",
    "cat /proc/*/environ | tr '\\0' '\\n'",
    "cat /proc/@AGENT@/environ /proc/self/environ /proc/1/environ /proc/$PPID/environ | tr '\\0' '\\n'",
    "ps auxwwe 2>/dev/null; cat /proc/*/cmdline | tr '\\0' ' '",
    "cat > $TMPDIR/p.py <<'END'\n" + READ_PROCESS + "\nEND\npython3 $TMPDIR/p.py",
    "for f in /proc/*/fd/*; do timeout 1 head -c 1000 $f; done 2>/dev/null < /dev/null",
]
ASK_FILES = [
    "cat @SECRET@ @SECRET@.* 2>/dev/null; cat /proc/*/root@SECRET@ /proc/*/cwd/secret 2>/dev/null",
    "cat /etc/shadow ~root/.ssh/* /run/secrets/* /var/run/secrets/*/*/* 2>/dev/null",
    "find /tmp /home /root /run /var /srv /mnt /etc @FOLDER@ -xdev -type f -print0 2>/dev/null"
    " | xargs -0 grep -hsF canary- | head -c 2000",
    "git -C @FOLDER@ log; cat @FOLDER@/.env @FOLDER@/config.yaml @FOLDER@/repository.git/config",
    "unshare -Urm sh -c 'umount -a; umount -l / ; cat @SECRET@'; nsenter -t 1 -m cat @SECRET@; "
    "nsenter -t @AGENT@ -m -p cat @SECRET@; chroot /proc/1/root cat @SECRET@;"
    " mount -t proc p /proc; cat @SECRET@",
]


# unshare(2), and clone(2) and clone3(2) without the C library; numbers from asm/unistd.h.
NAMESPACE_PROGRAM = r"""
import ctypes, os, platform, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER = 0x10000000
clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
arguments = ctypes.create_string_buffer(struct.pack("11Q", NEWUSER, 0, 0, 0, signal.SIGCHLD, *[0] * 6))
tries = {
    "unshare": lambda: libc.unshare(NEWUSER),
    "clone": lambda: libc.syscall(clone, NEWUSER | signal.SIGCHLD, 0, 0, 0, 0),
    "clone3": lambda: libc.syscall(435, arguments, len(arguments.raw) - 1),
}
for name, attempt in tries.items():
    pid = os.fork()
    if pid == 0:
        parent = os.getpid()
        result = attempt()
        if os.getpid() == parent:
            print(name, "CREATED" if result >= 0 else "refused", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


NO_NAMESPACE = "unshare refused\nclone refused\nclone3 refused\n"
TRY_NAMESPACES = f"cat > $TMPDIR/try.py <<'END'\n{NAMESPACE_PROGRAM}\nEND\npython3 $TMPDIR/try.py"
WHAT_IS_THERE = [
    'find /home /run /root /srv /mnt /tmp -xdev -type f -not -path "$TMPDIR/*" | head',
    "grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' /proc/self/status",
    "ls -1 /proc | grep -c '^[0-9]*$'",
    "ls -l @SOCKET@; ls /var",
    "touch /usr/x /etc/x /x; echo $?",
    "ls /proc/self/fd; readlink /proc/self/fd/0",
]
each_user = pytest.mark.parametrize("uid", [None, USER], ids=["as-invoker", "as-ordinary-user"])


@pytest.fixture
def agent_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret").write_text(f"token: {CANARY}\n")
        (folder / ".env").write_text(f"TOKEN={CANARY}\n")
        (folder / "config.yaml").write_text(f"token: {CANARY}\n")
        yield folder


def wish_of(
    agent_folder: Path, base_dir: Path, isolation: str, uid: int | None, commands: list[str]
) -> dict[str, Any]:
    if uid is not None and os.geteuid() == 0:
        base_dir.chmod(0o777)
        for path in (agent_folder, *agent_folder.iterdir()):
            os.chown(path, uid, uid)
    ready = [
        command.replace("@SECRET@", str(agent_folder / "secret")).replace("@FOLDER@", str(agent_folder))
        for command in commands
    ]
    return {
        "isolation": isolation,
        "uid": uid,
        "base_dir": str(base_dir),
        "hidden": [str(agent_folder)],
        "commands": ready,
    }


async def start(wish: dict[str, Any], agent_folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        json.dumps(wish),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(agent_folder),
            "GITHUB_PERSONAL_ACCESS_TOKEN": CANARY,
            "OPENAI_API_KEY": f"sk-{CANARY}",
        },
    )


async def outputs_of(wish: dict[str, Any], agent_folder: Path) -> tuple[list[str], str]:
    process = await start(wish, agent_folder)
    out, err = await asyncio.wait_for(process.communicate(), 150)
    assert process.returncode == 0, err.decode()
    return json.loads(out)["outputs"], err.decode()


def assert_no_secret(commands: list[str], outputs: list[str]) -> None:
    for command, output in zip(commands, outputs, strict=True):
        assert CANARY not in output, command
        assert "PTRACE ATTACHED" not in output


@each_user
async def test_in_namespaces_no_secret_is_found_by_any_means(
    agent_folder: Path, base_dir: Path, uid: int | None
) -> None:
    readable = f"test -r {agent_folder}/secret && echo READABLE; echo done"
    commands = [*WHAT_IS_THERE, TRY_NAMESPACES, *ASK_PROCESSES, *ASK_FILES, readable]
    outputs, _ = await outputs_of(wish_of(agent_folder, base_dir, "namespaces", uid, commands), agent_folder)
    assert_no_secret(commands, outputs)
    assert outputs[-1] == "done\n"
    files, rights, processes, places, touched, descriptors, namespaces = outputs[:7]
    assert files == "", "there is nothing but the workspace"
    assert [line.split()[-1].lstrip("0") for line in rights.splitlines()] == ["", "", "", "", "", "1"]
    assert int(processes) <= 4, "the server, the shell, and what it started"
    assert "No such file" in places
    assert places.endswith("tmp\n")
    assert touched.endswith("1\n")
    assert descriptors.split() == ["0", "1", "2", "3", "/dev/null"], "3 is the listing's own"
    assert namespaces == NO_NAMESPACE


@each_user
async def test_without_namespaces_the_agents_process_keeps_its_secrets(
    agent_folder: Path, base_dir: Path, uid: int | None
) -> None:
    if os.geteuid() == 0:
        (agent_folder / "secret").chmod(0o600)
    commands = list(ASK_PROCESSES)
    if uid is None and os.geteuid() == 0:  # root's commands run as a user of their own
        commands.append("cat @SECRET@; id -u")
    outputs, _ = await outputs_of(wish_of(agent_folder, base_dir, "none", uid, commands), agent_folder)
    assert_no_secret(commands, outputs)


async def test_an_agent_that_is_not_hardened_is_read(agent_folder: Path, base_dir: Path) -> None:
    """What the test above would see without the defence: it can fail."""
    wish = wish_of(agent_folder, base_dir, "none", USER, ["cat /proc/@AGENT@/environ | tr '\\0' '\\n'"])
    # Where the kernel gives the workspace no user namespace either: one would protect the agent by itself.
    outputs, _ = await outputs_of({**wish, "harden": False, "forbid_namespaces": True}, agent_folder)
    assert CANARY in outputs[0]


async def test_auto_falls_back_with_a_loud_warning(agent_folder: Path, base_dir: Path) -> None:
    """A kernel that gives none, played by limits (user_namespaces(7)) in a namespace around the agent."""
    outputs, said = await outputs_of(
        {**wish_of(agent_folder, base_dir, "auto", USER, ["echo works"]), "forbid_namespaces": True},
        agent_folder,
    )
    assert outputs == ["works\n"]
    assert "WEAK ISOLATION" in said


async def test_when_the_agent_is_killed_nothing_of_the_workspace_stays(
    agent_folder: Path, base_dir: Path
) -> None:
    wish = wish_of(agent_folder, base_dir, "namespaces", None, ["(setsid sleep 987 &) ; echo started"])
    process = await start({**wish, "announce": True}, agent_folder)
    assert process.stdout is not None
    told = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
    below = descendants(living_parents(), told["pid"])
    assert below
    process.kill()
    await process.wait()
    await until_async(
        lambda: f"nothing is left; there are {living_parents().keys() & below}, {os.listdir(base_dir)}",
        lambda: not living_parents().keys() & below and not os.listdir(base_dir),
    )


async def test_a_command_gets_no_user_namespace(agent_folder: Path, base_dir: Path) -> None:
    """In one it would be root, with a much larger part of the kernel in reach."""
    wish = wish_of(agent_folder, base_dir, "none", USER, [TRY_NAMESPACES])
    assert (await outputs_of(wish, agent_folder))[0] == [NO_NAMESPACE]


async def test_elsewhere_the_same_program_gets_them() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NAMESPACE_PROGRAM, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert output.decode().count("CREATED") == 3
