"""What reviewers and checks say of a change reaches the model, which acts on it."""

import pytest
from coding_agent_forge.model import Kind
from coding_agent_model.script import Call, Script, Turn

from tests.fixtures.system import DONE, REPOSITORY, StartSystem
from tests.integration.main_job.changes import open_change
from tests.integration.main_job.scripts import finish

NUMBERED = "".join(f"line {number}\n" for number in range(1, 21))
COMMENT = "Replace it with `a dozen`, please."
DOES_AS_THE_COMMENT_SAYS = Script(
    match=(
        r"thread on (?P<path>\S+), line (?P<line>\d+), not resolved\n"
        r"(?:.*\n)*?.* UTC:\nReplace it with `(?P<text>[^`]+)`"
    ),
    turns=(
        Turn(
            calls=(Call(tool="run_command", arguments={"command": "sed -i '${line}s/.*/${text}/' ${path}"}),)
        ),
        finish("Line ${line} of ${path} says ${text} now."),
    ),
)


@pytest.mark.parametrize("flavour", ["github", "gitlab"])
def test_a_review_comment_on_line_12_changes_line_12(start_system: StartSystem, flavour: str) -> None:
    system = start_system(flavour, [DOES_AS_THE_COMMENT_SAYS])
    number = open_change(system, {"numbers.txt": NUMBERED})
    system.forge.start_thread(REPOSITORY, number, COMMENT, path="numbers.txt", line=12)
    system.start_webhook()
    system.put_label(number, Kind.CHANGE)
    system.wait_for_label(number, DONE, Kind.CHANGE)
    assert system.file_at("feature", "numbers.txt") == NUMBERED.replace("line 12\n", "a dozen\n")
    assert len(system.changes()) == 1, "it is worked on in its own branch: no second change is opened"
    assert "Line 12 of numbers.txt says a dozen now." in system.comments(number, Kind.CHANGE)[0].body
