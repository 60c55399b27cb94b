"""Sign commits with an SSH key. Only an attempt that signs imports this, because the library takes time."""

from __future__ import annotations

import base64
import hashlib
import struct
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from coding_agent_core.errors import SettingsError
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

_Key = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_MAGIC = b"SSHSIG"
_NAMESPACE = b"git"
_HASH = b"sha512"
_CURVES: dict[str, HashAlgorithm] = {"secp256r1": SHA256(), "secp384r1": SHA384(), "secp521r1": SHA512()}


@dataclass(frozen=True)
class SshSigner:
    """Signs commits with one key; `load` makes it.

    It signs in this process, because `ssh-keygen` needs a user with an entry in /etc/passwd, and a pod's user
    may have none. The formats are those of OpenSSH's PROTOCOL.sshsig, RFC 4253, 5656, 8332 and 8709, and
    git's gitformat-signature.
    """

    key: _Key = field(repr=False)

    @staticmethod
    def load(file: Path) -> SshSigner:
        """Return a signer with the private key in a file.

        Raises:
            SettingsError: the file cannot be read, or has no usable key.
        """
        setting = f"`consumer.commits.signing_key` (the chart's value `attempts.signing`): {file}"
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
        """Return a commit object with its signature in the header `gpgsig`."""
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
        """Return the algorithm's name, and the signature in that algorithm's format."""
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
    """Encode an SSH `string`: its length, then its content."""
    return struct.pack(">I", len(value)) + value


def _mpint(number: int) -> bytes:
    """Encode the content of an SSH `mpint`: a positive number, after a zero byte if its first bit is set."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")
