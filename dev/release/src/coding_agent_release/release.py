"""All of a release from a checkout, in the order in which each part can name those before it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coding_agent_testbed.cluster import commands

from coding_agent_release import chart, images, notes, plugin, signing, version
from coding_agent_release.errors import ReleaseError
from coding_agent_release.signing import Signer

_HELM_TIMEOUT_S = 120.0
CHART = Path("charts/coding-agent")
NOTES = "notes.md"
REFERENCES = "references.json"


@dataclass(frozen=True)
class Release:
    """The contents of a release, its registry, and its signer.

    Attributes:
        root: the top folder of the checkout.
        out: the folder for its files: chart, plugin, lists of packages and notes.
        registry: what stands before the names of the images, without a scheme.
        helm: the program.
        downloads: where people will get the plugin's files; empty: from the folder `out`.
    """

    root: Path
    out: Path
    registry: str
    version: str
    helm: Path
    signer: Signer
    downloads: str = ""

    def make(self, said: Callable[[str], None] = print) -> None:
        """Build, publish, sign and say how to verify.

        Nothing is built unless the version, the notes and the key are there.

        Args:
            said: gets the lines for whoever runs it.

        Raises:
            ReleaseError: something of the release is missing or wrong.
            ClusterError: a program that builds or publishes did not succeed.
        """
        version.checked(self.version)
        _check_registry(self.registry)
        changes = version.notes((self.root / "CHANGELOG.md").read_text(encoding="utf-8"), self.version)
        self.signer.check()
        self.out.mkdir(parents=True, exist_ok=True)
        references = self._images()
        references["chart"] = self._push_chart(
            {name: ref.partition("@")[2] for name, ref in references.items()}
        )
        for reference in references.values():
            self.signer.sign(reference)
        (self.out / REFERENCES).write_text(json.dumps(references, indent=2) + "\n", encoding="utf-8")
        downloads = self.downloads or self.out.resolve().as_uri()
        built = plugin.build(self.root, self.out, version=self.version, downloads=downloads)
        flags = signing.by_key(str(self.signer.key.with_suffix(".pub")), plain_http=self.signer.plain_http)
        text = notes.write(changes, references, flags=flags, sbom=True)
        (self.out / NOTES).write_text(text, encoding="utf-8")
        for name, reference in references.items():
            said(f"{name:<12} {reference}")
        for file in (built.wheel, built.manifest, self.out / NOTES):
            said(f"{'':<12} {file}")
        said("Verify it:")
        for reference in references.values():
            said(signing.verify_command(reference, flags))

    def _images(self) -> dict[str, str]:
        """Publish the images with their lists of packages; what the registry has each under."""
        revision = commands.run(["git", "-C", str(self.root), "rev-parse", "HEAD"]).strip()
        references = {}
        plain = self.signer.plain_http
        for program in chart.IMAGES:
            reference = images.push(
                *(program, self.root),
                registry=self.registry,
                version=self.version,
                revision=revision,
                plain_http=plain,
            )
            sbom = self.out / f"{program}.spdx.json"
            images.write_sbom(reference, sbom, plain_http=plain)
            self.signer.attest(reference, sbom)
            references[program] = reference
        return references

    def _push_chart(self, digests: Mapping[str, str]) -> str:
        """Publish the chart that names these digests; what the registry has it under."""
        folder = self.out / "chart" / CHART.name
        chart.write(
            *(self.root / CHART, folder), version=self.version, registry=self.registry, digests=digests
        )
        packed = self.out / f"{CHART.name}-{self.version}.tgz"
        self._helm("package", str(folder), "--destination", str(self.out))
        http = ["--plain-http"] if self.signer.plain_http else []
        answer = self._helm("push", str(packed), f"oci://{self.registry}/charts", *http)
        digest = re.search(r"^Digest: (sha256:[0-9a-f]{64})$", answer, re.MULTILINE)
        if digest is None:
            raise ReleaseError(f"helm push did not say the digest of the chart: {answer}")
        return f"{self.registry}/charts/{CHART.name}@{digest[1]}"

    def _helm(self, *arguments: str) -> str:
        return commands.run([str(self.helm), *arguments], timeout=_HELM_TIMEOUT_S)


def _check_registry(registry: str) -> None:
    if not re.fullmatch(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)*", registry):
        raise ReleaseError(
            f"REGISTRY={registry!r}: write it as HOST:PORT or HOST/TEAM, in small letters, without a scheme"
        )
