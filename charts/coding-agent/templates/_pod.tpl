{{/* What the pods of all programs have in common. */}}

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

{{/* Where a pod runs. Call with the component's values. */}}
{{- define "coding-agent.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "coding-agent.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of a pod. Call with (list $ "component" .Values.component). */}}
{{- define "coding-agent.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
labels:
  {{- include "coding-agent.labels" (list $root (index . 1) $values.podLabels) | nindent 2 }}
annotations:
  # A changed configuration restarts the pods. Changed secrets do not: their files are read again.
  {{- $checksum := dict "checksum/config" (include "coding-agent.config" $root | sha256sum) }}
  {{- mergeOverwrite (deepCopy $values.podAnnotations) $checksum | toYaml | nindent 2 }}
{{- end -}}

{{/* Environment of a program. Call with the component's values. */}}
{{- define "coding-agent.env" -}}
- name: CONFIG_FILE
  value: /etc/coding-agent/config.yaml
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- range $name, $value := .env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "coding-agent.mounts" -}}
- name: configuration
  mountPath: /etc/coding-agent
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- end -}}

{{- define "coding-agent.tmp" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
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
