"""Settings that moved or went after the commit 93820cf, and what to write instead.

An error about such a setting says it, and so does the chart: charts/schema.py writes files/moved.yaml from
this table. docs/operations/index.md shows all of it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Moved:
    """A setting that has another name or place now; `instead` is what to write there, in Markdown."""

    instead: str


@dataclass(frozen=True)
class Removed:
    """A setting that is gone without a successor; `now` is the constant or the reason, in Markdown."""

    now: str


_SHARE = Moved("`reporter.forge_share`, the share of all limits of a forge that the reporter uses")

MOVED: dict[str, Moved | Removed] = {
    "consumer.cancel_check_interval": Removed("30 s (tests: `development.cancel_check_interval`)"),
    "consumer.commit_email": Moved("`consumer.commits.email`"),
    "consumer.commit_name": Moved("`consumer.commits.name`"),
    "consumer.http_host": Removed(
        "all addresses of the container, and loopback alone with `consumer.workspace.gate`"
    ),
    "consumer.http_port": Removed("port 8081; if another process has it, metrics are not served"),
    "consumer.max_malformed_answers": Removed("an attempt ends after 5 unusable answers in a row"),
    "consumer.max_tool_errors": Removed("3 errors of one tool in a row end an attempt"),
    "consumer.retry_delay": Removed("30 s (tests: `development.retry_delay`)"),
    "consumer.retry_delay_max": Removed("600 s (tests: `development.retry_delay_max`)"),
    "consumer.workspace.base_dir": Moved("the variable `TMPDIR`"),
    "consumer.workspace.door": Moved("`consumer.workspace.gate`"),
    "consumer.workspace.output_limit": Removed(
        "20,000 characters; a command that writes more into a file loses nothing"
    ),
    "consumer.workspace.start_timeout": Removed("120 s"),
    "context_storage.s3.identity.token_file": Removed(
        "mount the token at `/var/run/secrets/coding-agent.dev/bucket/token`"
    ),
    "context_storage.s3.max_retries": Removed("2 retries"),
    "context_storage.s3.timeout": Removed("30 s for each part of 5 MB"),
    "context_storage.upload_interval": Removed("15 s"),
    "gateway.identity.token_file": Removed("mount the token at `/var/run/secrets/coding-agent.dev/token`"),
    "gitlab.owner": Moved("`gitlab.assignee`"),
    "limits.global_": Moved("`limits.global`"),
    "limits.perRepository": Moved("`limits.per_repository`"),
    "llm.function_calling": Removed("the agent always uses native tool calls"),
    "operator.http_host": Removed(
        "all addresses of the pod; who may connect is for `networkPolicy.metrics.from`"
    ),
    "operator.http_port": Removed("port 8080, because each pod has ports of its own"),
    "operator.job.affinity": Moved("`operator.job.pod_template.spec.affinity`"),
    "operator.job.agent": Moved("the container `agent` in `operator.job.pod_template.spec.containers`"),
    "operator.job.agent.env": Moved("`env` of this container, as in a pod"),
    "operator.job.agent.env_from_secrets": Moved("`envFrom` of this container: `[{secretRef: {name: …}}]`"),
    "operator.job.agent.limits": Moved("`resources.limits` of this container"),
    "operator.job.agent.requests": Moved("`resources.requests` of this container"),
    "operator.job.agent.size_limit": Moved(
        "the volume `work` in `operator.job.pod_template.spec.volumes`: "
        "`{name: work, emptyDir: {sizeLimit: …}}`"
    ),
    "operator.job.agent.user": Moved("`securityContext.runAsUser` of this container"),
    "operator.job.agent.volume_mounts": Moved("`volumeMounts` of this container"),
    "operator.job.annotations": Moved("`operator.job.pod_template.metadata.annotations`"),
    "operator.job.command": Removed("the image's own program; build an image from ours to add to it"),
    "operator.job.config_key": Removed("the key is `config.yaml`"),
    "operator.job.fs_group": Moved("`operator.job.pod_template.spec.securityContext.fsGroup`"),
    "operator.job.labels": Moved("`operator.job.pod_template.metadata.labels`"),
    "operator.job.node_selector": Moved("`operator.job.pod_template.spec.nodeSelector`"),
    "operator.job.priority_class": Moved("`operator.job.pod_template.spec.priorityClassName`"),
    "operator.job.runtime_class": Moved("`operator.job.pod_template.spec.runtimeClassName`"),
    "operator.job.tolerations": Moved("`operator.job.pod_template.spec.tolerations`"),
    "operator.job.verify_credentials": Moved("entries of `operator.job.credentials` with `evidence: true`"),
    "operator.job.volumes": Moved("`operator.job.pod_template.spec.volumes`"),
    "operator.job.workspace.env": Moved(
        "`env` of the container `workspace` in `operator.job.pod_template.spec.containers`"
    ),
    "operator.job.workspace.limits": Moved("`resources.limits` of the container `workspace` there"),
    "operator.job.workspace.requests": Moved("`resources.requests` of the container `workspace` there"),
    "operator.job.workspace.size_limit": Moved(
        "the volume `workspace` in `operator.job.pod_template.spec.volumes`: "
        "`{name: workspace, emptyDir: {sizeLimit: …}}`"
    ),
    "operator.job.workspace.user": Moved("`securityContext.runAsUser` of the container `workspace`"),
    "operator.job.workspace.volume_mounts": Moved("`volumeMounts` of the container `workspace`"),
    "operator.policy.aging": Removed(
        "a task's priority rises by one each minute; a higher `priority` of the AgentTask comes first"
    ),
    "operator.policy.backoff_base": Removed(
        "30 s (tests: `development.retry_delay`); `consumer.max_attempts` says how many attempts there are"
    ),
    "operator.policy.backoff_max": Removed("900 s (tests: `development.retry_delay_max`)"),
    "operator.policy.config_after": Removed("120 s"),
    "operator.policy.image_after": Removed("300 s; `consumer.max_attempts` says how many attempts there are"),
    "operator.policy.look_interval": Removed("15 s (tests: `development.pod_check_interval`)"),
    "operator.policy.pod_check_interval": Removed("15 s (tests: `development.pod_check_interval`)"),
    "operator.position_interval": Removed("10 s (tests: `development.position_interval`)"),
    "operator.relist_interval": Moved(
        "`operator.lease_duration`, which is also the time between two lists (30 s)"
    ),
    "operator.request_timeout": Removed("10 s, a third of the Lease's duration"),
    "operator.resync_interval": Moved(
        "`operator.lease_duration`, which is also the time between two lists (30 s)"
    ),
    "operator.sweep_interval": Removed("300 s (tests: `development.sweep_interval`)"),
    "operator.workers": Removed("the operator reconciles 8 tasks at the same time"),
    "queue.kubernetes": Moved("`operator.namespace`, for all programs"),
    "rabbitmq.publish_timeout": Removed("5 s"),
    "reporter.burst": _SHARE,
    "reporter.check_interval": Removed("300 s (tests: `development.check_interval`)"),
    "reporter.creates_per_hour": _SHARE,
    "reporter.creates_per_minute": _SHARE,
    "reporter.grace": Removed("60 s (tests: `development.grace`)"),
    "reporter.http_host": Removed(
        "all addresses of the pod; who may connect is for `networkPolicy.metrics.from`"
    ),
    "reporter.http_port": Removed("port 8080, because each pod has ports of its own"),
    "reporter.keep_remaining": _SHARE,
    "reporter.outage_shown_after": Removed("30 s (tests: `development.outage_shown_after`)"),
    "reporter.position_interval": Removed("60 s (tests: `development.comment_interval`)"),
    "reporter.relist_interval": Moved(
        "`operator.lease_duration`, which is also the time between two lists (30 s)"
    ),
    "reporter.request_timeout": Removed("10 s, a third of the Lease's duration"),
    "reporter.requests_per_hour": _SHARE,
    "reporter.requests_per_second": _SHARE,
    "reporter.resync_interval": Moved(
        "`operator.lease_duration`, which is also the time between two lists (30 s)"
    ),
    "reporter.retry_first": Removed("2 s (tests: `development.forge_retry`)"),
    "reporter.retry_max": Removed("120 s (tests: `development.forge_retry_max`)"),
    "reporter.tell_after": Removed("30 s (tests: `development.outage_shown_after`)"),
    "reporter.workers": Removed("4 items of a forge are updated at the same time"),
    "reporter.writes_per_minute": _SHARE,
    "scheduling.http_host": Removed("all addresses of the container"),
    "scheduling.http_port": Removed("port 8082; if another process has it, metrics are not served"),
    "user_config_api.timeout": Removed("5 s for one answer, 20 s for all tries"),
}
"""What became of each setting, by its dotted key."""
