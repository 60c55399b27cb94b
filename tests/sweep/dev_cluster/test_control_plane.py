"""The control plane alone is a real Kubernetes: each test shows one thing that a fake would not do."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coding_agent_cluster import network, paths, standalone, state
from coding_agent_cluster.access import Access, KubectlError
from coding_agent_cluster.processes import fingerprint
from coding_agent_cluster.wait import until
from kubernetes.client.exceptions import ApiException

from tests.fixtures.cluster import PlaneUnderTest

# Some start control planes of their own.
pytestmark = pytest.mark.timeout(600)


def config_map(name: str, **metadata: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}


def pod(**container: object) -> dict[str, object]:
    spec = {"containers": [{"name": "c", "image": "localhost/none:1", **container}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


def test_pod_security_refuses_a_privileged_pod(control_plane: PlaneUnderTest, namespace: str) -> None:
    body = json.dumps(pod(securityContext={"privileged": True}))
    with pytest.raises(KubectlError, match=r'violates PodSecurity "restricted:latest": privileged'):
        control_plane.kubectl("-n", namespace, "create", "-f", "-", stdin=body)


@pytest.mark.pod_security("privileged")
def test_pod_security_level_is_the_namespaces(control_plane: PlaneUnderTest, namespace: str) -> None:
    body = json.dumps(pod(securityContext={"privileged": True}))
    control_plane.kubectl("-n", namespace, "create", "-f", "-", stdin=body)


def test_rbac_gives_a_service_account_what_is_bound_and_no_more(
    control_plane: PlaneUnderTest, namespace: str
) -> None:
    run = control_plane.kubectl
    run("-n", namespace, "create", "serviceaccount", "reader")
    run("-n", namespace, "create", "role", "reader", "--verb=get,list", "--resource=configmaps")
    run(
        "-n", namespace, "create", "rolebinding", "r", "--role=reader", f"--serviceaccount={namespace}:reader"
    )
    token = run("-n", namespace, "create", "token", "reader").strip()
    # A kubeconfig without the administrator's certificate, which would win over the token.
    config = json.loads(run("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    file = control_plane.kubeconfig.with_name(f"{namespace}.kubeconfig")
    file.write_text(json.dumps(config))
    reader = Access(file, control_plane.plane.binaries["kubectl"])

    def may_read() -> bool:
        return "kube-root-ca.crt" in reader.kubectl("-n", namespace, "get", "configmaps")

    # The API server knows of a binding a moment after it has taken it.
    until("what is bound", may_read, timeout=60, transient=(KubectlError,))
    with pytest.raises(KubectlError, match=f"system:serviceaccount:{namespace}:reader.*cannot list.*secrets"):
        reader.kubectl("-n", namespace, "get", "secrets")


def test_nobody_is_let_in_without_credentials(control_plane: PlaneUnderTest) -> None:
    server = ["--server", control_plane.plane.network.api_url, "--insecure-skip-tls-verify"]
    with pytest.raises(KubectlError, match=r"Unauthorized|must be logged in"):
        control_plane.kubectl("--kubeconfig=/dev/null", *server, "--token=wrong", "get", "namespaces")


def test_an_invalid_object_is_refused_by_the_schema_and_by_cel(control_plane: PlaneUnderTest) -> None:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {"size": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.size < 10", "message": "at most nine"}],
            }
        },
    }
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    control_plane.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "things.test.example.com"},
            "spec": {
                "group": "test.example.com",
                "names": names,
                "scope": "Cluster",
                "versions": [version | {"subresources": {"status": {}}}],
            },
        }
    )
    control_plane.wait_until_established("things.test.example.com")

    def create(size: object) -> object:
        thing = {"apiVersion": "test.example.com/v1", "kind": "Thing", "metadata": {"name": "t"}}
        body = thing | {"spec": {"size": size}}
        return control_plane.custom.create_cluster_custom_object("test.example.com", "v1", "things", body)

    with pytest.raises(ApiException, match=r"spec\.size in body must be of type integer"):
        create("many")
    with pytest.raises(ApiException, match="at most nine"):
        create(10)
    create(9)


def test_what_an_object_owns_goes_with_it(control_plane: PlaneUnderTest, namespace: str) -> None:
    core = control_plane.core
    owner = core.create_namespaced_config_map(namespace, config_map("owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    core.create_namespaced_config_map(namespace, config_map("owned", ownerReferences=[reference]))
    core.delete_namespaced_config_map("owner", namespace)

    def names() -> set[str]:
        return {m.metadata.name for m in core.list_namespaced_config_map(namespace).items}

    until("garbage collection", lambda: "owned" not in names(), timeout=90)


def test_the_audit_log_says_who_did_what(control_plane: PlaneUnderTest, namespace: str) -> None:
    control_plane.core.create_namespaced_config_map(namespace, config_map("watched"))

    def logged() -> Any:
        # It is written after the answer, and the last line may be half of one: ValueError, asked again.
        lines = control_plane.plane.folders.audit_log.read_text().splitlines()
        entries = [json.loads(line) for line in lines if '"watched"' in line]
        return next((e for e in entries if e["verb"] == "create"), None)

    creation = until("the entry", logged, timeout=60)
    assert creation["user"]["username"] == "admin"
    assert creation["objectRef"]["namespace"] == namespace


@pytest.mark.parametrize("part", ["etcd", "kube-apiserver", "kube-controller-manager"])
def test_a_killed_part_comes_back_and_nothing_is_lost(
    chaos_plane: PlaneUnderTest, namespace: str, part: str
) -> None:
    processes = chaos_plane.plane.processes
    before = processes.pid(part)
    assert before is not None
    chaos_plane.core.create_namespaced_config_map(namespace, config_map("kept"))
    chaos_plane.kill(part)
    assert fingerprint(before) is None
    if part == "kube-apiserver":
        with pytest.raises(KubectlError, match=r"refused|EOF|reset"):
            chaos_plane.kubectl("get", "namespaces", "--request-timeout=30s")
    chaos_plane.start(part)
    assert processes.pid(part) not in (None, before)
    assert chaos_plane.get("-n", namespace, "configmap", "kept")["metadata"]["name"] == "kept"
    chaos_plane.core.create_namespaced_config_map(namespace, config_map("new"))


def test_controllers_that_start_while_the_api_server_is_away_work_when_it_is_back(
    chaos_plane: PlaneUnderTest, namespace: str
) -> None:
    """They end after ten seconds without it, and are started again."""
    part = "kube-controller-manager"
    chaos_plane.kill("kube-apiserver")
    chaos_plane.kill(part)
    chaos_plane.plane.start(part)
    log = chaos_plane.plane.processes.log_tail
    until("its end", lambda: "is started again" in log(part, 50), timeout=120)
    chaos_plane.start("kube-apiserver")
    core = chaos_plane.core
    owner = core.create_namespaced_config_map(namespace, config_map("owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    core.create_namespaced_config_map(namespace, config_map("owned", ownerReferences=[reference]))
    core.delete_namespaced_config_map("owner", namespace)

    def names() -> set[str]:
        return {found.metadata.name for found in core.list_namespaced_config_map(namespace).items}

    until("garbage collection", lambda: "owned" not in names(), timeout=120)


def processes_of(root: Path) -> list[str]:
    """The command lines of living processes that name the folder."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(root) in line:
            lines.append(line)
    return lines


@pytest.fixture
def roots() -> Iterator[list[Path]]:
    folders = [paths.clusters_root() / f"test-parallel-{time.monotonic_ns()}-{n}" for n in range(2)]
    yield folders
    for folder in folders:
        standalone.down(folder)


@pytest.mark.needs_linux
def test_several_run_side_by_side_and_leave_nothing(control_plane: PlaneUnderTest, roots: list[Path]) -> None:
    with ThreadPoolExecutor() as pool:
        one, two = pool.map(standalone.up, roots)
    ports = {p.network.api_port for p in (one, two, control_plane.plane)}
    assert len(ports) == 3
    access = Access(one.kubeconfig, one.binaries["kubectl"])
    access.kubectl("create", "namespace", "only-here")
    other = Access(two.kubeconfig, two.binaries["kubectl"])
    with pytest.raises(KubectlError, match="not found"):
        other.kubectl("get", "namespace", "only-here")

    assert processes_of(roots[0])
    for root in roots:
        standalone.down(root)
        assert processes_of(root) == []
        assert not root.exists()


def test_up_twice_keeps_what_runs_and_starts_what_does_not(
    control_plane: PlaneUnderTest, roots: list[Path]
) -> None:
    first = standalone.up(roots[0])
    pids = {n: first.processes.pid(n) for n in first.names}
    first.processes.stop("kube-apiserver", how=signal.SIGKILL, timeout=10)
    second = standalone.up(roots[0])
    assert second.network == first.network
    assert second.processes.pid("etcd") == pids["etcd"]
    assert second.processes.pid("kube-apiserver") not in (None, pids["kube-apiserver"])


def test_a_port_that_was_taken_meanwhile_is_given_up_for_another(
    control_plane: PlaneUnderTest, roots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = network.loopback_network()
    taken = replace(free, api_port=control_plane.plane.network.api_port)
    networks = iter([taken, free])
    monkeypatch.setattr(standalone, "loopback_network", lambda: next(networks))
    assert standalone.up(roots[0]).network == free


def test_what_a_killed_test_run_left_is_swept(control_plane: PlaneUnderTest, roots: list[Path]) -> None:
    dead_pid = 2**22 + 1  # above Linux's largest pid (proc(5), pid_max)
    plane = standalone.up(roots[0], owner=os.getpid())
    # Not before it is up: another test run may sweep at any moment.
    state.save(roots[0], state.State(plane.network, plane.names, dead_pid))
    standalone.sweep()
    assert processes_of(roots[0]) == []
    assert not roots[0].exists()
    assert control_plane.core.list_namespace().items, "this run's own control plane is left alone"


def test_kubectl_is_the_version_that_is_pinned(control_plane: PlaneUnderTest) -> None:
    versions = json.loads(control_plane.kubectl("version", "-o", "json"))
    go_mod = (paths.source_root() / "go/kubernetes/go.mod").read_text()
    match = re.search(r"k8s\.io/kubernetes (v\S+)", go_mod)
    assert match
    assert versions["serverVersion"]["gitVersion"] == match.group(1)
    assert versions["clientVersion"]["gitVersion"] == match.group(1)
