"""`python -m coding_agent_release`: make a release, or one part of it for the workflow of a tag."""

import argparse
import json
import sys
from pathlib import Path

from coding_agent_testbed.cluster import build, paths
from coding_agent_testbed.errors import TestbedError

from coding_agent_release import chart, notes, plugin, signing, version
from coding_agent_release.errors import ReleaseError
from coding_agent_release.release import CHART, NOTES, Release
from coding_agent_release.signing import Signer


def main() -> int:
    """0; 1 where the release cannot be made."""
    chosen = _parser().parse_args()
    try:
        chosen.run(chosen)
    except (ReleaseError, TestbedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coding_agent_release", description=__doc__)
    parser.add_argument("--version", default="", help="by default the one in Chart.yaml")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the files of the release")
    parts = parser.add_subparsers(required=True)

    everything = parts.add_parser("all", help="build, publish and sign everything, and say how to verify it")
    everything.add_argument("--registry", required=True, help="HOST:PORT or HOST/TEAM")
    everything.add_argument("--key", type=Path, required=True, help="cosign's private key, KEY.key")
    everything.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
    everything.set_defaults(run=_everything)

    one = parts.add_parser("key", help="make the key pair that signs")
    one.add_argument("--key", type=Path, required=True, help="NAME.key; the public key becomes NAME.pub")
    one.set_defaults(run=_key)

    one = parts.add_parser("chart", help="write the chart with the digests of the images")
    one.add_argument("--registry", required=True, help="HOST/TEAM")
    one.add_argument("--references", type=Path, required=True, help="JSON: NAME@DIGEST of each image")
    one.set_defaults(run=_chart)

    one = parts.add_parser("plugin", help="build the plugin's wheels, and Krew's archive and manifest")
    one.add_argument("--downloads", required=True, help="the address that its files will be under")
    one.set_defaults(run=_plugin)

    one = parts.add_parser("notes", help="write the notes, with the commands that verify the release")
    one.add_argument("--references", type=Path, required=True, help="JSON: NAME@DIGEST of chart and images")
    one.add_argument("--repository", required=True, help="OWNER/NAME on GitHub, whose workflow signed")
    one.set_defaults(run=_notes)
    return parser


def _everything(chosen: argparse.Namespace) -> None:
    binaries = build.binaries(["cosign", "helm"])
    host = chosen.registry.partition("/")[0].partition(":")[0]
    # As Docker does: nobody gives the loopback address a certificate.
    plain = chosen.plain_http or host in ("127.0.0.1", "localhost")
    Release(
        root=paths.repository_root(),
        out=chosen.out,
        registry=chosen.registry,
        version=_version(chosen),
        helm=binaries["helm"],
        signer=Signer(binaries["cosign"], chosen.key, plain_http=plain),
    ).make()


def _key(chosen: argparse.Namespace) -> None:
    signing.make_key(build.binaries(["cosign"])["cosign"], chosen.key)


def _chart(chosen: argparse.Namespace) -> None:
    digests = {name: text.partition("@")[2] for name, text in _references(chosen.references).items()}
    chart.write(
        *(paths.repository_root() / CHART, chosen.out / "chart" / CHART.name),
        version=_version(chosen),
        registry=chosen.registry,
        digests=digests,
    )


def _plugin(chosen: argparse.Namespace) -> None:
    plugin.build(paths.repository_root(), chosen.out, version=_version(chosen), downloads=chosen.downloads)


def _notes(chosen: argparse.Namespace) -> None:
    changelog = (paths.repository_root() / "CHANGELOG.md").read_text(encoding="utf-8")
    text = notes.write(
        version.notes(changelog, _version(chosen)),
        _references(chosen.references),
        flags=signing.by_workflow(chosen.repository),
        sbom=False,
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / NOTES).write_text(text, encoding="utf-8")


def _version(chosen: argparse.Namespace) -> str:
    if chosen.version:
        return version.checked(chosen.version)
    return version.checked(version.of_chart((paths.repository_root() / CHART / "Chart.yaml").read_text()))


def _references(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"--references {file}: {error}") from error
    return {str(name): str(reference) for name, reference in found.items()}


if __name__ == "__main__":
    sys.exit(main())
