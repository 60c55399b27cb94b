"""Keys, certificates and kubeconfigs: every component its own identity, as the Kubernetes documents ask.

Subjects and usages: https://kubernetes.io/docs/setup/best-practices/certificates/
"""

import base64
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from coding_agent_testbed.cluster.apt import ensure
from coding_agent_testbed.cluster.errors import ClusterError
from coding_agent_testbed.cluster.network import LOOPBACK, Network

NODE_NAME = "node1"
_DAYS = 365
_OPENSSL_TIMEOUT_S = 60


@dataclass(frozen=True)
class Certificate:
    """A certificate to be made: file name, issuer (a CA's file name), subject, usage, names and addresses."""

    name: str
    issuer: str
    subject: str
    usage: str
    alternatives: tuple[str, ...] = ()
    kubeconfig: bool = False


AUTHORITIES = ("ca", "front-proxy-ca")


def certificates(network: Network) -> tuple[Certificate, ...]:
    """Every certificate that a cluster with these addresses has."""
    names = [f"DNS:kubernetes{s}" for s in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    addresses = dict.fromkeys([LOOPBACK, network.address, network.api_service])
    server = (*names, "DNS:localhost", *(f"IP:{a}" for a in addresses))
    node = f"/O=system:nodes/CN=system:node:{NODE_NAME}"

    def client(name: str, subject: str) -> Certificate:
        return Certificate(name, "ca", subject, "clientAuth", kubeconfig=True)

    return (
        Certificate("apiserver", "ca", "/CN=kube-apiserver", "serverAuth", server),
        Certificate(
            "kubelet-server", "ca", node, "serverAuth", (f"DNS:{NODE_NAME}", f"IP:{network.address}")
        ),
        Certificate("front-proxy-client", "front-proxy-ca", "/CN=front-proxy-client", "clientAuth"),
        Certificate(
            "apiserver-kubelet-client",
            "ca",
            "/O=system:masters/CN=kube-apiserver-kubelet-client",
            "clientAuth",
        ),
        client("admin", "/O=system:masters/CN=admin"),
        client("kube-controller-manager", "/CN=system:kube-controller-manager"),
        client("kube-scheduler", "/CN=system:kube-scheduler"),
        client("kube-proxy", "/CN=system:kube-proxy"),
        client("kubelet", node),
    )


def kubeconfig(server: str, authority: str, certificate: str, key: str) -> dict[str, Any]:
    """A kubeconfig with everything inside, so that the file can be copied; PEM texts in, plain data out."""

    def inline(pem: str) -> str:
        return base64.b64encode(pem.encode()).decode()

    name = "coding-agent"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": inline(authority)}}
        ],
        "users": [
            {
                "name": name,
                "user": {"client-certificate-data": inline(certificate), "client-key-data": inline(key)},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def create(folder: Path, network: Network) -> None:
    """Make all keys, certificates and kubeconfigs in ``folder``; does nothing when they are there.

    Raises:
        ClusterError: openssl failed.
        MachineError: openssl is missing.
    """
    stamp = folder / "complete"
    if stamp.exists() and stamp.read_text() == repr(network):
        return
    ensure({"openssl": "openssl"})
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stamp.unlink(missing_ok=True)  # if this is interrupted, the keys of two networks lie here
    for authority in AUTHORITIES:
        _key(folder, authority)
        openssl(
            folder,
            *("req", "-x509", "-new", "-sha256", "-days", str(_DAYS), "-subj", f"/CN={authority}"),
            *("-key", f"{authority}.key", "-out", f"{authority}.crt"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"),
        )
    for certificate in certificates(network):
        sign(folder, certificate)
        if certificate.kubeconfig:
            texts = [(folder / f).read_text() for f in ("ca.crt", *_files(certificate.name))]
            config = folder / f"{certificate.name}.kubeconfig"
            config.write_text(yaml.safe_dump(kubeconfig(network.api_url, *texts)))
    _key(folder, "service-accounts")
    openssl(folder, "ec", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub")
    for secret in [*folder.glob("*.key"), *folder.glob("*.kubeconfig")]:
        secret.chmod(0o600)
    stamp.write_text(repr(network))


def _files(name: str) -> tuple[str, str]:
    return f"{name}.crt", f"{name}.key"


def _key(folder: Path, name: str) -> None:
    openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")


def sign(folder: Path, certificate: Certificate) -> None:
    """Make a key and its certificate in the folder, which has the issuer's.

    Raises:
        ClusterError: openssl failed.
    """
    name, issuer = certificate.name, certificate.issuer
    extensions = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        f"extendedKeyUsage={certificate.usage}",
    ]
    if certificate.alternatives:
        extensions.append(f"subjectAltName={','.join(certificate.alternatives)}")
    (folder / f"{name}.ext").write_text("\n".join(extensions) + "\n")
    _key(folder, name)
    openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", certificate.subject, "-out", f"{name}.csr")
    openssl(
        folder,
        *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key"),
        *("-CAcreateserial", "-days", str(_DAYS), "-sha256", "-extfile", f"{name}.ext"),
        *("-out", f"{name}.crt"),
    )
    for scrap in (f"{name}.ext", f"{name}.csr"):
        (folder / scrap).unlink()


def openssl(folder: Path, *arguments: str) -> None:
    """Run openssl in the folder.

    Raises:
        ClusterError: it failed, or took more than a minute.
    """
    command = ["openssl", *arguments]
    try:
        run = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_OPENSSL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"openssl {arguments[0]} took more than {_OPENSSL_TIMEOUT_S} s") from error
    if run.returncode:
        raise ClusterError(f"openssl {arguments[0]} failed: {run.stderr.strip()[-500:]}")
