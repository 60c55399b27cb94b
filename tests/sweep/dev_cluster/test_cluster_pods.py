"""The node runs real containers: what the project's programs rely on, one test each."""

import json
import time
from typing import Any

import pytest
from coding_agent_cluster.access import KubectlError
from coding_agent_cluster.wait import until

from tests.e2e.pods import container, job, pod, python
from tests.fixtures.cluster import ClusterUnderTest

# The first one starts the cluster, on a machine that does other things too.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]


def pod_status(cluster: ClusterUnderTest, namespace: str, name: str) -> Any:
    return cluster.get("-n", namespace, "pod", name)["status"]


def test_a_job_runs_a_locally_built_image_and_its_log_can_be_read(
    cluster: ClusterUnderTest, namespace: str, test_image: str
) -> None:
    cluster.kubectl(
        "-n", namespace, "apply", "-f", "-", stdin=json.dumps(job("hello", container(test_image)))
    )
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Complete", "job/hello", "--timeout=110s")
    log = cluster.kubectl("-n", namespace, "logs", "job/hello")
    assert log.startswith("hello from hello-")
    assert "uid 10001" in log


def test_a_command_can_be_run_in_a_container(
    cluster: ClusterUnderTest, namespace: str, test_image: str
) -> None:
    sleeper = pod("sleeper", python(test_image, "import time; time.sleep(600)"))
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(sleeper))
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/sleeper", "--timeout=110s")
    execute = ["-n", namespace, "exec", "-i", "sleeper", "--"]
    assert cluster.kubectl(*execute, "python3", "-", stdin="print(6 * 7)").strip() == "42"
    with pytest.raises(KubectlError, match="exit code 3"):
        cluster.kubectl(*execute, "python3", "-c", "raise SystemExit(3)")


def test_a_privileged_pod_is_refused_by_pod_security(
    cluster: ClusterUnderTest, namespace: str, test_image: str
) -> None:
    privileged = pod("bad", container(test_image, securityContext={"privileged": True}))
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted:latest": privileged'):
        cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(privileged))


def test_a_container_over_its_memory_is_reported_oom_killed(
    cluster: ClusterUnderTest, namespace: str, test_image: str
) -> None:
    glutton = job("glutton", python(test_image, "data = b'x' * (300 << 20); print(len(data))"))
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(glutton))
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Failed", "job/glutton", "--timeout=110s")
    pods = cluster.get("-n", namespace, "pods", "-l", "job-name=glutton")["items"]
    ended = pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_a_pod_over_its_disk_is_evicted(cluster: ClusterUnderTest, namespace: str, test_image: str) -> None:
    program = "import time; open('/scratch/f', 'wb').write(b'x' * (20 << 20)); time.sleep(600)"
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    volumes = [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]
    hoarder = pod("hoarder", python(test_image, program, volumeMounts=mounts), volumes=volumes)
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(hoarder))
    until(
        "eviction",
        lambda: pod_status(cluster, namespace, "hoarder")["phase"] == "Failed",
        timeout=180,
        interval=0.5,
    )
    status = pod_status(cluster, namespace, "hoarder")
    assert status["reason"] == "Evicted"
    assert "exceeds the limit" in str(status["message"])


def test_the_processor_limit_holds(cluster: ClusterUnderTest, namespace: str, test_image: str) -> None:
    program = (
        "import time\nw, c = time.time(), time.process_time()\n"
        "while time.time() - w < 3: pass\nprint((time.process_time() - c) / 3)"
    )
    limits = {"requests": {"cpu": "10m"}, "limits": {"cpu": "200m", "memory": "64Mi"}}
    busy = pod("busy", python(test_image, program, resources=limits))
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(busy))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    cluster.kubectl("-n", namespace, "wait", done, "pod/busy", "--timeout=110s")
    share = float(cluster.kubectl("-n", namespace, "logs", "busy"))
    assert share < 0.4, "twice the limit of 0.2, for what a busy machine blurs"


def test_a_termination_message_arrives_in_the_status(
    cluster: ClusterUnderTest, namespace: str, test_image: str
) -> None:
    program = "open('/dev/termination-log', 'w').write('{\"ok\": true}'); raise SystemExit(65)"
    teller = pod("teller", python(test_image, program))
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(teller))
    done = "--for=jsonpath={.status.phase}=Failed"
    cluster.kubectl("-n", namespace, "wait", done, "pod/teller", "--timeout=110s")
    statuses = pod_status(cluster, namespace, "teller")["containerStatuses"]
    ended = statuses[0]["state"]["terminated"]
    assert (ended["message"], ended["exitCode"]) == ('{"ok": true}', 65)


def test_a_deleted_pod_is_told_and_gone_in_its_grace_period(
    cluster: ClusterUnderTest, namespace: str, test_image: str
) -> None:
    program = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    )
    polite = pod("polite", python(test_image, program), terminationGracePeriodSeconds=150)
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(polite))
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/polite", "--timeout=110s")
    until("start", lambda: "ready" in cluster.kubectl("-n", namespace, "logs", "polite"), timeout=60)
    begin = time.monotonic()
    cluster.kubectl("-n", namespace, "delete", "pod", "polite", "--wait=true", "--timeout=110s")
    assert time.monotonic() - begin < 120, "ended by SIGTERM, not by SIGKILL after the grace period"
