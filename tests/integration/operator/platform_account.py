"""An operator of several namespaces: its account in one of its own, with rights in those that it serves."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from coding_agent_core.settings.operator import EVERYWHERE

from tests.fixtures.accounts import until_may
from tests.fixtures.cluster import PlaneUnderTest
from tests.integration.operator.world import ACCOUNT, ROOT

_GROUP = "rbac.authorization.k8s.io"
NAME = "platform-operator"


def rules() -> list[dict[str, Any]]:
    """What `deploy/role.yaml` gives, and nothing else."""
    objects = yaml.safe_load_all((ROOT / "operator" / "deploy" / "role.yaml").read_text())
    return next(list(object_["rules"]) for object_ in objects if object_["kind"] == "Role")


def grant(plane: PlaneUnderTest, home: str, *namespaces: str) -> None:
    """The rights of the operator in `home`: in the namespaces, or in all (`"*"`). They are in force."""
    for namespace in namespaces:
        everywhere = namespace == EVERYWHERE
        kind = "ClusterRole" if everywhere else "Role"
        # Named after its home, for a ClusterRole is everybody's.
        meta = {"name": f"{NAME}-{home}", **({} if everywhere else {"namespace": namespace})}
        version = f"{_GROUP}/v1"
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}
        plane.apply(
            {"apiVersion": version, "kind": kind, "metadata": meta, "rules": rules()},
            {
                "apiVersion": version,
                "kind": f"{kind}Binding",
                "metadata": meta,
                "roleRef": {"apiGroup": _GROUP, "kind": kind, "name": meta["name"]},
                "subjects": [subject],
            },
        )
        first = rules()[0]
        right = {"group": first["apiGroups"][0], "resource": first["resources"][0], "verb": first["verbs"][0]}
        until_may(plane, ACCOUNT, "" if everywhere else namespace, right, home=home)


def platform_account(
    plane: PlaneUnderTest, home: str, served: Sequence[str], folder: Path, server: str | None = None
) -> Path:
    """A kubeconfig of the operator's account in `home`, with its rights in what is served."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": home}}
    plane.apply(account)
    grant(plane, home, *served)
    token = plane.kubectl("-n", home, "create", "token", ACCOUNT, "--duration=2h").strip()
    config = json.loads(plane.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    if server is not None:
        config["clusters"][0]["cluster"] = {"server": server}
    file = folder / f"platform-{os.urandom(3).hex()}.kubeconfig"
    file.write_text(json.dumps(config))
    return file
