import pytest
from coding_agent_consumer.workspace.files import cut_end
from coding_agent_consumer.workspace.processes import BoundedOutput, cut_middle
from hypothesis import given, settings
from hypothesis import strategies as st


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
