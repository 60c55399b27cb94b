"""What is copied of a shared cache for an attempt that may not write to it."""

import os
import stat
from pathlib import Path

import pytest
from coding_agent_consumer.workspace import init_containers
from coding_agent_consumer.workspace.sandbox import FileSystem, plan_view


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    root = tmp_path / "shared"
    for name in ("pip/http-v2/a", "npm/_cacache/index-v5/b", "npm/_logs/log", "cargo/config.toml", "other/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_what_package_managers_download_is_copied_and_nothing_else(shared: Path, tmp_path: Path) -> None:
    init_containers.copy_packages(shared, tmp_path)
    assert tree(tmp_path / "pip") | tree(tmp_path / "npm") == {"http-v2/a", "_cacache/index-v5/b"}
    assert not {"cargo", "other", ".part"} & set(os.listdir(tmp_path))
    (tmp_path / "pip/http-v2/a").write_text("changed")
    assert (shared / "pip/http-v2/a").read_text() == "pip/http-v2/a"


def test_no_link_is_followed_and_nothing_but_files_is_read(shared: Path, tmp_path: Path) -> None:
    (shared / "pip/passwd").symlink_to("/etc/passwd")
    os.mkfifo(shared / "pip/fifo")
    (shared / "pip/folder").symlink_to("/etc")
    init_containers.copy_packages(shared, tmp_path)
    assert os.readlink(tmp_path / "pip/passwd") == "/etc/passwd"
    assert os.readlink(tmp_path / "pip/folder") == "/etc"
    assert not (tmp_path / "pip/fifo").exists()
    assert stat.S_ISREG((tmp_path / "pip/http-v2/a").lstat().st_mode)


@pytest.mark.parametrize("link", ["npm", "npm/_cacache"])
def test_a_package_managers_folder_that_is_a_link_is_left_out(
    shared: Path, tmp_path: Path, link: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (shared / link).rename(elsewhere)
    (shared / link).symlink_to(elsewhere)
    init_containers.copy_packages(shared, tmp_path)
    assert not (tmp_path / "npm").exists()
    assert (tmp_path / "pip").exists()


def test_a_folder_that_is_nested_too_deeply_is_left_out(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shared / "pip" / "/".join("d" * 150)).mkdir(parents=True)
    init_containers.copy_packages(shared, tmp_path)
    assert "left out pip: its folders are nested too deeply" in capsys.readouterr().out
    assert not (tmp_path / "pip").exists()
    assert not (tmp_path / ".part").exists()
    assert (tmp_path / "npm").exists()


@pytest.mark.parametrize("limit", ["_BYTES", "_FILES", "_SECONDS"])
def test_a_folder_is_copied_whole_or_not_at_all(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    (shared / "pip/http-v2/large").write_text("x" * 100_000)
    monkeypatch.setattr(init_containers, limit, {"_BYTES": 50_000, "_FILES": 2, "_SECONDS": -1.0}[limit])
    init_containers.copy_packages(shared, tmp_path)
    assert not (tmp_path / "pip").exists()
    assert not (tmp_path / ".part").exists()


USR, ETC, OPT = (Path("/", name) for name in ("usr", "etc", "opt"))
LINKS = {
    Path("/bin"): Path("/usr/bin"),
    Path("/etc/resolv.conf"): Path("/run/systemd/resolve/stub-resolv.conf"),
}
FILES = {
    *(USR, ETC, OPT, Path("/bin"), Path("/root"), Path("/home"), Path("/run"), Path("/tmp"), Path("/var")),
    Path("/root/.pyenv/versions/3.11"),
    Path("/etc/coding-agent"),
    Path("/etc/coding-agent/config.yaml"),
    Path("/opt/app"),
    Path("/opt/app/python"),
    Path("/opt/app/python/secret"),
    Path("/run/systemd/resolve/stub-resolv.conf"),
    Path("/usr/lib/python3"),
}
MACHINE = FileSystem(
    exists=FILES.__contains__, is_link=LINKS.__contains__, real=lambda path: LINKS.get(path, path)
)
STUB = ("bind", "/run/systemd/resolve/stub-resolv.conf")
SYSTEM = [("link", "/bin"), ("bind", "/etc"), ("bind", "/opt"), ("bind", "/usr")]


@pytest.mark.parametrize(
    ("readable", "hidden", "expected"),
    [
        ([], [], [*SYSTEM, STUB]),
        (["/root/.pyenv/versions/3.11"], ["/root"], [*SYSTEM, ("bind", "/root/.pyenv/versions/3.11"), STUB]),
        (["/usr/lib/python3", "/usr"], [], [*SYSTEM, STUB]),
        ([], ["/etc/coding-agent/config.yaml"], [*SYSTEM, ("mask", "/etc/coding-agent/config.yaml"), STUB]),
        ([], ["/home", "/nowhere", "/"], [*SYSTEM, STUB]),
        (["/", "relative", "/nowhere"], [], [*SYSTEM, STUB]),
        (
            ["/opt/app/python"],
            ["/opt/app", "/opt/app/python/secret"],
            [
                *SYSTEM,
                ("mask", "/opt/app"),
                ("bind", "/opt/app/python"),
                ("mask", "/opt/app/python/secret"),
                STUB,
            ],
        ),
    ],
)
def test_only_programs_and_what_is_asked_for(
    readable: list[str], hidden: list[str], expected: list[tuple[str, str]]
) -> None:
    steps = plan_view(map(Path, readable), map(Path, hidden), MACHINE)
    assert sorted((step.action.value, str(step.path)) for step in steps) == sorted(expected)
    done: set[Path] = set()
    for step in steps:
        assert not any(step.path in path.parents for path in done), "parents come first"
        done.add(step.path)
