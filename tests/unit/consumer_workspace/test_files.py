import subprocess
import sys
from pathlib import Path

import coding_agent_consumer
import pytest
from coding_agent_consumer.workspace.files import WorkspaceFolders, command_environment, cut_end
from coding_agent_consumer.workspace.launch import id_is_mapped
from coding_agent_consumer.workspace.processes import BoundedOutput, cut_middle, descendants, parse_stat
from coding_agent_consumer.workspace.tree import largest_beyond
from hypothesis import given, settings
from hypothesis import strategies as st


def test_a_command_gets_a_fixed_environment_and_what_the_image_keeps() -> None:
    inherited = {"OPENAI_API_KEY": "secret", "JAVA_HOME": "/opt/java", "PATH": "/evil", "LD_PRELOAD": "x"}
    env = command_environment(
        WorkspaceFolders.below(Path("/w")), "/bin", inherited, keep=("JAVA_HOME", "NOT_SET", "PATH")
    )
    assert env["JAVA_HOME"] == "/opt/java"
    assert env["PATH"] == "/bin"
    assert env["HOME"] == "/w/home"
    assert not {"OPENAI_API_KEY", "LD_PRELOAD", "NOT_SET"} & set(env)


@pytest.mark.parametrize(
    ("uid_map", "uid", "mapped"),
    [
        ("         0          0 4294967295\n", 61184, True),
        ("0 1000 1\n1 100000 65536\n", 61184, True),
        ("0 1000 1\n", 61184, False),
        ("", 0, False),
    ],
)
def test_ids_of_a_container(uid_map: str, uid: int, mapped: bool) -> None:
    assert id_is_mapped(uid_map, uid) is mapped


def test_descendants_are_found_through_all_generations() -> None:
    assert descendants({2: 1, 3: 2, 4: 3, 5: 1, 6: 6}, 2) == {3, 4}


def test_a_process_name_may_hold_anything() -> None:
    assert parse_stat(b"12 (a) R 99) (x) S 7 12 12 0") == (7, "S")


def test_the_serving_program_needs_only_the_standard_library() -> None:
    """It is copied into images that have Python and nothing of ours."""
    source = str(Path(coding_agent_consumer.__file__).parents[1])
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import coding_agent_consumer.workspace.__main__;"
        "print([n for n in sys.modules if n.split('.')[0] not in sys.stdlib_module_names"
        " and not n.startswith(('coding_agent_consumer', '__'))])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, source],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("sizes", "most", "left_out"),
    [
        ({}, 0, []),
        ({"a": 3, "b": 4}, 7, []),
        ({"a": 3, "b": 4}, 6, ["b"]),
        ({"a": 4, "b": 4, "c": 1}, 5, ["a"]),
        ({"a": 5, "b": 6, "c": 7}, 5, ["c", "b"]),
        ({"a": 5}, 4, ["a"]),
    ],
)
def test_the_largest_files_are_left_out(sizes: dict[str, int], most: int, left_out: list[str]) -> None:
    assert largest_beyond(sizes, most) == left_out


def fed(limit: int, *chunks: bytes) -> tuple[str, bool]:
    output = BoundedOutput(limit)
    for chunk in chunks:
        output.add(chunk)
    return output.text()


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], ("", False)),
        ([b"hello ", b"world"], ("hello world", False)),
        (["日本".encode()[:4], "日本".encode()[4:]], ("日本", False)),
        ([b"\xff\xfe"], ("\ufffd\ufffd", False)),
        ([b"0123456789" * 3], ("0123456789\n[… 10 characters omitted …]\n0123456789", True)),
    ],
)
def test_what_fits_is_whole_and_what_does_not_loses_its_middle(
    chunks: list[bytes], expected: tuple[str, bool]
) -> None:
    assert fed(20, *chunks) == expected


def test_a_character_is_not_cut_in_two() -> None:
    text, truncated = fed(20, "日".encode() * 10_000)
    assert truncated
    assert "\ufffd" not in text
    assert text.startswith("日日日")
    assert text.endswith("日日日")


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=300), max_size=40), st.integers(2, 50))
def test_any_output_stays_within_the_limit_and_keeps_its_ends(chunks: list[bytes], limit: int) -> None:
    text, truncated = fed(limit, *chunks)
    whole = b"".join(chunks).decode("utf-8", "replace")
    assert truncated == (len(whole) > limit) or len(b"".join(chunks)) > limit
    assert len(text) <= limit + 60
    if not truncated:
        assert text == whole


def test_cuts() -> None:
    assert cut_middle("abc", 3) == ("abc", False)
    assert cut_end("abcdef", 3) == "abc…"
    assert cut_end("abc", 3) == "abc"
