"""The work of the stories on a node: the sample's bulk discount, with its check and its review.

The fix is right, but an example in the README documents the bug. So the first commit fails a check and a
command that verifies it, and a round corrects the example.
"""

from dataclasses import dataclass

CODE, README = "pricing/discount.py", "README.md"
LINE = 10
"""The line of `CODE` that the fix changes, and that a person comments on."""
VERIFY_COMMANDS = ("python3 -m unittest", "python3 -m doctest README.md")
EXPECTED, GOT = "Expected:\n    0", "Got:\n    5"
LOG = f"Failed example:\n    bulk_discount(10)\n{EXPECTED}\n{GOT}\n"
"""What the check `examples` says about the first commit."""
QUESTION = "Please say in the docstring where a step begins."


@dataclass(frozen=True)
class Step:
    """What the agent does in one task.

    Attributes:
        command: changes the files.
        summary: what the agent says about it.
        file: a file that it changes.
        text: what this file contains afterwards, and not before.
    """

    command: str
    summary: str
    file: str
    text: str


FIX = Step(
    f"sed -i 's/if quantity > pieces:/if quantity >= pieces:/' {CODE}",
    "The bulk discount now starts at the step itself: `bulk_discount` compares with `>=` instead of `>`.",
    CODE,
    "if quantity >= pieces:",
)
EXAMPLE = Step(
    f"sed -i '/bulk_discount(10)/{{n;s/0/5/}}' {README}",
    "The example in the README documented the bug. It now shows the discount that starts at the step itself.",
    README,
    "    >>> bulk_discount(10)\n    5\n",
)
DOCSTRING = Step(
    f"sed -i 's/of one article\\./of one article, from the first piece of a step on./' {CODE}",
    "The docstring of `bulk_discount` says that a step begins at its own number of pieces.",
    CODE,
    "from the first piece of a step on",
)
STEPS = (FIX, EXAMPLE, DOCSTRING)
