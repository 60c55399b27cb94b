{{/* What the pods of all programs have in common. */}}

{{/*
The values of a component's pods, as JSON: those of `pods` with the component's own section merged over them. What is
empty in the section does not count. Call with (list $ "component").
*/}}
{{- define "coding-agent.podValues" -}}
{{- $root := index . 0 -}}
{{- $pod := deepCopy $root.Values.pods -}}
{{- $own := index $root.Values (include "coding-agent.section" (index . 1)) -}}
{{- range $key := keys $pod -}}
  {{- $value := get $own $key -}}
  {{- if or $value (not (has (kindOf $value) (list "invalid" "string" "slice" "map"))) -}}
    {{- include "coding-agent.overlay" (list $pod (dict $key (deepCopy $value))) -}}
  {{- end -}}
  {{- if and (kindIs "map" (get $pod $key)) (not (hasSuffix "ecurityContext" $key)) -}}
    {{- include "coding-agent.dropNulls" (get $pod $key) -}}
  {{- end -}}
{{- end -}}
{{- toJson $pod -}}
{{- end -}}

{{/* Metadata of a Deployment, or of a CronJob of the poller. Call with (list $ "component" "suffix of the name" $pod). */}}
{{- define "coding-agent.workloadMetadata" -}}
{{- $root := index . 0 -}}
name: {{ include "coding-agent.fullname" $root }}-{{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "coding-agent.labels" (list $root (index . 1)) | nindent 2 }}
{{- with (index . 3).deploymentAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Strategy of a program of which one pod works, and others wait for its Lease. Call with the number of pods. */}}
{{- define "coding-agent.leaseStrategy" -}}
{{- if gt (int .) 1 -}}
type: RollingUpdate
rollingUpdate: { maxUnavailable: 1, maxSurge: 0 }
{{- else -}}
type: Recreate
{{- end -}}
{{- end -}}

{{/* The part of a pod's spec that all programs share. Call with (list $ "component" $pod). */}}
{{- define "coding-agent.podSpec" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $pod := index . 2 -}}
serviceAccountName: {{ include "coding-agent.serviceAccount" (list $root $component) }}
enableServiceLinks: false
securityContext:
  {{- include "coding-agent.merged" (list (include "coding-agent.podSecurity" $root | fromYaml) $pod.podSecurityContext) | nindent 2 }}
{{- with include "coding-agent.pullSecretNames" $root | fromJsonArray }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- range $key := list "priorityClassName" "runtimeClassName" "dnsPolicy" }}
{{- with get $pod $key }}
{{ $key }}: {{ . }}
{{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "topologySpreadConstraints" "dnsConfig" "hostAliases" "initContainers" }}
{{- with get $pod $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- $several := or (has $component (list "receiver" "egress")) (gt (int ((get $root.Values $component | default dict).replicas)) 1) }}
{{- if $pod.affinity }}
affinity:
  {{- toYaml $pod.affinity | nindent 2 }}
{{- else if $several }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "coding-agent.selectorLabels" (list $root $component) | nindent 14 }}
{{- end }}
{{- end -}}

{{/* The part of a program's container that all programs share. Call with (list $ $pod IMAGE RESOURCES). */}}
{{- define "coding-agent.container" -}}
{{- $root := index . 0 -}}
{{- $pod := index . 1 -}}
image: {{ include "coding-agent.image" (list $root (index . 2)) | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- with $pod.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml (index . 3) | nindent 2 }}
securityContext:
  {{- include "coding-agent.merged" (list (include "coding-agent.containerSecurity" $root | fromYaml) $pod.securityContext) | nindent 2 }}
volumeMounts:
  - name: configuration
    mountPath: /etc/coding-agent
    readOnly: true
  - name: tmp
    mountPath: /tmp
  {{- with $pod.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/*
The probes of a program. Call with (list $ $pod STARTUP LIVENESS READINESS): what each probe asks, as a dict, with the
times in which it differs from the others.
*/}}
{{- define "coding-agent.probes" -}}
{{- $root := index . 0 -}}
{{- $pod := index . 1 -}}
{{- $times := dict
  "startupProbe" (dict "periodSeconds" 1 "timeoutSeconds" 5 "failureThreshold" 300)
  "livenessProbe" (dict "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 3)
  "readinessProbe" (dict "periodSeconds" 5 "timeoutSeconds" 5 "failureThreshold" 3)
-}}
{{- range $index, $probe := list "startupProbe" "livenessProbe" "readinessProbe" }}
{{ $probe }}:
  {{- include "coding-agent.merged" (list (merge (dict) (index $ (add 2 $index)) (get $times $probe)) (get $pod $probe)) | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The containers next to a program. Call with $pod. */}}
{{- define "coding-agent.extraContainers" -}}
{{- with .extraContainers }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "coding-agent.podSecurity" -}}
runAsNonRoot: true
{{- if .Values.podSecurity.fixedIds }}
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "coding-agent.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- if .Values.podSecurity.fixedIds }}
runAsUser: 10001
runAsGroup: 10001
{{- end }}
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The names of the image pull Secrets, as a list. */}}
{{- define "coding-agent.pullSecretNames" -}}
{{- $names := list -}}
{{- range concat .Values.global.imagePullSecrets .Values.image.pullSecrets -}}
  {{- $names = append $names (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .) -}}
{{- end -}}
{{- uniq $names | toJson -}}
{{- end -}}

{{/* Labels and annotations of a pod. Call with (list $ "component" $pod). */}}
{{- define "coding-agent.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $pod := index . 2 -}}
labels:
  {{- include "coding-agent.labels" (list $root (index . 1) $pod.podLabels) | nindent 2 }}
annotations:
  # A changed configuration restarts the pods. Changed secrets do not: their files are read again.
  {{- $checksum := dict "checksum/config" (include "coding-agent.config" $root | sha256sum) }}
  {{- mergeOverwrite (deepCopy $pod.podAnnotations) $checksum | toYaml | nindent 2 }}
{{- end -}}

{{/* Environment of a program with config.yaml. Call with $pod. */}}
{{- define "coding-agent.env" -}}
- name: CONFIG_FILE
  value: /etc/coding-agent/config.yaml
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- include "coding-agent.extraEnv" . }}
{{- end -}}

{{- define "coding-agent.extraEnv" -}}
{{- range $name, $value := .env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volumes of a program next to its configuration. Call with $pod. */}}
{{- define "coding-agent.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with .extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* config.yaml and nothing else. */}}
{{- define "coding-agent.configSource" -}}
- configMap:
    name: {{ include "coding-agent.fullname" . }}
{{- end -}}

{{/* The key of the attempts' passwords, for the operator, which makes them, and the proxy, which checks them. */}}
{{- define "coding-agent.egressKeySource" -}}
- secret:
    name: {{ include "coding-agent.secretName" (list . "egress") }}
    items:
      - key: key
        path: egress/key
{{- end -}}

{{/* The key of the attempts' credentials, for the operator, which signs them, and the token service, which checks them. */}}
{{- define "coding-agent.tokensKeySource" -}}
- secret:
    name: {{ include "coding-agent.secretName" (list . "tokens") }}
    items:
      - key: key
        path: tokens/key
{{- end -}}

{{/* What identifies a program at the token service. */}}
{{- define "coding-agent.tokenCredentialSource" -}}
{{- if include "coding-agent.app" . }}
- serviceAccountToken:
    audience: coding-agent-tokens
    expirationSeconds: 3600
    path: tokens/credential
{{- end }}
{{- end -}}

{{/* The forge tokens, for programs that speak to the forge: they say what is missing. Call with (list $ FORGES). */}}
{{- define "coding-agent.tokenSources" -}}
{{- $root := index . 0 -}}
{{- range $forge := index . 1 }}
- secret:
    name: {{ include "coding-agent.secretName" (list $root $forge) }}
    optional: true
    items:
      - key: token
        path: credentials/{{ $forge }}-token
{{- end }}
{{- end -}}

{{/* The authorities that a program trusts. Call with the root. */}}
{{- define "coding-agent.trustedFile" -}}
/etc/coding-agent/certificates/ca-certificates.crt
{{- end -}}

{{- define "coding-agent.trustedEnv" -}}
{{- if .Values.trustedCertificates.configMap }}
- name: SSL_CERT_FILE
  value: {{ include "coding-agent.trustedFile" . }}
{{- end }}
{{- end -}}

{{/* Environment of programs that reach other machines: the authorities that they trust, and the way there. */}}
{{- define "coding-agent.outsideEnv" -}}
{{- include "coding-agent.trustedEnv" . }}
{{- include "coding-agent.proxyEnv" . }}
{{- end -}}

{{/*
The variables of your proxy, in both cases: curl and git read `http_proxy`, other programs `HTTP_PROXY`. With
NODE_USE_ENV_PROXY, Node.js reads them too.
*/}}
{{- define "coding-agent.proxyEnv" -}}
{{- $fullname := include "coding-agent.fullname" . -}}
{{- with .Values.proxy -}}
{{- if or .http .https -}}
{{- $inside := list "localhost" "127.0.0.1" "::1" ".svc" ".cluster.local" (printf "%s-user-config" $fullname) (printf "%s-tokens.%s" $fullname $.Release.Namespace) -}}
{{- with $.Values.tokens.url }}{{ $inside = append $inside (urlParse .).hostname }}{{ end -}}
{{- $values := dict "NO_PROXY" (concat $inside .noProxy | uniq | join ",") -}}
{{- with .http }}{{ $_ := set $values "HTTP_PROXY" . }}{{ end -}}
{{- with .https }}{{ $_ := set $values "HTTPS_PROXY" . }}{{ end -}}
{{- range $name, $value := $values }}
- name: {{ $name }}
  value: {{ $value | quote }}
- name: {{ lower $name }}
  value: {{ $value | quote }}
{{- end }}
- name: NODE_USE_ENV_PROXY
  value: "1"
{{- end }}
{{- end }}
{{- end -}}

{{- define "coding-agent.trustedSource" -}}
{{- with .Values.trustedCertificates }}
{{- if .configMap }}
- configMap:
    name: {{ .configMap }}
    items:
      - key: {{ .key }}
        path: certificates/ca-certificates.crt
{{- end }}
{{- end }}
{{- end -}}
