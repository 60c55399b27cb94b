"""What the loader says of a program is read as it is meant, whichever release says it."""

from pathlib import Path

import pytest
from coding_agent_consumer.workspace.init_containers import CannotCopyError, loaded_loader, needed

OLDER = """\
\tlinux-vdso.so.1 (0x00007ffd5c3f2000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f1d2c000000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f1d2be00000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f1d2c0f0000)
"""
NEWER = """\
\tlinux-vdso.so.1 (0x00007f23a0f44000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f23a0f00000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f23a0d00000)
\t/lib64/ld-linux-x86-64.so.2 => /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 (0x00007f23a0f46000)
"""


@pytest.mark.parametrize("listing", [OLDER, NEWER], ids=["Debian 12", "Debian 13"])
def test_libraries_are_known_by_plain_names(listing: str) -> None:
    folder = Path("/lib/x86_64-linux-gnu")
    assert needed(listing) == {"libz.so.1": folder / "libz.so.1", "libc.so.6": folder / "libc.so.6"}


def test_the_loader_is_found_among_what_is_mapped() -> None:
    maps = "7f23-7f24 r--p 0 fe:00 1   /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n"
    assert loaded_loader(maps) == Path("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    with pytest.raises(CannotCopyError):
        loaded_loader("7f23-7f24 r--p 0 fe:00 1   /usr/bin/python3\n")
