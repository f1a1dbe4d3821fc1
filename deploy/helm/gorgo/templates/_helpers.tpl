{{- define "gorgo.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "gorgo.selector" -}}
app.kubernetes.io/name: gorgo
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gorgo.labels" -}}
{{ include "gorgo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Whether the router discovers by EndpointSlices: it then needs rights. Comments do not count. */}}
{{- define "gorgo.slices" -}}
{{- $text := join "\n" (prepend .Values.extraArgs .Values.config) -}}
{{- if regexMatch `(?m)^[^#\n]*\bkubernetes["']?\s*(=|\]\])` $text }}true{{ end -}}
{{- end }}
