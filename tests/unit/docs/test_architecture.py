"""ARCHITECTURE.md names files and functions; they exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(?P<path>[\w./-]+\.py)`(?P<names>\s+`\w+`(?:,\s+`\w+`)*)")
"""A module, and the names in it that follow."""
FILE = re.compile(r"`(?P<path>[\w.-]+/[\w./-]+\.\w+)`")


def defined(path: Path) -> set[str]:
    """Names of a module's functions, classes and constants."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Assign():
                found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name() as target):
                found.add(target.id)
    return found


def test_each_named_function_is_in_its_file() -> None:
    named = {
        (match["path"], name)
        for match in NAMED.finditer(TEXT)
        for name in re.findall(r"`(\w+)`", match["names"])
    }
    assert len(named) > 60
    missing = [(path, name) for path, name in sorted(named) if name not in defined(ROOT / path)]
    assert missing == []


def test_each_named_file_exists() -> None:
    assert [path for path in sorted(set(FILE.findall(TEXT))) if not (ROOT / path).exists()] == []


def test_the_way_of_a_delivery_takes_at_most_twenty_files() -> None:
    section = TEXT.split("## One delivery", 1)[1].split("\n## ", 1)[0]
    assert 10 < len(set(FILE.findall(section))) <= 20


def test_each_folder_that_guards_a_promise_exists() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:unit|integration|sweep)/\w+)`", text))
    assert len(named) > 40
    assert [name for name in sorted(named) if not (ROOT / "tests" / name).is_dir()] == []
