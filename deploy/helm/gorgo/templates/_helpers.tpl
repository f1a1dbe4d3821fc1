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

{{/* The configuration and the arguments that add to it, without comments. */}}
{{- define "gorgo.settings" -}}
{{- regexReplaceAll `(?m)#.*$` (join "\n" (prepend .Values.extraArgs .Values.config)) "" -}}
{{- end }}

{{/* Whether the router discovers by EndpointSlices: it then needs rights. */}}
{{- define "gorgo.slices" -}}
{{- if regexMatch `\bkubernetes["']?\s*(=|\]\])` (include "gorgo.settings" .) }}true{{ end -}}
{{- end }}

{{/* The namespaces of those EndpointSlices as JSON: that of the release, and those that `namespace` names. */}}
{{- define "gorgo.namespaces" -}}
{{- $all := list .Release.Namespace -}}
{{- range regexFindAll `\bnamespace["']?\s*=\s*["'][^"']+["']` (include "gorgo.settings" .) -1 -}}
{{- $all = append $all (regexReplaceAll `^.*=\s*["']([^"']+)["']$` . "${1}") -}}
{{- end -}}
{{- uniq $all | toJson -}}
{{- end }}

{{/* HTTPS where the listener has a certificate, by `tls.existingSecret` or by the configuration's `tls.cert`. */}}
{{- define "gorgo.scheme" -}}
{{- if or .Values.tls.existingSecret (regexMatch `\bcert["']?\s*=` (include "gorgo.settings" .)) }}HTTPS{{ else }}HTTP{{ end -}}
{{- end }}
