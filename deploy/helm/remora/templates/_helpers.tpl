{{/* Where the objects go. */}}
{{- define "remora.namespace" -}}
{{- if .Values.namespace.create -}}{{ .Values.namespace.name }}{{- else -}}{{ .Release.Namespace }}{{- end -}}
{{- end -}}

{{/* What every object is labelled with. */}}
{{- define "remora.labels" -}}
app.kubernetes.io/name: {{ .Values.name }}
{{- end -}}

{{/* The pods of the agent, and what belongs to them. */}}
{{- define "remora.agent" -}}
{{ include "remora.labels" . }}
app.kubernetes.io/component: agent
{{- end -}}
