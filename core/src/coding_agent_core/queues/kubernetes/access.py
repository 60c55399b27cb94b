"""The way to the cluster: `KUBECONFIG`, else the pod's service account, else ~/.kube/config."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio import client, config

from coding_agent_core.errors import SettingsError

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Access:
    """A way to a cluster.

    Attributes:
        kubeconfig: the file or files (`:` between them); `None`: the pod's service account.
    """

    kubeconfig: str | None

    @staticmethod
    def find(environment: Mapping[str, str] = os.environ, account: Path = _SERVICE_ACCOUNT) -> Access:
        """The way that this process has.

        Raises:
            SettingsError: it has none.
        """
        if given := environment.get("KUBECONFIG"):
            if not any(Path(each).expanduser().is_file() for each in given.split(os.pathsep)):
                raise SettingsError(f"KUBECONFIG: there is no file {given}")
            return Access(given)
        if environment.get("KUBERNETES_SERVICE_HOST") and (account / "token").is_file():
            return Access(None)
        usual = Path(environment.get("HOME", "~")).expanduser() / ".kube" / "config"
        if usual.is_file():
            return Access(str(usual))
        raise SettingsError(
            "this process has no way to a Kubernetes cluster: run it in a pod with a "
            "service account token, or set KUBECONFIG to a kubeconfig file"
        )

    async def load(self, settings: Any) -> str | None:
        """Read address and credentials into a client `Configuration`, anew at each call.

        Returns:
            The namespace that goes with them, if one does.

        Raises:
            SettingsError: they cannot be read.
        """
        try:
            if self.kubeconfig is None:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
                return _read(_SERVICE_ACCOUNT / "namespace")
            loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=self.kubeconfig, client_configuration=settings, persist_config=False
            )
            namespace = loader.current_context["context"].get("namespace")
            return str(namespace) if namespace else None
        except (config.ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, KeyError) as error:
            # The last ones because the client's reader takes a file's shape for granted.
            where = self.kubeconfig or "the pod's service account"
            raise SettingsError(f"cannot use {where}: {error}") from error


def new_configuration() -> Any:
    """The client's settings for this project."""
    settings = client.Configuration()
    # Looking up proxies and netrc at each request costs more time than the request itself.
    settings.client_session_kwargs = {"trust_env": False}
    return settings


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
