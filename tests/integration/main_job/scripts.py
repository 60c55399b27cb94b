"""What the scripted model does in these tests, chosen by words in the issue's title."""

from pathlib import Path

from coding_agent_testbed.model.script import Call, Script, Turn, load_scripts

ROOT = Path(__file__).resolve().parents[3]


def fixes_the_bug() -> list[Script]:
    """The demo's script: reads the failing test, edits, runs the tests, finishes."""
    return load_scripts(ROOT / "dev" / "testbed" / "scripts")


def run(command: str) -> Turn:
    """A turn that runs a command in the workspace."""
    return Turn(calls=(Call(tool="run_command", arguments={"command": command}),))


def write(path: str, content: str) -> Turn:
    """A turn that writes a file."""
    return Turn(calls=(Call(tool="write_file", arguments={"path": path, "content": content}),))


def finish(summary: str = "Did it.", status: str = "done") -> Turn:
    """The last turn."""
    return Turn(calls=(Call(tool="finish", arguments={"status": status, "summary": summary}),))


def script(*turns: Turn, loop: bool = False) -> list[Script]:
    """A script for every conversation."""
    return [Script(turns=turns, loop=loop)]
