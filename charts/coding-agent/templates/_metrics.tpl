{{/* What a ServiceMonitor and a PodMonitor have in common. */}}

{{/* Selects the programs that serve metrics. */}}
{{- define "coding-agent.scraped" -}}
selector:
  matchLabels:
    app.kubernetes.io/name: {{ include "coding-agent.name" . }}
    app.kubernetes.io/instance: {{ .Release.Name }}
  matchExpressions:
    - key: app.kubernetes.io/component
      operator: In
      values: [receiver, operator, reporter, tokens]
namespaceSelector:
  matchNames: [{{ .Release.Namespace }}]
{{- end -}}

{{/* What is scraped, and how. Call with (list VALUES "service" or "pod"): whose labels name the component.
     The token service has its metrics on a port of their own: others may read them than ask for tokens. */}}
{{- define "coding-agent.endpoints" -}}
{{- $monitor := index . 0 }}
{{- range $port, $tokens := dict "http" "drop" "metrics" "keep" }}
- port: {{ $port }}
  path: /metrics
  interval: {{ $monitor.interval }}
  {{- with $monitor.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  relabelings:
    - sourceLabels: [__meta_kubernetes_{{ index $ 1 }}_label_app_kubernetes_io_component]
      targetLabel: component
    - sourceLabels: [component]
      regex: tokens
      action: {{ $tokens }}
    {{- with $monitor.relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}
