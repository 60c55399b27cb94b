"""What people see with kubectl."""

import re
from collections.abc import Callable
from pathlib import Path

from coding_agent_core.task.reasons import Reason

from tests.integration.operator.pod_driver import PodDriver, reported
from tests.integration.operator.world import OperatorProcess, World

EXPLAINED = Path(__file__).with_name("explained")
"""What `kubectl explain agenttask.PART --recursive` is to print, as PART.txt."""


def test_columns_and_wait(world: World, pods: PodDriver, operator: Callable[..., OperatorProcess]) -> None:
    ends = {
        "7": reported(
            Reason.COMPLETED,
            change_url="https://github.com/octo/demo/pull/8",
            usage={
                "requests": 3,
                "input_tokens": 100,
                "output_tokens": 9,
                "cost": {"amount": "0.0213", "currency": "USD"},
            },
        ),
        "9": reported(
            Reason.FORGE_REFUSED,
            tail="- called run_command",
            transcript="s3://agent-logs/9/attempt-1.jsonl",
            transcript_url="https://logs.example/9",
        ),
    }
    pods.script = lambda job: ends.get(job.split("-")[2])
    operator(limits={"global": 1})
    done = world.create(7)
    world.until_phase(done, "Succeeded")
    bad = world.create(9)
    wait = ("wait", "--timeout=60s", "--for=condition=Finished", f"agt/{bad}")
    assert "condition met" in world.plane.kubectl("-n", world.namespace, *wait), "a failure is an end too"
    running = world.create(8)
    world.until_phase(running, "Running")
    waiting = world.create(6)
    world.until_phase(waiting, "Queued")
    world.until(
        "the Events", lambda: (world.events(running), world.events(waiting)) == (["Started"], ["Queued"])
    )
    kubectl = ["-n", world.namespace, "get", "agt"]
    rows = table(world.plane.kubectl(*kubectl))
    assert rows == [
        [*("NAME", "REPOSITORY", "ITEM", "PHASE", "ATTEMPT", "CHANGE", "REASON", "DURATION", "AGE")],
        [waiting, "octo/demo", "#6", "Queued", "0/3", "", "Waiting", "", "TIME"],
        [
            *(done, "octo/demo", "#7", "Succeeded", "1/3", "https://github.com/octo/demo/pull/8"),
            *("Completed", "TIME", "TIME"),
        ],
        [running, "octo/demo", "#8", "Running", "1/3", "", "Running", "", "TIME"],
        [bad, "octo/demo", "#9", "Failed", "1/3", "", "ForgeRefused", "TIME", "TIME"],
    ]
    wide = table(world.plane.kubectl(*kubectl, "-o", "wide"))
    assert wide[0][6:] == ["REASON", "USER", "ORIGIN", "QUEUE", "COST", "DURATION", "AGE"]
    assert [row[6:11] for row in wide[1:]] == [
        ["Waiting", "alice", "webhook", "1", ""],
        ["Completed", "alice", "webhook", "", "0.0213"],
        ["Running", "alice", "webhook", "", ""],
        ["ForgeRefused", "alice", "webhook", "", ""],
    ]
    assert done in world.plane.kubectl(*kubectl, "--field-selector", "status.phase=Succeeded")
    world.until("the Event", lambda: "Failed" in world.events(bad))
    described = world.plane.kubectl("-n", world.namespace, "describe", "agt", bad)
    assert re.search(r"Tail:\s+- called run_command", described)
    assert re.search(r"Transcript:\s+s3://agent-logs/9/attempt-1.jsonl", described)
    assert re.search(r"Transcript URL:\s+https://logs.example/9", described)
    assert re.search(r"Warning\s+Failed\s.*ForgeRefused: said by the agent", described)


HAND_WRITTEN = """\
apiVersion: coding-agent.dev/v1alpha1
kind: AgentTask
metadata:
  name: fix-it
spec:
  url: https://github.com/octo/demo/issues/7
"""


def test_a_task_of_six_lines_runs(
    world: World, pods: PodDriver, operator: Callable[..., OperatorProcess], tmp_path: Path
) -> None:
    pods.script = lambda _: reported(Reason.COMPLETED)
    operator()
    file = tmp_path / "task.yaml"
    for name in ("fix-it", "fix-it-again"):
        file.write_text(HAND_WRITTEN.replace("fix-it", name))
        world.plane.kubectl("-n", world.namespace, "apply", "-f", str(file))
        world.until_phase(name, "Succeeded")
    specs = [world.task(name)["spec"] for name in ("fix-it", "fix-it-again")]
    assert specs[0]["source"]["repository"] == "octo/demo"
    assert (specs[0]["trigger"]["origin"], specs[0]["maxAttempts"]) == ("manual", 3)
    assert [spec["run"] for spec in specs] == [1, 2]


def test_explain_teaches(world: World) -> None:
    for part in ("spec", "status"):
        text = world.plane.kubectl("explain", f"agenttask.{part}", "--recursive")
        assert text == (EXPLAINED / f"{part}.txt").read_text(), f"kubectl explain agenttask.{part}"
    assert "Set to true to stop the task for good" in world.plane.kubectl("explain", "agenttask.spec.cancel")


def table(text: str) -> list[list[str]]:
    """The cells of kubectl's table, by the places of its headings; ages and durations are TIME."""
    lines = text.rstrip("\n").split("\n")
    starts = [match.start() for match in re.finditer(r"\S+", lines[0])]
    rows = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines]
    for column in (rows[0].index("DURATION"), rows[0].index("AGE")):
        for row in rows[1:]:
            row[column] = "TIME" if re.fullmatch(r"(\d+[dhms])+", row[column]) else row[column]
    return rows
