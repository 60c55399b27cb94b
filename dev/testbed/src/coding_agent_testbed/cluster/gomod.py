"""Versions are pinned in one place, the go.mod files; this reads them and derives another Kubernetes.

``KUBERNETES_VERSION`` (``1.35``, ``v1.35.4``) chooses a Kubernetes other than the pinned one: its module is
derived in the cache, checked by Go's checksum database instead of a committed go.sum.
"""

import json
import os
import re
import subprocess
from pathlib import Path

from coding_agent_testbed.cluster import go, paths
from coding_agent_testbed.cluster.again import again
from coding_agent_testbed.cluster.errors import BuildError
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.cluster.parts import KUBERNETES, MODULES, PARTS, Module

# The Go module proxy answers in seconds; a whole go.mod takes some hundred requests.
_GO_TIMEOUT_S = 900

_STAGING = re.compile(r"^\s*(k8s\.io/[a-z0-9-]+) => \./staging/", re.MULTILINE)


def required_version(go_mod: str, module: str) -> str:
    """The version of ``module`` that the text of a go.mod requires.

    Raises:
        BuildError: the go.mod does not name the module.
    """
    match = re.search(rf"^\s*(?:require\s+)?{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if match is None:
        raise BuildError(f"go.mod does not require {module}")
    return match.group(1)


def derived_go_mod(upstream: str, version: str) -> str:
    """A go.mod for building Kubernetes ``version``, from the text of Kubernetes' own go.mod.

    Kubernetes replaces its staging modules by folders, and a module that requires it must replace them by
    their published versions, v0.MINOR.PATCH for v1.MINOR.PATCH.
    """
    go = re.search(r"^go (\S+)", upstream, re.MULTILINE)
    published = "v0." + version.removeprefix("v1.")
    lines = ["module local/kubernetes", "", f"go {go.group(1) if go else '1.24'}", ""]
    lines += [f"replace {m} => {m} {published}" for m in sorted(set(_STAGING.findall(upstream)))]
    return "\n".join(lines) + "\n"


def module_folder(module: Module) -> Path:
    """The folder with the module's go.mod: in the checkout, or derived for ``KUBERNETES_VERSION``."""
    pinned = paths.source_root() / "go" / module.name
    wanted = os.environ.get("KUBERNETES_VERSION", "").strip()
    if module.anchor != KUBERNETES or not wanted:
        return pinned
    wanted = "v" + wanted.removeprefix("v")
    if not re.fullmatch(r"v1\.\d+(\.\d+)?", wanted):
        raise BuildError(f"KUBERNETES_VERSION={wanted!r}: give a minor (1.35) or a release (1.35.4)")
    go_mod = (pinned / "go.mod").read_text()
    pin = required_version(go_mod, KUBERNETES)
    if pin == wanted or pin.startswith(wanted + "."):
        return pinned
    return _derive(wanted, etcd=required_version(go_mod, "go.etcd.io/etcd/server/v3"))


def module_source(module: Module) -> Path:
    """The folder with the sources of a module's anchor, for files that its program wants at run time.

    Raises:
        BuildError: it cannot be downloaded.
    """
    arguments = ["mod", "download", "-json", module.anchor]
    return Path(json.loads(_go(arguments, module_folder(module), mode="readonly"))["Dir"])


def _derive(wanted: str, etcd: str) -> Path:
    root = paths.cache_root() / "modules"
    with locked(root / f"kubernetes-{wanted}.lock"):
        folder = root / f"kubernetes-{wanted}"
        if (folder / "done").exists():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        answer = json.loads(_go(["mod", "download", "-json", f"{KUBERNETES}@{wanted}"], root))
        version = str(answer["Version"])
        upstream = Path(answer["GoMod"]).read_text()
        (folder / "go.mod").write_text(derived_go_mod(upstream, version))
        (folder / "go.sum").unlink(missing_ok=True)
        packages = [p.package for p in PARTS.values() if MODULES[p.module].anchor == KUBERNETES]
        wants = [f"{p}@{etcd if p.startswith('go.etcd.io/') else version}" for p in packages]
        _go(["get", "-tool", *wants], folder)
        (folder / "done").touch()
        return folder


def _go(arguments: list[str], folder: Path, mode: str = "mod") -> str:
    return again(f"go {' '.join(arguments[:2])}", lambda: _go_once(arguments, folder, mode))


def _go_once(arguments: list[str], folder: Path, mode: str) -> str:
    environment = {**os.environ, "GOFLAGS": f"-mod={mode}", "GOWORK": "off"}
    try:
        run = subprocess.run(
            [go.program(), *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_GO_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"go {arguments[0]} took more than {_GO_TIMEOUT_S} s") from error
    if run.returncode:
        # With -json the reason is on standard output.
        raise BuildError(f"go {' '.join(arguments[:2])} failed:\n{(run.stdout + run.stderr)[-2000:]}")
    return run.stdout
