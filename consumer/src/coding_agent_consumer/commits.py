"""What a commit of ours says and carries: its message, and its signature as `git commit -S` makes one."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from coding_agent_core.errors import SettingsError
from coding_agent_core.forge.protocol import CommitIdentity, Forge
from coding_agent_core.settings.attempts import Commits
from coding_agent_core.text import inline, quotation
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

SUBJECT_LIMIT = 72
"""Characters of the first line: forges fold what is longer."""
_MARKUP = re.compile(r"^(?:#{1,6}|[-*+]|\d+[.)]|>)\s+|\*\*|__")
_END_OF_CLAUSE = re.compile(r"[;:] | [-\u2013\u2014(]")
_END_OF_SENTENCE = re.compile(r"(?<=\S[.!?])\s")
_Key = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_MAGIC = b"SSHSIG"
_NAMESPACE = b"git"
_HASH = b"sha512"
_CURVES: dict[str, HashAlgorithm] = {"secp256r1": SHA256(), "secp384r1": SHA384(), "secp521r1": SHA512()}


def commit_message(
    summary: str, *, finished: bool, item_title: str, footer: str, asked_by: CommitIdentity | None
) -> str:
    """The whole message; every text in it becomes inert.

    Args:
        summary: the model's, of its work; empty if there is none.
        item_title: names unfinished work, and work without a summary.
        footer: names the item.
        asked_by: shown as co-author.
    """
    subject = subject_of(summary) or item_title if finished else f"Work so far on {item_title}"
    trailer = ""
    if asked_by is not None:
        name = inline(re.sub(r"[<>]", "", asked_by.name))
        trailer = f"Co-authored-by: {name} <{asked_by.email}>"
    shown = _cut(inline(subject))
    parts = (shown, "" if summary.strip() == subject else quotation(summary), footer, trailer)
    return "\n\n".join(filter(None, parts)) + "\n"


def subject_of(summary: str) -> str:
    """The first sentence of a summary, without Markdown and full stop; empty if there is none."""
    lines = (_MARKUP.sub("", line.strip()).strip() for line in summary.splitlines())
    first = next((line for line in lines if re.search(r"\w", line)), "")
    return _END_OF_SENTENCE.split(first, maxsplit=1)[0].rstrip(" .:;,")


def _cut(subject: str) -> str:
    """At most `SUBJECT_LIMIT` characters: up to the end of a clause if there is one, else of a word."""
    if len(subject) <= SUBJECT_LIMIT:
        return subject
    clauses = [found.start() for found in _END_OF_CLAUSE.finditer(subject[: SUBJECT_LIMIT + 1])]
    if clauses and clauses[-1] > SUBJECT_LIMIT // 2:
        return subject[: clauses[-1]]
    words = subject[: SUBJECT_LIMIT - 1].rpartition(" ")[0]
    return (words if len(words) > SUBJECT_LIMIT // 2 else subject[: SUBJECT_LIMIT - 1]) + "…"


@dataclass(frozen=True)
class SshSigner:
    """Signs with one key; made by `load`.

    In this process, because `ssh-keygen` works only for a user with an entry in /etc/passwd, which a pod's
    user need not have. The formats are those of OpenSSH's PROTOCOL.sshsig, RFC 4253, 5656, 8332 and 8709, and
    git's gitformat-signature.
    """

    key: _Key = field(repr=False)

    @staticmethod
    def load(file: Path) -> SshSigner:
        """The signer with the private key in a file.

        Raises:
            SettingsError: the file cannot be read, or holds no key that can be used.
        """
        setting = f"`consumer.commits.signing_key`: {file}"
        try:
            key = load_ssh_private_key(file.read_bytes(), password=None)
        except OSError as error:
            raise SettingsError(f"{setting} cannot be read: {error.strerror}") from None
        except (TypeError, ValueError) as error:
            # TypeError: the key has a passphrase. The messages do not quote the file.
            why = (
                "it has a passphrase" if isinstance(error, TypeError) else "it is not an OpenSSH private key"
            )
            raise SettingsError(f"{setting} cannot be used: {why}.") from None
        if not isinstance(key, _Key):
            raise SettingsError(f"{setting} cannot be used: use an Ed25519, RSA or ECDSA key.")
        return SshSigner(key)

    def sign(self, commit: bytes) -> bytes:
        """A commit object with its signature in the header `gpgsig`."""
        headers, blank, message = commit.partition(b"\n\n")
        signature = self._armored(commit).replace(b"\n", b"\n ")
        return headers + b"\ngpgsig " + signature + blank + message

    def _armored(self, message: bytes) -> bytes:
        hashed = hashlib.sha512(message).digest()
        signed = _MAGIC + b"".join(map(_string, (_NAMESPACE, b"", _HASH, hashed)))
        public = self.key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split(b" ")
        name, signature = self._signature(signed, public[0])
        parts = (
            base64.b64decode(public[1]),
            _NAMESPACE,
            b"",
            _HASH,
            _string(name) + _string(signature),
        )
        blob = _MAGIC + struct.pack(">I", 1) + b"".join(map(_string, parts))
        lines = textwrap.wrap(base64.b64encode(blob).decode("ascii"), 70)
        return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----"]).encode()

    def _signature(self, data: bytes, key_type: bytes) -> tuple[bytes, bytes]:
        """The algorithm's name and the signature in its own format."""
        match self.key:
            case ed25519.Ed25519PrivateKey():
                return key_type, self.key.sign(data)
            case rsa.RSAPrivateKey():
                return b"rsa-sha2-512", self.key.sign(data, padding.PKCS1v15(), SHA512())
            case ec.EllipticCurvePrivateKey():
                hash_algorithm = _CURVES[self.key.curve.name]
                numbers = utils.decode_dss_signature(self.key.sign(data, ec.ECDSA(hash_algorithm)))
                return key_type, b"".join(_string(_mpint(number)) for number in numbers)


def _string(value: bytes) -> bytes:
    """An SSH `string`: its length, and it."""
    return struct.pack(">I", len(value)) + value


def _mpint(number: int) -> bytes:
    """The content of an SSH `mpint`: a positive number, with a zero in front if its first bit is set."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


async def commit_author(forge: Forge, settings: Commits) -> CommitIdentity:
    """The author of the commits: the forge's account, as far as the settings name nobody else."""
    if settings.name and settings.email:
        return CommitIdentity(settings.name, settings.email)
    own = await forge.commit_identity()
    return CommitIdentity(settings.name or own.name, settings.email or own.email)
