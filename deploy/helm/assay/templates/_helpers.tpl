{{- define "assay.name" -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "assay.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "assay.labels" -}}
{{ include "assay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "assay.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* assay.toml. JSON's words for texts, numbers, lists and true and false are TOML's as well. */}}
{{- define "assay.toml" -}}
{{- range $section, $settings := .Values.config }}
[{{ $section }}]
{{- range $name, $value := $settings }}
{{- if kindIs "map" $value }}
{{ $name }} = { {{- range $i, $key := keys $value | sortAlpha }}{{ if $i }},{{ end }} {{ $key | quote }} = {{ get $value $key | toJson }}{{ end }} }
{{- else }}
{{ $name }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}

{{/* How long calls under way may take after SIGTERM: the setting, or the server's own default. */}}
{{- define "assay.drain" -}}
{{- dig "server" "drain_grace_s" 20 .Values.config | float64 | ceil | int }}
{{- end }}

{{/* A server with TLS may ask for a certificate that kubelet has not got. */}}
{{- define "assay.probe" -}}
{{- if .root.Values.tls.existingSecret }}
httpGet:
  path: {{ .path }}
  port: metrics
{{- else }}
grpc:
  port: 50051
{{- end }}
{{ toYaml .settings }}
{{- end }}
