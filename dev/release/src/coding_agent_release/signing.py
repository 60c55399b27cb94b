"""Signatures with cosign: what signs, and the command with which anybody verifies.

From a checkout, a key signs and nothing is written to a transparency log: nobody else needs to know of the
release. The workflow of a tag signs without a key: its identity is in the certificate
(https://docs.sigstore.dev/cosign/signing/overview).
"""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from coding_agent_testbed.cluster import commands

from coding_agent_release.errors import ReleaseError

_TIMEOUT_S = 120.0
_PERSON_TIMEOUT_S = 600.0
"""For a person who thinks of a password."""
_SBOM_TYPE = "spdxjson"
_PASSWORD = "COSIGN_PASSWORD"
_ISSUER = "https://token.actions.githubusercontent.com"


@dataclass(frozen=True)
class Signer:
    """Signs with a private key, in a registry that is reached with or without TLS.

    Attributes:
        cosign: the program.
        key: the file of the private key, which `cosign generate-key-pair` made.
        plain_http: the registry has no TLS.
    """

    cosign: Path
    key: Path
    plain_http: bool

    def check(self) -> None:
        """See that there is a key, before anything is built.

        Raises:
            ReleaseError: the key's file or its password is missing.
        """
        if not self.key.is_file():
            raise ReleaseError(f"KEY={self.key}: there is no such file; `make release-key KEY=…` makes one")
        if _PASSWORD not in os.environ:
            raise ReleaseError(
                f"{_PASSWORD} is not set: it is the password of {self.key}, empty if it has none"
            )

    def sign(self, reference: str) -> None:
        """Sign what the registry has under this name.

        Args:
            reference: a name with a digest; a tag can be moved after it was signed.

        Raises:
            ClusterError: cosign did not succeed.
        """
        self._run("sign", reference)

    def attest(self, reference: str, sbom: Path) -> None:
        """Attach a signed statement of what the image consists of.

        Args:
            sbom: an SPDX document as JSON.

        Raises:
            ClusterError: cosign did not succeed.
        """
        self._run("attest", "--type", _SBOM_TYPE, "--predicate", str(sbom), reference)

    def _run(self, command: str, *arguments: str) -> None:
        # Without files that name no service, cosign asks the public ones: for a log, and for whom to trust.
        with TemporaryDirectory() as scratch:
            services = []
            for kind in ("signing-config", "trusted-root"):
                file = f"{scratch}/{kind}.json"
                commands.run((str(self.cosign), kind, "create", "--out", file), timeout=_TIMEOUT_S)
                services += [f"--{kind}", file]
            http = http_flags(plain_http=self.plain_http)
            flags = ("--yes", "--key", str(self.key), *services, *http)
            commands.run((str(self.cosign), command, *flags, *arguments), timeout=_TIMEOUT_S)


def make_key(cosign: Path, key: Path) -> None:
    """Make a key pair, `NAME.key` and `NAME.pub`; without COSIGN_PASSWORD, cosign asks for a password.

    Raises:
        ReleaseError: the name of the key does not end in `.key`, the key exists, or cosign did not succeed.
    """
    if key.suffix != ".key":
        raise ReleaseError(f"KEY={key}: give a name that ends in .key")
    if key.exists():
        raise ReleaseError(f"KEY={key}: there is such a key already")
    command = [str(cosign), "generate-key-pair", "--output-key-prefix", str(key.with_suffix(""))]
    if subprocess.run(command, timeout=_PERSON_TIMEOUT_S, check=False).returncode:
        raise ReleaseError(f"KEY={key}: cosign made no key")


def http_flags(*, plain_http: bool) -> tuple[str, ...]:
    """The flags of cosign for a registry."""
    return ("--allow-http-registry",) if plain_http else ()


def by_key(public_key: str, *, plain_http: bool) -> tuple[str, ...]:
    """The flags of `cosign verify` for what a key signed from a checkout.

    Args:
        public_key: the file of the public key.
    """
    return ("--key", public_key, "--insecure-ignore-tlog=true", *http_flags(plain_http=plain_http))


def by_workflow(repository: str) -> tuple[str, ...]:
    """The flags of `cosign verify` for what the workflow of a tag signed.

    Args:
        repository: `OWNER/NAME` on GitHub.
    """
    workflow = re.escape(f"https://github.com/{repository}/.github/workflows/release.yaml@refs/tags/v")
    return ("--certificate-identity-regexp", f"^{workflow}", "--certificate-oidc-issuer", _ISSUER)


def verify_command(reference: str, flags: Sequence[str]) -> str:
    """The command, for a shell, that fails unless this is what was signed."""
    return shlex.join(["cosign", "verify", *flags, reference])


def verify_sbom_command(reference: str, flags: Sequence[str]) -> str:
    """The command, for a shell, that prints what the image consists of, and fails unless that was signed."""
    return shlex.join(["cosign", "verify-attestation", "--type", _SBOM_TYPE, *flags, reference])
