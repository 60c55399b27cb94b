{{/*
The `to` of an egress rule for networks. `0.0.0.0/0` and `::/0` leave out what is blocked.
Call with (list $ CIDRS BLOCKED).
*/}}
{{- define "coding-agent.peers" -}}
{{- $blocked := index . 2 -}}
{{- range $cidr := index . 1 }}
- ipBlock:
    cidr: {{ $cidr | quote }}
    {{- if has $cidr (list "0.0.0.0/0" "::/0") }}
    {{- $except := list }}
    {{- range $each := $blocked }}
    {{- if eq (contains ":" $each) (contains ":" $cidr) }}{{ $except = append $except $each }}{{ end }}
    {{- end }}
    {{- with $except }}
    except:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "coding-agent.ports" -}}
{{- range . }}
- { port: {{ . }}, protocol: TCP }
{{- end }}
{{- end -}}

{{- define "coding-agent.dnsRule" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns.to | nindent 4 }}
  ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - { port: {{ . }}, protocol: UDP }
    - { port: {{ . }}, protocol: TCP }
    {{- end }}
{{- end -}}

{{/* The API server may well be in a private network; metadata services are never it. */}}
{{- define "coding-agent.apiServerRule" -}}
- to:
    {{- include "coding-agent.peers" (list . .Values.networkPolicy.apiServer.cidrs (list "169.254.0.0/16" "168.63.129.16/32" "192.0.0.192/32" "fe80::/10" "fd00:ec2::254/128")) | nindent 4 }}
  ports:
    {{- include "coding-agent.ports" .Values.networkPolicy.apiServer.ports | nindent 4 }}
{{- end -}}

{{- define "coding-agent.forgeRule" -}}
- to:
    {{- include "coding-agent.peers" (list . .Values.networkPolicy.forge.cidrs .Values.networkPolicy.blocked) | nindent 4 }}
    {{- with .Values.networkPolicy.forge.to }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    {{- include "coding-agent.ports" .Values.networkPolicy.forge.ports | nindent 4 }}
{{- end -}}

{{/* Your proxy, on the ports of its URLs. */}}
{{- define "coding-agent.companyProxyRule" -}}
{{- if or .Values.proxy.http .Values.proxy.https }}
{{- $ports := list -}}
{{- range $url := compact (list .Values.proxy.http .Values.proxy.https) -}}
  {{- $ports = append $ports ((urlParse $url).host | regexFind ":[0-9]+$" | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https:" $url))) -}}
{{- end }}
- to:
    {{- include "coding-agent.peers" (list . .Values.networkPolicy.proxy.cidrs list) | nindent 4 }}
  ports:
    {{- include "coding-agent.ports" (uniq $ports) | nindent 4 }}
{{- end }}
{{- end -}}

{{- define "coding-agent.modelRule" -}}
- to:
    {{- include "coding-agent.peers" (list . .Values.networkPolicy.model.cidrs .Values.networkPolicy.blocked) | nindent 4 }}
    {{- with .Values.networkPolicy.model.to }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    {{- include "coding-agent.ports" .Values.networkPolicy.model.ports | nindent 4 }}
{{- end -}}

{{/* Selects attempts and evidence pods by labels that the operator gives all of them. */}}
{{- define "coding-agent.taskPods" -}}
matchLabels:
  app.kubernetes.io/managed-by: coding-agent-operator
matchExpressions:
  - { key: app.kubernetes.io/component, operator: In, values: [attempt, evidence] }
{{- end -}}

{{/* The only rule of a pod that uses the egress proxy. */}}
{{- define "coding-agent.proxyRule" -}}
- to:
    - podSelector:
        matchLabels:
          {{- include "coding-agent.selectorLabels" (list . "egress") | nindent 10 }}
      {{- if not .Values.operator.enabled }}
      # The operator's release, which has the same name, has the proxy.
      namespaceSelector: {}
      {{- end }}
  ports:
    - { port: proxy, protocol: TCP }
{{- end -}}

{{/* The token service, which may be in the operator's release. That one has the same name. */}}
{{- define "coding-agent.tokensRule" -}}
{{- if include "coding-agent.app" . }}
- to:
    - podSelector:
        matchLabels:
          {{- include "coding-agent.selectorLabels" (list . "tokens") | nindent 10 }}
      {{- if not .Values.operator.enabled }}
      namespaceSelector: {}
      {{- end }}
  ports:
    - { port: http, protocol: TCP }
{{- end }}
{{- end -}}

{{/* What an attempt reaches, by itself or through the egress proxy. */}}
{{- define "coding-agent.attemptRules" -}}
{{ include "coding-agent.forgeRule" . }}
{{ include "coding-agent.modelRule" . }}
{{- include "coding-agent.companyProxyRule" . }}
{{- if .Values.userConfig.enabled }}
- to:
    - podSelector:
        matchLabels:
          {{- include "coding-agent.selectorLabels" (list . "user-config") | nindent 10 }}
  ports:
    - { port: http, protocol: TCP }
{{- end }}
{{- include "coding-agent.tokensRule" . }}
{{- with .Values.networkPolicy.attempts.egress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Head of a policy. Call with (list $ "component" "suffix of the name"). */}}
{{- define "coding-agent.policyHead" -}}
{{- $root := index . 0 -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "coding-agent.fullname" $root }}-{{ index . 2 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "coding-agent.labels" (list $root (index . 1)) | nindent 4 }}
{{- end -}}
