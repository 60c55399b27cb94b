"""What a seed's header may name: nothing but the files of packs."""

from typing import Any

import pytest
from coding_agent_consumer.workspace.framing import RequestError, pack_files

PACK = f"pack-{'0a' * 20}"


def test_the_files_of_a_seed_are_read_in_their_order() -> None:
    header = {"files": [[f"{PACK}.pack", 3], [f"{PACK}.idx", 4]]}
    assert pack_files(header, 7) == [(f"{PACK}.pack", 3), (f"{PACK}.idx", 4)]


@pytest.mark.parametrize(
    "files",
    [
        None,
        [],
        "pack",
        [[f"../{PACK}.pack", 7]],
        [[f"{PACK}.pack/../x", 7]],
        [[f"{PACK}.keep", 7]],
        [[f"{PACK}.pack\n", 7]],
        [["config", 7]],
        [[f"{PACK}.pack", 6]],
        [[f"{PACK}.pack", -1], [f"{PACK}.idx", 8]],
        [[f"{PACK}.pack", "7"]],
        [[f"{PACK}.pack", True], [f"{PACK}.idx", 6]],
        [[f"{PACK}.pack"]],
        [{"name": f"{PACK}.pack"}],
        [[7, 7]],
    ],
)
def test_anything_else_is_refused(files: Any) -> None:
    with pytest.raises(RequestError):
        pack_files({"files": files}, 7)
