"""`make try`: the order of its steps, and that nothing in it needs a registry."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from coding_agent_cluster import __main__ as command_line
from coding_agent_cluster import build, cluster, images, trial


class Recorded:
    """A cluster, kubectl and helm that only write down what they are asked for."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.applied = ""
        self.access = self
        self.kubeconfig = "admin.conf"

    def provide(self, image: images.Image) -> None:
        self.steps.append(f"image {image.name}")

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        self.steps.append(f"kubectl {' '.join(arguments)}")
        self.applied += f"{stdin}\n---\n"
        return ""

    def run(self, command: Sequence[str], **_: Any) -> str:
        self.steps.append(" ".join(command))
        return ""

    def environment(self) -> dict[str, str]:
        return {}

    def get(self, *arguments: str) -> Any:
        return {"spec": {"clusterIP": "10.1.2.3"}}


def test_one_command_starts_everything_and_prints_the_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Recorded()
    monkeypatch.setattr(cluster, "up", lambda name: seen)
    monkeypatch.setattr(build, "binaries", lambda names: {"helm": "helm"})
    monkeypatch.setattr(trial, "run", seen.run)
    assert command_line.main(["try"]) == 0
    out, said = capsys.readouterr()
    assert out == "KUBECONFIG=admin.conf\nhttp://10.1.2.3:8080/acme/pricing/issues\n"
    assert "put the label `coding agent` on an issue" in said
    kinds = [step.split()[0] for step in seen.steps]
    assert kinds == ["image"] * len(images.PROGRAMS) + ["kubectl"] * 3 + ["helm"] + ["kubectl"] * 2
    used = re.findall(r"^ *(?:- )?image: *(\S+)$", seen.applied, re.MULTILINE)
    assert set(used) == {"localhost/coding-agent-sandbox:dev"}
    [helm] = [step for step in seen.steps if step.startswith("helm")]
    chosen = dict(re.findall(r"--set-string (\S+)=(\S+)", helm))
    assert {value for key, value in chosen.items() if key.endswith(".tag")} == {"dev"}
    programs = {value for key, value in chosen.items() if key.endswith(".repository")}
    assert programs == {
        f"localhost/coding-agent-{program}" for program in images.PROGRAMS if program != "sandbox"
    }
