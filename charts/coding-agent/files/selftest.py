"""`helm test`: a signed webhook becomes an AgentTask. The task never starts and is removed again.

It is of a repository that no forge can have, and whose limit of running tasks is 0 in the chart's settings.
Standard library only.
"""

import hashlib
import hmac
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECRETS = Path("/etc/coding-agent/webhook")
OWNER, REPOSITORY = "selftest.invalid", "helm-test"
DEADLINE_S = 60.0
PAUSE_S = 1.0
PASSING = {429, 500, 502, 503, 504}
NOT_ALLOWED = """the receiver answered 403: {said}
The receiver works, but config.webhook.allowed_networks does not include this pod. To run the test, add the
network of the cluster's pods to it while `helm test` runs. Or redeliver a webhook from the forge instead."""


def filled(node: Any, values: dict[str, str | int]) -> Any:
    """Return a sample's node with the values in place of their names in braces."""
    if isinstance(node, dict):
        return {key: filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value, values) for value in node]
    if isinstance(node, str):
        if node[1:-1] in values and node == f"{{{node[1:-1]}}}":
            return values[node[1:-1]]
        for name, value in values.items():
            node = node.replace(f"{{{name}}}", str(value))
    return node


def delivery(
    sample: dict[str, Any], secret: str, host: str, label: str, number: int
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a forge's webhook.

    Args:
        sample: `payload` and `headers`, as in the file `chart.yaml` of the forge.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values = {"host": host, "label": label, "number": number, "now": now, "owner": OWNER, "name": REPOSITORY}
    body = json.dumps(filled(sample["payload"], values)).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return body, filled(sample["headers"], {"uuid": str(uuid.uuid4()), "hmac": signature, "secret": secret})


def send(base: str, platform: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """Send the webhook, and return the receiver's answer."""
    url = f"{base}/webhook/{platform}"
    return answer_of(urllib.request.Request(url, body, headers | {"Content-Type": "application/json"}), None)  # noqa: S310


def api(method: str, name: str) -> dict[str, Any]:
    """Read or delete an AgentTask, and return the API server's answer."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    address = f"[{host}]" if ":" in host else host
    namespace = os.environ["POD_NAMESPACE"]
    url = f"https://{address}:{port}/apis/coding-agent.dev/v1alpha1/namespaces/{namespace}/agenttasks/{name}"
    token = (ACCOUNT / "token").read_text(encoding="utf-8")
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"Bearer {token}"})
    return answer_of(request, ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")))


def answer_of(request: urllib.request.Request, context: ssl.SSLContext | None) -> dict[str, Any]:
    """Return the JSON that a server of this cluster answers."""
    with urllib.request.urlopen(request, timeout=15, context=context) as answer:  # noqa: S310 - our own URLs
        found: dict[str, Any] = json.load(answer)
        return found


def main() -> int:
    """Test the webhook of each forge."""
    base, label_of = os.environ["RECEIVER_URL"], json.loads(os.environ["LABELS"])
    hosts, samples = json.loads(os.environ["HOSTS"]), json.loads(os.environ["SAMPLES"])
    for platform in sorted(label_of):
        number = int(time.time()) % 1_000_000_000 + 1
        secret = (SECRETS / platform).read_text(encoding="utf-8").strip()
        body, headers = delivery(samples[platform], secret, hosts[platform], label_of[platform], number)
        answer = patiently("the receiver", lambda: send(base, platform, body, headers))  # noqa: B023
        # A duplicate: an earlier try made the task, and its answer was lost. The task shows whose it is.
        if answer.get("status") not in ("success", "duplicate"):
            print(f"{platform}: the receiver did not create a task: {answer}", file=sys.stderr)
            return 1
        name = str(answer["task"])
        source = patiently("the API server", lambda: api("GET", name))["spec"]["source"]  # noqa: B023
        if source["repository"] != f"{OWNER}/{REPOSITORY}" or source["number"] != number:
            print(f"{platform}: {name} is not the task of this test: {source}", file=sys.stderr)
            return 1
        print(f"{platform}: a signed webhook became the AgentTask {name}")
        patiently("the API server", lambda: removed(name))  # noqa: B023 - called at once, as those above
        print(f"{platform}: the AgentTask {name} was removed again")
    return 0


def removed(name: str) -> dict[str, Any]:
    """Delete the AgentTask; it may be gone since an earlier try."""
    try:
        return api("DELETE", name)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return {}


def patiently(whom: str, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Ask until there is an answer, for a minute at most; a refusal is reported at once."""
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            return ask()
        except urllib.error.HTTPError as error:
            said = error.read()[:500].decode(errors="replace")
            if error.code == 403 and whom == "the receiver":
                raise SystemExit(NOT_ALLOWED.format(said=said)) from error
            if error.code not in PASSING or time.monotonic() > end:
                raise SystemExit(f"{whom} answered {error.code}: {said}") from error
        except OSError as error:
            if time.monotonic() > end:
                raise SystemExit(f"{whom} cannot be reached: {error}") from error
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    sys.exit(main())
