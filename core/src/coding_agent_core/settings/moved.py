"""Settings that moved or went after the commit 93820cf, and what to write instead.

An error about such a setting says it, and so does the chart: charts/schema.py writes files/moved.yaml from
this table. docs/operations/index.md shows all of it.
"""

_SHARE = "`reporter.forge_share`, the share of all limits of a forge that the reporter uses"

MOVED: dict[str, str] = {
    "consumer.cancel_check_interval": "nothing: 30 s (tests: `development.cancel_check_interval`)",
    "consumer.commit_email": "`consumer.commits.email`",
    "consumer.commit_name": "`consumer.commits.name`",
    "consumer.http_host": (
        "nothing: all addresses of the container, and loopback alone with `consumer.workspace.gate`"
    ),
    "consumer.http_port": "nothing: port 8081; if another process has it, metrics are not served",
    "consumer.max_malformed_answers": "nothing: an attempt ends after 5 unusable answers in a row",
    "consumer.max_tool_errors": "nothing: 3 errors of one tool in a row end an attempt",
    "consumer.retry_delay": "nothing: 30 s (tests: `development.retry_delay`)",
    "consumer.retry_delay_max": "nothing: 600 s (tests: `development.retry_delay_max`)",
    "consumer.workspace.base_dir": "the variable `TMPDIR`",
    "consumer.workspace.door": "`consumer.workspace.gate`",
    "consumer.workspace.output_limit": (
        "nothing: 20,000 characters; a command that writes more into a file loses nothing"
    ),
    "consumer.workspace.start_timeout": "nothing: 120 s",
    "context_storage.s3.identity.token_file": (
        "nothing: mount the token at `/var/run/secrets/coding-agent.dev/bucket/token`"
    ),
    "context_storage.s3.max_retries": "nothing: 2 retries",
    "context_storage.s3.timeout": "nothing: 30 s for each part of 5 MB",
    "context_storage.upload_interval": "nothing: 15 s",
    "gateway.identity.token_file": "nothing: mount the token at `/var/run/secrets/coding-agent.dev/token`",
    "gitlab.owner": "`gitlab.assignee`",
    "limits.global_": "`limits.global`",
    "limits.perRepository": "`limits.per_repository`",
    "llm.function_calling": "nothing: the agent always uses native tool calls",
    "operator.http_host": (
        "nothing: all addresses of the pod; who may connect is for `networkPolicy.metrics.from`"
    ),
    "operator.http_port": "nothing: port 8080, because each pod has ports of its own",
    "operator.job.affinity": "`operator.job.pod_template.spec.affinity`",
    "operator.job.agent": "the container `agent` in `operator.job.pod_template.spec.containers`",
    "operator.job.agent.env": "`env` of this container, as in a pod",
    "operator.job.agent.env_from_secrets": "`envFrom` of this container: `[{secretRef: {name: …}}]`",
    "operator.job.agent.limits": "`resources.limits` of this container",
    "operator.job.agent.requests": "`resources.requests` of this container",
    "operator.job.agent.size_limit": (
        "the volume `work` in `operator.job.pod_template.spec.volumes`: "
        "`{name: work, emptyDir: {sizeLimit: …}}`"
    ),
    "operator.job.agent.user": "`securityContext.runAsUser` of this container",
    "operator.job.agent.volume_mounts": "`volumeMounts` of this container",
    "operator.job.annotations": "`operator.job.pod_template.metadata.annotations`",
    "operator.job.command": "nothing: the image's own program; build an image from ours to add to it",
    "operator.job.config_key": "nothing: the key is `config.yaml`",
    "operator.job.fs_group": "`operator.job.pod_template.spec.securityContext.fsGroup`",
    "operator.job.labels": "`operator.job.pod_template.metadata.labels`",
    "operator.job.node_selector": "`operator.job.pod_template.spec.nodeSelector`",
    "operator.job.priority_class": "`operator.job.pod_template.spec.priorityClassName`",
    "operator.job.runtime_class": "`operator.job.pod_template.spec.runtimeClassName`",
    "operator.job.tolerations": "`operator.job.pod_template.spec.tolerations`",
    "operator.job.verify_credentials": "entries of `operator.job.credentials` with `evidence: true`",
    "operator.job.volumes": "`operator.job.pod_template.spec.volumes`",
    "operator.job.workspace.env": (
        "`env` of the container `workspace` in `operator.job.pod_template.spec.containers`"
    ),
    "operator.job.workspace.limits": "`resources.limits` of the container `workspace` there",
    "operator.job.workspace.requests": "`resources.requests` of the container `workspace` there",
    "operator.job.workspace.size_limit": (
        "the volume `workspace` in `operator.job.pod_template.spec.volumes`: "
        "`{name: workspace, emptyDir: {sizeLimit: …}}`"
    ),
    "operator.job.workspace.user": "`securityContext.runAsUser` of the container `workspace`",
    "operator.job.workspace.volume_mounts": "`volumeMounts` of the container `workspace`",
    "operator.policy.aging": (
        "nothing: a task's priority rises by one each minute; a higher "
        "`priority` of the AgentTask comes first"
    ),
    "operator.policy.backoff_base": (
        "nothing: 30 s (tests: `development.retry_delay`); "
        "`consumer.max_attempts` says how many attempts there are"
    ),
    "operator.policy.backoff_max": "nothing: 900 s (tests: `development.retry_delay_max`)",
    "operator.policy.config_after": "nothing: 120 s",
    "operator.policy.image_after": "nothing: 300 s; `consumer.max_attempts` says how many attempts there are",
    "operator.policy.look_interval": "nothing: 15 s (tests: `development.pod_check_interval`)",
    "operator.policy.pod_check_interval": "nothing: 15 s (tests: `development.pod_check_interval`)",
    "operator.position_interval": "nothing: 10 s (tests: `development.position_interval`)",
    "operator.relist_interval": "`operator.lease_duration`, which is also the time between two lists (30 s)",
    "operator.request_timeout": "nothing: 10 s, a third of the Lease's duration",
    "operator.resync_interval": "`operator.lease_duration`, which is also the time between two lists (30 s)",
    "operator.sweep_interval": "nothing: 300 s (tests: `development.sweep_interval`)",
    "operator.workers": "nothing: the operator reconciles 8 tasks at the same time",
    "queue.kubernetes": "`operator.namespace`, for all programs",
    "rabbitmq.publish_timeout": "nothing: 5 s",
    "reporter.burst": _SHARE,
    "reporter.check_interval": "nothing: 300 s (tests: `development.check_interval`)",
    "reporter.creates_per_hour": _SHARE,
    "reporter.creates_per_minute": _SHARE,
    "reporter.grace": "nothing: 60 s (tests: `development.grace`)",
    "reporter.http_host": (
        "nothing: all addresses of the pod; who may connect is for `networkPolicy.metrics.from`"
    ),
    "reporter.http_port": "nothing: port 8080, because each pod has ports of its own",
    "reporter.keep_remaining": _SHARE,
    "reporter.outage_shown_after": "nothing: 30 s (tests: `development.outage_shown_after`)",
    "reporter.position_interval": "nothing: 60 s (tests: `development.comment_interval`)",
    "reporter.relist_interval": "`operator.lease_duration`, which is also the time between two lists (30 s)",
    "reporter.request_timeout": "nothing: 10 s, a third of the Lease's duration",
    "reporter.requests_per_hour": _SHARE,
    "reporter.requests_per_second": _SHARE,
    "reporter.resync_interval": "`operator.lease_duration`, which is also the time between two lists (30 s)",
    "reporter.retry_first": "nothing: 2 s (tests: `development.forge_retry`)",
    "reporter.retry_max": "nothing: 120 s (tests: `development.forge_retry_max`)",
    "reporter.tell_after": "nothing: 30 s (tests: `development.outage_shown_after`)",
    "reporter.workers": "nothing: 4 items of a forge are updated at the same time",
    "reporter.writes_per_minute": _SHARE,
    "scheduling.http_host": "nothing: all addresses of the container",
    "scheduling.http_port": "nothing: port 8082; if another process has it, metrics are not served",
    "user_config_api.timeout": "nothing: 5 s for one answer, 20 s for all tries",
}
"""What to write instead, by the dotted key. "Nothing" is followed by the reason or by the constant."""
