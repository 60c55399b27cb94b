{{/*
config.yaml: the values' `config`, overridden by what the chart itself knows. It names the files of secrets, but contains
no secrets.
*/}}
{{- define "coding-agent.config" -}}
{{- $forges := include "coding-agent.forges" . | fromJsonArray -}}
{{- $webhook := dict "server" (dict "host" "0.0.0.0" "port" 8000) -}}
{{- $own := dict
  "queue" (dict "backend" "kubernetes")
  "operator" (dict "job" (include "coding-agent.job" . | fromYaml))
-}}
{{- with include "coding-agent.servedNamespaces" . | fromJsonArray -}}
  {{- $_ := set $own.operator "namespaces" . -}}
{{- end -}}
{{- range $forge := $forges -}}
  {{- $files := list (printf "/etc/coding-agent/webhook/%s" $forge) -}}
  {{- if $.Values.secrets.webhook.rotating -}}
    {{- $files = append $files (printf "/etc/coding-agent/webhook/%s-previous" $forge) -}}
  {{- end -}}
  {{- $field := index (include "coding-agent.forgeFacts" $ | fromJson) $forge "webhook" -}}
  {{- $_ := set $webhook $forge (dict $field (dict "files" $files)) -}}
{{- end -}}
{{- range $forge := include "coding-agent.secretForges" . | fromJsonArray -}}
  {{- $token := printf "/etc/coding-agent/credentials/%s-token" $forge -}}
  {{- $_ := set $own $forge (dict "personal_access_token" (dict "files" (list $token))) -}}
{{- end -}}
{{- if include "coding-agent.app" . -}}
  {{- $url := .Values.tokens.url | default (printf "http://%s-tokens.%s:8080" (include "coding-agent.fullname" .) .Release.Namespace) -}}
  {{- $service := dict
    "url" $url
    "key" (dict "files" (list "/etc/coding-agent/tokens/key"))
  -}}
  {{- $app := dict "private_key_file" "/etc/coding-agent/github-app/private-key.pem" "service" $service -}}
  {{- $_ := set $own "github" (dict "app" $app "token_credential" (dict "files" (list "/etc/coding-agent/tokens/credential"))) -}}
{{- end -}}
{{- $_ := set $own "webhook" $webhook -}}
{{- $comments := list "/etc/coding-agent/credentials/comment-key" -}}
{{- if .Values.secrets.comments.rotating -}}
  {{- $comments = append $comments "/etc/coding-agent/credentials/comment-key-previous" -}}
{{- end -}}
{{- $_ := set $own "comment_key" (dict "files" $comments) -}}
{{- if not (has "github" $forges) -}}
  {{- $_ := set $own "task_source" (first $forges) -}}
{{- end -}}
{{- if include "coding-agent.modelEnabled" . -}}
  {{- $provider := include "coding-agent.modelProvider" . -}}
  {{- $key := printf "/etc/coding-agent/credentials/%s-api-key" $provider -}}
  {{- $_ := set $own "llm" (dict $provider (dict "api_key" (dict "files" (list $key)))) -}}
{{- end -}}
{{- if include "coding-agent.userConfigKey" . -}}
  {{- $api := dict "enabled" true "api_key" (dict "files" (list "/etc/coding-agent/credentials/user-config-api-key")) -}}
  {{- if .Values.userConfig.enabled -}}
    {{- $_ := set $api "url" (printf "http://%s-user-config:8080" (include "coding-agent.fullname" .)) -}}
  {{- end -}}
  {{- $_ := set $own "user_config_api" $api -}}
{{- end -}}
{{- if .Values.attempts.signing.existingSecret -}}
  {{- $_ := set $own "consumer" (dict "commits" (dict "signing_key" "/etc/coding-agent/credentials/commit-signing-key")) -}}
{{- end -}}
{{- if include "coding-agent.s3Enabled" . -}}
  {{- $_ := set $own "context_storage" (dict "s3" (dict
    "access_key_id" (dict "files" (list "/etc/coding-agent/credentials/s3-access-key-id"))
    "secret_access_key" (dict "files" (list "/etc/coding-agent/credentials/s3-secret-access-key")))) -}}
{{- end -}}
{{- if .Values.transcripts.persistence.enabled -}}
  {{- $storage := get $own "context_storage" | default dict -}}
  {{- $_ := set $own "context_storage" (mergeOverwrite $storage (dict "base_dir" "/var/lib/coding-agent/transcripts")) -}}
{{- end -}}
{{- if .Values.egress.enabled -}}
  {{- $egress := pick .Values.egress "allow" "repositories" "presets" "private" "agent" -}}
  {{- $_ := set $egress "key" (dict "files" (list "/etc/coding-agent/egress/key")) -}}
  {{- $_ := set $egress "proxy" (printf "http://%s-egress:3128" (include "coding-agent.fullname" .)) -}}
  {{- with .Values.egress.parent -}}
    {{- if .host -}}
      {{- $parent := pick . "host" "port" -}}
      {{- if .existingSecret -}}
        {{- $_ := set $parent "credentials" (dict "files" (list "/etc/coding-agent/egress/parent")) -}}
      {{- end -}}
      {{- $_ := set $egress "parent" $parent -}}
    {{- end -}}
  {{- end -}}
  {{- $_ := set $own "egress" $egress -}}
{{- end -}}
{{/*
An agent that goes in circles would spend until its time is over, and nobody who installs this without reading would know.
Any map in `config.budgets` replaces the limit, also an empty one.
*/}}
{{- if not (kindIs "map" (get .Values.config "budgets")) -}}
  {{- $_ := set $own "budgets" (dict "task" (dict "tokens" 10000000)) -}}
{{- end -}}
{{/* The repository that `helm test` sends: no forge can have it, and its tasks never start. */}}
{{- $limits := dict "overrides" (dict "selftest.invalid/helm-test" 0) -}}
{{- $_ := set $own "limits" $limits -}}
{{- mergeOverwrite (deepCopy .Values.config) $own | toYaml -}}
{{- end -}}

{{/* Entries of `operator.job.credentials`: the files that an attempt gets. Empty if it gets none. */}}
{{- define "coding-agent.attemptCredentials" -}}
{{- range $forge := include "coding-agent.secretForges" . | fromJsonArray }}
- { secret: {{ include "coding-agent.secretName" (list $ $forge) }}, key: token, file: {{ $forge }}-token, platform: {{ $forge }} }
{{- end }}
- { secret: {{ include "coding-agent.secretName" (list . "comments") }}, key: key, file: comment-key }
{{- if .Values.secrets.comments.rotating }}
- { secret: {{ include "coding-agent.secretName" (list . "comments") }}, key: key-previous, file: comment-key-previous }
{{- end }}
{{- if include "coding-agent.modelEnabled" . }}
- { secret: {{ include "coding-agent.secretName" (list . "model") }}, key: api-key, file: {{ include "coding-agent.modelProvider" . }}-api-key }
{{- end }}
{{- if include "coding-agent.userConfigKey" . }}
- { secret: {{ include "coding-agent.secretName" (list . "userConfig") }}, key: api-key, file: user-config-api-key }
{{- end }}
{{- if include "coding-agent.s3Enabled" . }}
- { secret: {{ include "coding-agent.secretName" (list . "s3") }}, key: access-key-id, file: s3-access-key-id }
- { secret: {{ include "coding-agent.secretName" (list . "s3") }}, key: secret-access-key, file: s3-secret-access-key }
{{- end }}
{{- with .Values.attempts.signing }}
{{- if .existingSecret }}
- { secret: {{ .existingSecret | quote }}, key: {{ .key | quote }}, file: commit-signing-key }
{{- end }}
{{- end }}
{{- with .Values.attempts.credentials }}
  {{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{/* `operator.job`: what the chart knows of attempts. Lists are the values' own with the chart's behind them. */}}
{{- define "coding-agent.job" -}}
{{- $pod := dig "operator" "job" "pod_template" "spec" dict .Values.config -}}
image: {{ include "coding-agent.image" (list . .Values.attempts.image) | quote }}
pull_policy: {{ .Values.image.pullPolicy }}
fixed_ids: {{ .Values.podSecurity.fixedIds }}
service_account: {{ include "coding-agent.serviceAccount" (list . "attempt") }}
config_map: {{ include "coding-agent.fullname" . }}
{{- /* Without a key anywhere (a GitHub App, and identities for model and bucket) the list is empty, and never null. */}}
credentials: {{- with include "coding-agent.attemptCredentials" . | trim }}{{ nindent 2 . }}{{ else }} []{{ end }}
{{- $transcripts := .Values.transcripts.persistence.enabled }}
{{- $trusted := .Values.trustedCertificates.configMap }}
{{- $identity := dig "context_storage" "s3" "identity" dict .Values.config }}
{{- /* With the egress proxy, attempts reach nothing else, and the operator sets their variables. */}}
{{- $proxy := list }}
{{- if not .Values.egress.enabled }}{{ $proxy = include "coding-agent.proxyEnv" . | fromYamlArray }}{{ end }}
pod_template:
  metadata:
    labels:
      app.kubernetes.io/name: {{ include "coding-agent.name" . }}
      app.kubernetes.io/instance: {{ .Release.Name }}
  spec:
    {{- $pullSecrets := $pod.imagePullSecrets | default list }}
    {{- range include "coding-agent.pullSecretNames" . | fromJsonArray }}{{ $pullSecrets = append $pullSecrets (dict "name" .) }}{{ end }}
    imagePullSecrets: {{ toJson $pullSecrets }}
    {{- if or $transcripts $trusted $identity }}
    volumes:
      {{- with $pod.volumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- if $transcripts }}
      - name: transcripts
        persistentVolumeClaim:
          claimName: {{ .Values.transcripts.persistence.existingClaim | default (printf "%s-transcripts" (include "coding-agent.fullname" .)) }}
      {{- end }}
      {{- if $trusted }}
      - name: trusted-certificates
        configMap:
          name: {{ $trusted }}
          items: [{ key: {{ .Values.trustedCertificates.key }}, path: ca-certificates.crt }]
      {{- end }}
      {{- if $identity }}
      # Only the agent mounts it.
      - name: bucket-identity
        projected:
          sources: [{ serviceAccountToken: { audience: sts.amazonaws.com, expirationSeconds: 3600, path: token } }]
      {{- end }}
    {{- end }}
    {{- if or $transcripts $trusted $identity $proxy }}
    containers:
      {{- with $pod.containers }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      - name: agent
        {{- if or $trusted $proxy }}
        env:
          {{- include "coding-agent.trustedEnv" . | nindent 10 }}
          {{- with $proxy }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        {{- end }}
        {{- if or $transcripts $trusted $identity }}
        volumeMounts:
          {{- if $transcripts }}
          - { name: transcripts, mountPath: /var/lib/coding-agent/transcripts }
          {{- end }}
          {{- if $trusted }}
          - { name: trusted-certificates, mountPath: {{ dir (include "coding-agent.trustedFile" .) }}, readOnly: true }
          {{- end }}
          {{- if $identity }}
          - { name: bucket-identity, mountPath: /var/run/secrets/coding-agent.dev/bucket, readOnly: true }
          {{- end }}
        {{- end }}
      {{- with $proxy }}
      - name: workspace
        env:
          {{- toYaml . | nindent 10 }}
      {{- end }}
    {{- end }}
{{- end -}}
