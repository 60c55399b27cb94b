"""Which lines of the agent's log belong to the story of the demo."""

from pathlib import Path

from coding_agent_demo.screen import Screen
from rich.console import Console


def line(text: str) -> str:
    return f"2026-01-01 00:00:00 INFO [agent] {text}\n"


def test_each_line_after_the_start_is_read_once_and_only_when_it_is_complete(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_text(line("“" * 40), encoding="utf-8")
    screen = Screen(Console(), log)
    with log.open("a", encoding="utf-8") as file:
        file.write(line("“one”") + line("two") + line("three")[:-1])
    assert [one.text for one in screen.logged()] == ["“one”", "two"]
    with log.open("a", encoding="utf-8") as file:
        file.write("\n")
    assert [one.text for one in screen.logged()] == ["three"]
    assert list(screen.logged()) == []
