{{/* Objects have fixed names: there is one operator a cluster, whatever the release is called. */}}

{{/* ublk.labels (list ROOT COMPONENT) */}}
{{- define "ublk.labels" -}}
{{- $root := index . 0 -}}
{{ include "ublk.selector" . }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{- end }}

{{/* ublk.selector (list ROOT COMPONENT): what a selector may never change. */}}
{{- define "ublk.selector" -}}
app.kubernetes.io/name: ublk-operator
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "ublk.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Whose node may have the start-up taint, which on a new cluster is every node: who takes it off must get there first. */}}
{{- define "ublk.controllerTolerations" -}}
{{- if or .Values.controller.tolerations .Values.node.startupTaint -}}
tolerations:
  {{- with .Values.controller.tolerations }}{{ toYaml . | nindent 2 }}{{ end }}
  {{- with .Values.node.startupTaint }}
  - key: {{ . | quote }}
    operator: Exists
  {{- end }}
{{- end }}
{{- end }}

{{/* Where an agent lives in the API server's eyes. */}}
{{- define "ublk.nodeUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:ublk-node
{{- end }}

{{/* ublk.eventsRole (list ROOT COMPONENT): events about objects without a namespace lie in the namespace default. */}}
{{- define "ublk.eventsRole" -}}
{{- $root := index . 0 -}}
{{- $name := printf "ublk-%s" (index . 1) }}
---
# Events about objects without a namespace lie in this one.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}-events
  namespace: default
  labels:
    {{- include "ublk.labels" . | nindent 4 }}
rules:
  - apiGroups: [""]
    resources: [events]
    verbs: [create, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}-events
  namespace: default
  labels:
    {{- include "ublk.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $name }}-events
subjects:
  - kind: ServiceAccount
    name: {{ $name }}
    namespace: {{ $root.Release.Namespace | quote }}
{{- end }}

{{/* What automountServiceAccountToken would mount, for one container only. */}}
{{- define "ublk.tokenVolume" -}}
projected:
  sources:
    - serviceAccountToken:
        path: token
        expirationSeconds: 3600
    - configMap:
        name: kube-root-ca.crt
        items:
          - key: ca.crt
            path: ca.crt
    - downwardAPI:
        items:
          - path: namespace
            fieldRef:
              apiVersion: v1
              fieldPath: metadata.namespace
{{- end }}
