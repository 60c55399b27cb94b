{{/* Checks that the schema cannot express. Every message names the key. */}}
{{- define "coding-agent.validate" -}}
{{- $forges := include "coding-agent.forges" . | fromJsonArray -}}
{{- $secretForges := include "coding-agent.secretForges" . | fromJsonArray -}}
{{- $facts := include "coding-agent.forgeFacts" . | fromJson -}}
{{- $tokens := dict -}}
{{- range $forge, $_ := $facts -}}{{- $_ := set $tokens $forge "token" -}}{{- end -}}
{{- $problems := list -}}
{{- range $old, $new := .Files.Get "files/moved.yaml" | fromYaml -}}
  {{- if include "coding-agent.hasPath" (list $.Values $old) -}}
    {{- $given := $.Values -}}
    {{- range splitList "." $old -}}{{- $given = get $given . -}}{{- end -}}
    {{- /* `--reuse-values` gives the defaults of the installed chart. */}}
    {{- if not (and (kindIs "map" $new) (or (kindIs "invalid" $given) (eq (toJson $given) (toJson $new.default)))) -}}
      {{- $instead := $new -}}
      {{- if kindIs "map" $new -}}{{- $instead = $new.instead -}}{{- end -}}
      {{- $said := hasPrefix "nothing: " $instead | ternary "was removed: " "moved; write instead: " -}}
      {{- $problems = append $problems (printf "%s: this setting %s%s" $old $said (trimPrefix "nothing: " $instead)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $kind, $field := merge (dict "model" "apiKey") $tokens -}}
  {{- $secret := index $.Values.secrets $kind -}}
  {{- $name := include "coding-agent.secretName" (list $ $kind) -}}
  {{- $expected := or (has $kind $secretForges) (and (eq $kind "model") (include "coding-agent.modelEnabled" $)) (and (ne $kind "model") (not (include "coding-agent.tokensGiven" $ | fromJsonArray))) -}}
  {{- if and $expected (not (or $secret.existingSecret (index $secret $field))) (include "coding-agent.ownSecret" (list $ $name)) -}}
    {{- $problems = append $problems (printf "secrets.%s.%s: the release has the Secret %s, and without this value it would be deleted; pass your values again, or add --reset-then-reuse-values" $kind $field $name) -}}
  {{- end -}}
{{- end -}}
{{- range $kind, $field := merge (dict "model" "apiKey" "userConfig" "apiKey" "egress" "key" "githubApp" "privateKey" "tokens" "key") $tokens -}}
  {{- $secret := index $.Values.secrets $kind -}}
  {{- if and $secret.existingSecret (index $secret $field) -}}
    {{- $problems = append $problems (printf "secrets.%s: give either existingSecret or %s, not both" $kind $field) -}}
  {{- end -}}
{{- end -}}
{{- with .Values.secrets.webhook -}}
  {{- if and .existingSecret (omit . "existingSecret" "rotating" | values | compact) -}}
    {{- $problems = append $problems "secrets.webhook: give either existingSecret or the secrets themselves, not both" -}}
  {{- end -}}
  {{- if and $.Values.receiver.enabled .rotating (not .existingSecret) -}}
    {{- range $forge := $forges -}}
      {{- if not (index $.Values.secrets.webhook (printf "%sPrevious" $forge)) -}}
        {{- $problems = append $problems (printf "secrets.webhook.%sPrevious: required with secrets.webhook.rotating; set the old secret, or set rotating to false" $forge) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- with .Values.secrets.comments -}}
  {{- if and .existingSecret (or .key .keyPrevious) -}}
    {{- $problems = append $problems "secrets.comments: give either existingSecret or the keys themselves, not both" -}}
  {{- end -}}
  {{- if and .rotating (not .keyPrevious) (not .existingSecret) -}}
    {{- $problems = append $problems "secrets.comments.keyPrevious: required with secrets.comments.rotating; set the old key, or set rotating to false" -}}
  {{- end -}}
{{- end -}}
{{- with .Values.secrets.s3 -}}
  {{- if and .existingSecret (or .accessKeyId .secretAccessKey) -}}
    {{- $problems = append $problems "secrets.s3: give either existingSecret or the keys themselves, not both" -}}
  {{- else if ne (not .accessKeyId) (not .secretAccessKey) -}}
    {{- $problems = append $problems "secrets.s3: set both accessKeyId and secretAccessKey" -}}
  {{- end -}}
{{- end -}}
{{- if and (include "coding-agent.s3Enabled" .) (not (dig "context_storage" "s3" "bucket" "" .Values.config)) -}}
  {{- $problems = append $problems "config.context_storage.s3.bucket: required because secrets.s3 is set; set the bucket, or remove secrets.s3" -}}
{{- end -}}
{{- if not (include "coding-agent.userConfigKey" .) -}}
  {{- $llm := .Values.config.llm | default dict -}}
  {{- $spoken := list (include "coding-agent.modelProvider" .) -}}
  {{- $models := .Files.Get "files/models.json" | fromJson -}}
  {{- range $vendor := $models.vendors -}}
    {{- if (get $llm $vendor | default dict).api_key -}}{{- $spoken = append $spoken $vendor -}}{{- end -}}
  {{- end -}}
  {{- range dig "gateway" "fallbacks" list .Values.config -}}{{- $spoken = append $spoken .format -}}{{- end -}}
  {{- $consumer := .Values.config.consumer | default dict -}}
  {{- $runners := dict "consumer.runner" (list ($consumer.runner | default "")) "consumer.runners" (values ($consumer.runners | default dict)) "repository_environment.runners" (dig "repository_environment" "runners" list .Values.config) -}}
  {{- range $setting, $names := $runners -}}
    {{- range $name := $names -}}
      {{- $vendor := get $models.runners $name -}}
      {{- if and $vendor (not (has $vendor $spoken)) -}}
        {{- $problems = append $problems (printf "config.%s: %s speaks only the format of %s; set config.llm.provider to %s, with its key in secrets.model, or another runner" $setting $name $vendor $vendor) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $fullname := include "coding-agent.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) -}}
  {{- $key := ternary "fullnameOverride" (ternary "nameOverride" "fullnameOverride" (ne .Values.nameOverride "")) (ne .Values.fullnameOverride "") -}}
  {{- $problems = append $problems (printf "%s: %q is not a valid object name; use lower-case letters, digits and hyphens, and start with a letter" $key $fullname) -}}
{{- end -}}
{{- $labels := dict "commonLabels" .Values.commonLabels "receiver.service.labels" .Values.receiver.service.labels "httpRoute.labels" .Values.httpRoute.labels -}}
{{- range $section := list "pods" "receiver" "operator" "reporter" "polling" "userConfig" "egress" "tokens" -}}
  {{- $_ := set $labels (printf "%s.podLabels" $section) ((index $.Values $section).podLabels | default dict) -}}
{{- end -}}
{{- range $kind, $metrics := .Values.metrics -}}
  {{- $_ := set $labels (printf "metrics.%s.labels" $kind) (kindIs "map" $metrics.labels | ternary $metrics.labels dict) -}}
{{- end -}}
{{- range $path, $given := $labels -}}
  {{- range $reserved := include "coding-agent.reservedLabels" $ | fromJsonArray -}}
    {{- if hasKey $given $reserved -}}
      {{- $problems = append $problems (printf "%s: the chart sets the label %s itself, to find objects by it; remove it from your values" $path $reserved) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- $accounts := dict "attempts" .Values.attempts.serviceAccount -}}
{{- range $component := include "coding-agent.components" . | fromJsonArray -}}
  {{- $_ := set $accounts (include "coding-agent.section" $component) (include "coding-agent.podValues" (list $ $component) | fromJson).serviceAccount -}}
{{- end -}}
{{- range $section, $account := $accounts -}}
  {{- if not (or $account.create $account.name) -}}
    {{- $problems = append $problems (printf "%s.serviceAccount.name: required with serviceAccount.create=false; set the name of an account that exists" $section) -}}
  {{- end -}}
{{- end -}}
{{- if or .Values.proxy.http .Values.proxy.https -}}
  {{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.proxy.cidrs) -}}
    {{- $problems = append $problems "networkPolicy.proxy.cidrs: required with proxy.http or proxy.https; set the network of your proxy, or nothing could reach it" -}}
  {{- end -}}
  {{- if and (include "coding-agent.egressHere" .) (not .Values.egress.parent.host) -}}
    {{- $problems = append $problems "egress.parent.host: required with proxy.http or proxy.https and egress.enabled; attempts use the egress proxy, so set your proxy there too" -}}
  {{- end -}}
{{- else if .Values.proxy.noProxy -}}
  {{- $problems = append $problems "proxy.noProxy: it has no effect without proxy.http and proxy.https; set one of them, or remove it" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled -}}
  {{- $problems = append $problems "metrics.podMonitor.enabled: with a ServiceMonitor too, each program would be scraped twice; enable one of the two" -}}
{{- end -}}
{{- if and .Values.receiver.service.nodePort (eq .Values.receiver.service.type "ClusterIP") -}}
  {{- $problems = append $problems "receiver.service.nodePort: a Service of the type ClusterIP has no such port; set receiver.service.type to NodePort or LoadBalancer" -}}
{{- end -}}
{{- $template := dig "operator" "job" "pod_template" "spec" "runtimeClassName" "" .Values.config -}}
{{- if and $template (dig "operator" "job" "runtime_classes" dict .Values.config | values | compact) -}}
  {{- $problems = append $problems "config.operator.job.runtime_classes: config.operator.job.pod_template.spec.runtimeClassName already sets one class for all tasks; remove one of the two" -}}
{{- end -}}
{{- if and (dig "context_storage" "s3" "identity" dict .Values.config) (include "coding-agent.s3Enabled" .) -}}
  {{- $problems = append $problems "secrets.s3: config.context_storage.s3.identity gives access to the bucket without keys; remove one of the two" -}}
{{- end -}}
{{- if include "coding-agent.app" . -}}
  {{- if or .Values.secrets.github.token .Values.secrets.github.existingSecret -}}
    {{- $problems = append $problems "secrets.github: config.github.app gives the tokens, and a personal token belongs to another account; remove one of the two" -}}
  {{- end -}}
  {{- if has "*" .Values.operator.namespaces -}}
    {{- $problems = append $problems "operator.namespaces: with config.github.app, list the namespaces; with *, an account of any namespace could ask for tokens" -}}
  {{- end -}}
  {{- if and .Values.operator.enabled .Values.tokens.url -}}
    {{- $problems = append $problems "tokens.url: this release runs the token service itself, because it runs the operator; remove the value" -}}
  {{- end -}}
  {{- if not (or .Values.operator.enabled .Values.tokens.url) -}}
    {{- $problems = append $problems "tokens.url: required with config.github.app and operator.enabled=false; set the URL of the token service of the operator's release, such as http://coding-agent-tokens.NAMESPACE:8080" -}}
  {{- end -}}
{{- end -}}
{{- with .Values.operator -}}
  {{- if and .namespaces (not .enabled) -}}
    {{- $problems = append $problems "operator.namespaces: this list has no effect with operator.enabled=false; leave it empty, or set it in the release that runs the operator" -}}
  {{- end -}}
  {{- if and (has "*" .namespaces) (gt (len .namespaces) 1) -}}
    {{- $problems = append $problems "operator.namespaces: * means all namespaces; use it alone, or list names only" -}}
  {{- end -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}
  {{- if not .Values.ingress.host -}}
    {{- $problems = append $problems "ingress.host: required; set the host name of the webhook URL" -}}
  {{- end -}}
  {{- with .Values.ingress.tls -}}
    {{- if and .certManager.clusterIssuer .certManager.issuer -}}
      {{- $problems = append $problems "ingress.tls.certManager: give either clusterIssuer or issuer, not both" -}}
    {{- end -}}
    {{- if and .enabled (not (or .secretName .certManager.clusterIssuer .certManager.issuer)) -}}
      {{- $problems = append $problems "ingress.tls.secretName: set the name of a TLS Secret, or set ingress.tls.certManager.clusterIssuer or .issuer (or ingress.tls.enabled=false)" -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if .Values.httpRoute.enabled -}}
  {{- if not .Values.httpRoute.parentRefs -}}
    {{- $problems = append $problems "httpRoute.parentRefs: required; set the Gateway to attach to" -}}
  {{- end -}}
  {{- if not .Values.httpRoute.hostnames -}}
    {{- $problems = append $problems "httpRoute.hostnames: required; set the host names of the webhook URL" -}}
  {{- end -}}
{{- end -}}
{{- range $way := list "ingress" "httpRoute" -}}
  {{- if and (index $.Values $way).enabled (not $.Values.receiver.enabled) -}}
    {{- $problems = append $problems (printf "%s.enabled: it needs the receiver, but receiver.enabled is false; change one of the two" $way) -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.receiver.autoscaling.enabled (lt (int .Values.receiver.autoscaling.maxReplicas) (int .Values.receiver.autoscaling.minReplicas)) -}}
  {{- $problems = append $problems "receiver.autoscaling.maxReplicas: must not be less than minReplicas" -}}
{{- end -}}
{{- if .Values.polling.enabled -}}
  {{- range $forge := $forges -}}
    {{- $known := index $facts $forge -}}
    {{- $own := get $.Values.config $forge | default dict -}}
    {{- $public := or (not $own.api_url) (contains (printf "//%s" $known.api) ($own.api_url | default "")) -}}
    {{- $narrowed := false -}}
    {{- range $setting := $known.narrowed_by -}}{{- if get $own $setting -}}{{- $narrowed = true -}}{{- end -}}{{- end -}}
    {{- if and $public (not $narrowed) -}}
      {{- $problems = append $problems (printf "config.%s.%s: polling %s without a scope finds the items of strangers; in config, %s" $forge (first $known.narrowed_by) $known.host $known.scope) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- /* `lookup` finds nothing where no API server is asked: `helm template`, and so Argo CD. */ -}}
{{- $others := list -}}
{{- $found := concat ((lookup "apps/v1" "Deployment" .Release.Namespace "").items | default list) ((lookup "batch/v1" "CronJob" .Release.Namespace "").items | default list) -}}
{{- range $workload := $found -}}
  {{- $labels := $workload.metadata.labels | default dict -}}
  {{- $instance := get $labels "app.kubernetes.io/instance" -}}
  {{- if and (hasPrefix (printf "%s-" $.Chart.Name) (get $labels "helm.sh/chart")) (has (get $labels "app.kubernetes.io/component") (list "operator" "receiver" "reporter" "poller")) (ne $instance $.Release.Name) (not (has $instance $others)) -}}
    {{- $others = append $others $instance -}}
    {{- $problems = append $problems (printf "namespace %s: the release %s already serves its AgentTasks; install this release into another namespace" $.Release.Namespace $instance) -}}
  {{- end -}}
{{- end -}}
{{- $alerts := list -}}
{{- range (.Files.Get "files/alerts.yaml" | fromYaml).alerts -}}
  {{- $alerts = append $alerts .alert -}}
{{- end -}}
{{- range .Values.metrics.prometheusRule.disabled -}}
  {{- if not (has . $alerts) -}}
    {{- $problems = append $problems (printf "metrics.prometheusRule.disabled: no alert has the name %s; the alerts are %s" . (join ", " $alerts)) -}}
  {{- end -}}
{{- end -}}
{{- if .Values.crds.install -}}
  {{- $crd := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "agenttasks.coding-agent.dev" -}}
  {{- if $crd -}}
    {{- $notes := $crd.metadata.annotations | default dict -}}
    {{- $name := get $notes "meta.helm.sh/release-name" -}}
    {{- $namespace := get $notes "meta.helm.sh/release-namespace" -}}
    {{- if or (ne $name .Release.Name) (ne $namespace .Release.Namespace) -}}
      {{- $owner := ternary (printf "release %s in namespace %s" $name $namespace) "no release" (ne $name "") -}}
      {{- $problems = append $problems (printf "crds.install: the CustomResourceDefinition agenttasks.coding-agent.dev already exists and belongs to %s; set crds.install=false, or, if that release is gone, take it over: kubectl annotate crd agenttasks.coding-agent.dev --overwrite meta.helm.sh/release-name=%s meta.helm.sh/release-namespace=%s && kubectl label crd agenttasks.coding-agent.dev --overwrite app.kubernetes.io/managed-by=Helm" $owner .Release.Name .Release.Namespace) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if $problems -}}
  {{- fail (printf "\n\nThe values cannot be used:\n  - %s\n" (join "\n  - " $problems)) -}}
{{- end -}}
{{- end -}}
