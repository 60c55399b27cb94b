"""Archives and layouts of images, with bytes alone."""

import json
import tarfile
from pathlib import Path

import pytest
from coding_agent_cluster import layout, oci


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A layout with the image localhost/x:1 of one layer, and a blob that nothing uses."""
    program = tmp_path / "program"
    program.write_text("#!/bin/true\n")
    oci.write(tmp_path / "x.tar", "localhost/x:1", {"/program": program}, ["/program"])
    target = tmp_path / "layout"
    with tarfile.open(tmp_path / "x.tar") as tar:
        tar.extractall(target, filter="data")
    index = json.loads((target / "index.json").read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "localhost/x:1"}
    (target / "index.json").write_text(json.dumps(index))
    (target / "blobs/sha256/unused").touch()
    return target


def test_a_layout_with_half_an_index_is_removed_and_a_whole_one_is_not(folder: Path) -> None:
    layout.remove_if_broken(folder)
    assert layout.manifest_entry(folder, "localhost/x:1")
    index = folder / "index.json"
    index.write_bytes(index.read_bytes()[:10])
    layout.remove_if_broken(folder)
    assert not folder.exists()
    layout.remove_if_broken(folder)


def test_an_image_that_is_there_as_it_is_needs_no_second_export(folder: Path) -> None:
    _, config, _ = layout.digests(folder, layout.manifest_entry(folder, "localhost/x:1"))
    assert layout.holds(folder, "localhost/x:1", config.removeprefix("sha256:"))
    assert not layout.holds(folder, "localhost/x:1", "0" * 64)
    assert not layout.holds(folder, "localhost/y:1", config.removeprefix("sha256:"))
    assert not layout.holds(folder / "none", "localhost/x:1", config.removeprefix("sha256:"))
