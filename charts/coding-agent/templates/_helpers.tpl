{{/*
Sets each key that is missing or null to its default. In an upgrade with `--reuse-values` Helm does not do this: it takes
the values of the installed release instead of the defaults of the new chart, so keys that are new in the chart are
missing. Every template starts with this.
*/}}
{{- define "coding-agent.defaults" -}}
{{- include "coding-agent.fill" (list .Values (.Files.Get "files/defaults.yaml" | fromYaml)) -}}
{{- range $forge, $_ := include "coding-agent.forgeFacts" . | fromJson -}}
  {{- $webhook := dict $forge "" (printf "%sPrevious" $forge) "" -}}
  {{- include "coding-agent.fill" (list $.Values.secrets (dict $forge (dict "existingSecret" "" "token" "") "webhook" $webhook)) -}}
{{- end -}}
{{- end -}}

{{/* In maps that a person gives as one value, null removes an entry. */}}
{{- define "coding-agent.fill" -}}
{{- $values := index . 0 -}}
{{- range $key, $default := index . 1 -}}
  {{- if or (not (hasKey $values $key)) (kindIs "invalid" (get $values $key)) -}}
    {{- $_ := set $values $key $default -}}
  {{- else if kindIs "map" $default -}}
    {{- if not (has $key (list "resources" "labels")) -}}
      {{- include "coding-agent.fill" (list (get $values $key) $default) -}}
    {{- end -}}
    {{- /* In a security context, null removes what the chart sets (`coding-agent.merged`). */}}
    {{- if and (or (has $key (list "resources" "labels" "config")) (not $default)) (not (hasSuffix "ecurityContext" $key)) -}}
      {{- include "coding-agent.dropNulls" (get $values $key) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/*
Removes null from a map and the maps in it, and maps that had nothing but null. In a pod template null has a meaning of
its own.
*/}}
{{- define "coding-agent.dropNulls" -}}
{{- $map := . -}}
{{- range $key, $value := $map -}}
  {{- if kindIs "invalid" $value -}}
    {{- $_ := unset $map $key -}}
  {{- else if and (kindIs "map" $value) $value (ne $key "pod_template") -}}
    {{- include "coding-agent.dropNulls" $value -}}
    {{- if not $value -}}
      {{- $_ := unset $map $key -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Merges the second map into the first, as Helm merges values files. Null stays, for `coding-agent.dropNulls`. */}}
{{- define "coding-agent.overlay" -}}
{{- $map := index . 0 -}}
{{- range $key, $value := index . 1 -}}
  {{- $known := get $map $key -}}
  {{- if and (kindIs "map" $value) (kindIs "map" $known) -}}
    {{- include "coding-agent.overlay" (list $known $value) -}}
  {{- else -}}
    {{- $_ := set $map $key $value -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* The first map with the second merged over it, as YAML; null in the second removes an entry. */}}
{{- define "coding-agent.merged" -}}
{{- $map := deepCopy (index . 0) -}}
{{- include "coding-agent.overlay" (list $map (index . 1)) -}}
{{- include "coding-agent.dropNulls" $map -}}
{{- toYaml $map -}}
{{- end -}}

{{/* "true" if a map has the dotted key. Call with (list map "a.b.c"). */}}
{{- define "coding-agent.hasPath" -}}
{{- $map := index . 0 -}}
{{- $parts := splitList "." (index . 1) -}}
{{- if and (kindIs "map" $map) (hasKey $map (first $parts)) -}}
  {{- if rest $parts -}}
    {{- include "coding-agent.hasPath" (list (get $map (first $parts)) (rest $parts | join ".")) -}}
  {{- else -}}
    true
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "coding-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 38 | trimSuffix "-" -}}
{{- end -}}

{{/* The name is short enough for `-poller-github` and for what a CronJob appends. */}}
{{- define "coding-agent.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "coding-agent.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 38 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Labels of an object. Call with (list $ "component"), followed by maps of more labels; later maps win. Values must not
contain the labels in `coding-agent.reservedLabels`.
*/}}
{{- define "coding-agent.labels" -}}
{{- $root := index . 0 -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63)
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "app.kubernetes.io/part-of" "coding-agent"
-}}
{{- range $more := prepend (slice . 2) $root.Values.commonLabels -}}
  {{- range $key, $value := $more -}}{{- $_ := set $labels $key $value -}}{{- end -}}
{{- end -}}
{{- toYaml $labels }}
{{ include "coding-agent.selectorLabels" . }}
{{- end -}}

{{/* Labels that select objects, or by which Helm and this chart recognize their own. */}}
{{- define "coding-agent.reservedLabels" -}}
{{- toJson (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/managed-by" "helm.sh/chart") -}}
{{- end -}}

{{/* The labels that select a component's pods. Never change them. Call with (list $ "component"). */}}
{{- define "coding-agent.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "coding-agent.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/*
An image's full name. Call with (list $ .Values.receiver.image).

A release writes files/release.json. It is no value, because an upgrade with `--reuse-values` would bring the digests of
the release before. It counts for the images that the release named, unless the values have another tag or digest.
*/}}
{{- define "coding-agent.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $release := $root.Files.Get "files/release.json" | fromJson -}}
{{- $released := get $release.digests $image.repository -}}
{{- $registry := $root.Values.global.imageRegistry | default $root.Values.image.registry -}}
{{- if $released }}{{ $registry = $registry | default $release.registry }}{{ end -}}
{{- $tag := $image.tag | default $root.Values.image.tag -}}
{{- $digest := $image.digest -}}
{{- if not (or $digest $tag) }}{{ $digest = $released }}{{ end -}}
{{- /* As in Docker's names: the first part is a host if it has a dot or a port. */}}
{{- if regexMatch "^(localhost|[^/]*[.:][^/]*)/" $image.repository }}{{ $registry = "" }}{{ end -}}
{{- if $registry }}{{ trimSuffix "/" $registry }}/{{ end -}}
{{- $image.repository -}}
{{- if $digest }}@{{ $digest }}{{ else }}:{{ $tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/*
What the chart knows of each forge. charts/schema.py makes the file from the folders of the forges; nothing else in the
chart names one.
*/}}
{{- define "coding-agent.forgeFacts" -}}
{{- .Files.Get "files/forges.json" | fromJson | toJson -}}
{{- end -}}

{{/* "true" if a GitHub App gives the tokens of GitHub. */}}
{{- define "coding-agent.app" -}}
{{- if dig "github" "app" "app_id" "" .Values.config }}true{{ end -}}
{{- end -}}

{{/* "true" if this release runs the token service: the one with the operator, which signs the attempts' credentials. */}}
{{- define "coding-agent.tokensHere" -}}
{{- if and (include "coding-agent.app" .) .Values.operator.enabled }}true{{ end -}}
{{- end -}}

{{/* The forges that the values have a token or an App for, as a list of names. */}}
{{- define "coding-agent.tokensGiven" -}}
{{- $given := list -}}
{{- range $forge := include "coding-agent.forgeFacts" . | fromJson | keys | sortAlpha -}}
  {{- with index $.Values.secrets $forge -}}
    {{- if or .token .existingSecret (and (eq $forge "github") (include "coding-agent.app" $)) }}{{ $given = append $given $forge }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- toJson $given -}}
{{- end -}}

{{/*
The forges in use, as a list of names: those with a token, else the one that `config.task_source` names. Its Secret
is then expected to be created later.
*/}}
{{- define "coding-agent.forges" -}}
{{- toJson (include "coding-agent.tokensGiven" . | fromJsonArray | default (list (.Values.config.task_source | default "github"))) -}}
{{- end -}}

{{/* The forges in use whose token is in a Secret, as a list of names: all but the one with an App. */}}
{{- define "coding-agent.secretForges" -}}
{{- $forges := include "coding-agent.forges" . | fromJsonArray -}}
{{- if include "coding-agent.app" . }}{{ $forges = without $forges "github" }}{{ end -}}
{{- toJson $forges -}}
{{- end -}}

{{/* The section of `config.llm` that the model's key belongs to. */}}
{{- define "coding-agent.modelProvider" -}}
{{- $provider := (.Values.config.llm | default dict).provider | default "openai" -}}
{{- ternary $provider "openai" (has $provider (.Files.Get "files/models.json" | fromJson).vendors) -}}
{{- end -}}

{{/* A vendor's own service needs a key, whose Secret may be created later. For other services, the values say. */}}
{{- define "coding-agent.modelEnabled" -}}
{{- $llm := .Values.config.llm | default dict -}}
{{- $provider := $llm.provider | default "openai" -}}
{{- $own := and (has $provider (.Files.Get "files/models.json" | fromJson).vendors) (not (index $llm $provider | default dict).base_url) -}}
{{- if or $own .Values.secrets.model.apiKey .Values.secrets.model.existingSecret }}true{{ end -}}
{{- end -}}

{{/*
The Secrets that a task needs and that the chart does not create, as a list of dicts with the kind (a key of `secrets`),
the name, the key in it, and whether it is known to exist.
*/}}
{{- define "coding-agent.expectedSecrets" -}}
{{- $expected := list -}}
{{- $kinds := include "coding-agent.secretForges" . | fromJsonArray -}}
{{- if include "coding-agent.tokensHere" . }}{{ $kinds = append $kinds "githubApp" }}{{ end -}}
{{- if include "coding-agent.modelEnabled" . }}{{ $kinds = append $kinds "model" }}{{ end -}}
{{- range $kind := $kinds -}}
  {{- if not (or (index $.Values.secrets $kind).token (index $.Values.secrets $kind).apiKey (index $.Values.secrets $kind).privateKey) -}}
    {{- $name := include "coding-agent.secretName" (list $ $kind) -}}
    {{- $there := not (empty (lookup "v1" "Secret" $.Release.Namespace $name)) -}}
    {{- $key := get (dict "model" "api-key" "githubApp" "private-key.pem") $kind | default "token" -}}
    {{- $expected = append $expected (dict "kind" $kind "name" $name "key" $key "there" $there) -}}
  {{- end -}}
{{- end -}}
{{- toJson $expected -}}
{{- end -}}

{{- define "coding-agent.s3Enabled" -}}
{{- if or .Values.secrets.s3.accessKeyId .Values.secrets.s3.existingSecret }}true{{ end -}}
{{- end -}}

{{/* If another release has the operator, it also has the proxy. */}}
{{- define "coding-agent.egressHere" -}}
{{- if and .Values.egress.enabled .Values.operator.enabled }}true{{ end -}}
{{- end -}}

{{- define "coding-agent.userConfigKey" -}}
{{- if or .Values.userConfig.enabled .Values.secrets.userConfig.apiKey .Values.secrets.userConfig.existingSecret }}true{{ end -}}
{{- end -}}

{{/* Name of the Secret of one kind. Call with (list $ "webhook"). */}}
{{- define "coding-agent.secretName" -}}
{{- $root := index . 0 -}}
{{- $kind := index . 1 -}}
{{- $suffix := kebabcase $kind -}}
{{- (index $root.Values.secrets $kind).existingSecret | default (printf "%s-%s" (include "coding-agent.fullname" $root) $suffix) -}}
{{- end -}}

{{/* A secret's value: the given one, else the existing one, else a new one. Call with (list $ NAME KEY VALUE). */}}
{{- define "coding-agent.keptSecret" -}}
{{- $root := index . 0 -}}
{{- $key := index . 2 -}}
{{- $there := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- if index . 3 -}}
{{- index . 3 -}}
{{- else if and $there $there.data (hasKey $there.data $key) -}}
{{- index $there.data $key | b64dec -}}
{{- else -}}
{{- randAlphaNum 48 -}}
{{- end -}}
{{- end -}}

{{/* The data of a Secret that this release made, now or before it was uninstalled. Call with (list $ NAME). */}}
{{- define "coding-agent.ownSecret" -}}
{{- $root := index . 0 -}}
{{- with lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- if eq (dig "annotations" "meta.helm.sh/release-name" "" .metadata) $root.Release.Name -}}
{{- toYaml .data -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that the operator serves, as a list; empty if it serves only the release's namespace. */}}
{{- define "coding-agent.servedNamespaces" -}}
{{- $given := .Values.operator.namespaces -}}
{{- if has "*" $given -}}
{{- toJson (list "*") -}}
{{- else if $given -}}
{{- concat (list .Release.Namespace) $given | uniq | toJson -}}
{{- else -}}
{{- toJson list -}}
{{- end -}}
{{- end -}}

{{/* The section of the values that a component's pods have. */}}
{{- define "coding-agent.section" -}}
{{- get (dict "poller" "polling" "user-config" "userConfig" "attempt" "attempts") . | default . -}}
{{- end -}}

{{/* Name of a component's ServiceAccount. Call with (list $ "component"). */}}
{{- define "coding-agent.serviceAccount" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- /* The check of the settings runs before the release's own accounts exist, and without a token. */ -}}
{{- if eq $component "check" -}}
default
{{- else -}}
{{- $own := (index $root.Values (include "coding-agent.section" $component)).serviceAccount | default dict -}}
{{- $own.name | default (printf "%s-%s" (include "coding-agent.fullname" $root) $component) -}}
{{- end -}}
{{- end -}}

{{/* The components that run in this release, each with a ServiceAccount, as a list of names. */}}
{{- define "coding-agent.components" -}}
{{- $running := dict "receiver" .Values.receiver.enabled "operator" .Values.operator.enabled "reporter" .Values.reporter.enabled "poller" .Values.polling.enabled "user-config" .Values.userConfig.enabled "egress" (include "coding-agent.egressHere" .) "tokens" (include "coding-agent.tokensHere" .) -}}
{{- $names := list -}}
{{- range $name, $runs := $running -}}{{- if $runs -}}{{- $names = append $names $name -}}{{- end -}}{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* The rules of a Role, from the manifest next to the program. Call with (list $ "receiver"). */}}
{{- define "coding-agent.rules" -}}
{{- $root := index . 0 -}}
{{- $file := printf "files/roles/%s.yaml" (index . 1) -}}
{{- $text := $root.Files.Get $file | required (printf "%s is missing from the chart" $file) -}}
{{- range $document := splitList "\n---\n" $text -}}
{{- $object := fromYaml $document -}}
{{- if eq ($object.kind | default "") "Role" -}}
{{- $rules := $object.rules -}}
{{- if and (eq (index $ 1) "operator") (dig "operator" "job" "cache" "enabled" false $root.Values.config) -}}
{{- $rules = append $rules (dict "apiGroups" (list "") "resources" (list "persistentvolumeclaims") "verbs" (list "get" "create")) -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The receiver's URL path-less base as people see it, empty where there is none. */}}
{{- define "coding-agent.url" -}}
{{- if .Values.ingress.enabled -}}
{{ ternary "https" "http" .Values.ingress.tls.enabled }}://{{ .Values.ingress.host }}
{{- else if .Values.httpRoute.enabled -}}
https://{{ first .Values.httpRoute.hostnames }}
{{- end -}}
{{- end -}}
