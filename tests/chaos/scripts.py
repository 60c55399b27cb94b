"""What the scripted model does with an item: its title says it, as `people.py` writes it.

`item-7 works for 3 s`: a command works so long, then writes a file of the item's own, so that
no two items conflict. `item-7 fails`: the model refuses every request. `item-7 writes nothing`: the work ends
without a change. Any other title, such as that of a change: some work, and a file.
"""

from __future__ import annotations

from coding_agent_testbed.model.script import Call, Failure, Script, Turn

_ITEM = r"(?P<name>item-\d+)"


def scripts() -> list[Script]:
    """The scripts of all titles; the last one plays for any other."""
    write = "date +%s.%N > work-${name}.txt"
    refusal = Turn(error=Failure(status=400, times=0, type="invalid_request_error"))
    return [
        Script(
            name="works",
            match=rf"{_ITEM} works for (?P<seconds>\d+) s",
            turns=(_run(f"sleep ${{seconds}}; {write}"), _end("done")),
        ),
        Script(name="fails", match=rf"{_ITEM} fails", turns=(refusal,)),
        Script(
            name="writes nothing",
            match=rf"{_ITEM} writes nothing",
            turns=(_run("sleep 1"), _end("nothing_to_change")),
        ),
        Script(name="other", turns=(_run("sleep 1; date > work-$(date +%s%N).txt"), _end("done"))),
    ]


def _run(command: str) -> Turn:
    return Turn(calls=(Call(tool="run_command", arguments={"command": command}),))


def _end(status: str) -> Turn:
    summary = "The work is as the title says."
    return Turn(calls=(Call(tool="finish", arguments={"status": status, "summary": summary}),))
