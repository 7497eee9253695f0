# A CustomResourceDefinition as a page of Markdown: every field, its bounds, its default, whether it may change, and the
# sentences with which the API server refuses. Input: the definition. $order: its fields' paths, one a line, as written.

# Of one line, and with no bar that would end a cell. <name> is text here, no HTML.
def cell: gsub("\\s+"; " ") | gsub("\\|"; "\\|") | gsub("<"; "&lt;");
def code: "`\(.)`";
def fields: .properties // {};
def join_path($parent; $name): if $parent == "" then $name else "\($parent).\($name)" end;

# Every field below, with its path and what its parent says about it. An array's items are `name[]`.
def walk($path; $required):
  fields | to_entries[] | .key as $name | .value as $schema
  | join_path($path; $name) as $here
  | {path: $here, schema: $schema, required: ($required | index($name) != null)},
    ($schema | walk($here; .required // [])),
    ($schema.items // {} | walk("\($here)[]"; .required // []));

def type_name:
  if .["x-kubernetes-int-or-string"] then "integer or string"
  elif .type == "array" then "list of \(.items.type // "value")s"
  elif .format == "date-time" then "time (RFC 3339)"
  else .type // "any" end;
def bounds:
  [ (if .enum then "one of " + ([.enum[] | tostring | code] | join(", ")) else empty end),
    (if .items.enum then "each one of " + ([.items.enum[] | tostring | code] | join(", ")) else empty end),
    (if .minimum != null and .maximum != null then "\(.minimum) to \(.maximum)"
     elif .minimum != null then "at least \(.minimum)"
     elif .maximum != null then "at most \(.maximum)" else empty end),
    (if .minLength == 1 then "not empty" elif .minLength then "at least \(.minLength) characters" else empty end),
    (if .maxLength then "at most \(.maxLength) characters" else empty end),
    (if .maxItems then "at most \(.maxItems)" else empty end),
    (if .["x-kubernetes-list-map-keys"] then "one for each `\(.["x-kubernetes-list-map-keys"] | join("`, `"))`" else empty end)
  ] | join("; ");
def shape: type_name as $type | bounds as $bounds | if $bounds == "" then $type else "\($type); \($bounds)" end;

# The rules here and below, each with the field that it speaks of.
def rules($path):
  (.["x-kubernetes-validations"] // [] | .[] | {path: ($path + (.fieldPath // "")) | ltrimstr("."), rule, message}),
  (fields | to_entries[] | .key as $name | .value | rules("\($path).\($name)"));
# What a rule about the old value allows. Another kind of rule has to be taught here before it is documented.
def change:
  if .message | test("cannot change from one kind") then "not its kind"
  elif .message | test("cannot change once it is set") then "not once it is set"
  elif .message | test("cannot change") then "no"
  elif .message | test("cannot shrink") then "only grows"
  else error("reference.jq does not know what this rule allows: \(.message)") end;

# Quotes only where YAML would read something else without.
def default_of: if .schema.default == null then (if .required then "required" else "" end)
  else .schema.default | if type == "object" then "" elif type == "string" and (test("^[0-9]+$") | not) then code else tojson | code end end;

. as $crd | .spec.versions[0] as $version | $version.schema.openAPIV3Schema as $root
| ($order | split("\n")) as $order
| [$root | rules("")] as $rules
| ([$rules[] | select(.rule | test("oldSelf")) | {key: .path, value: change}] | from_entries) as $changes
| [$root | walk(""; .required // [])] as $all
| ($all | map(.path) | map(select(. as $path | $order | index($path) | not))) as $unknown
| (if $unknown == [] then . else error("the order of \($unknown) is not known") end)
| def at: .path as $path | if $path == "" then -1 else $order | index($path) end;
  ($all | sort_by(at)) as $all | ($rules | sort_by(at)) as $rules
| def table($top):
    ($top == "spec") as $changing
    | "| Field | Type and values |\(if $changing then " Default | Can change |" else "" end) Meaning |",
      "|---|---|\(if $changing then "---|---|" else "" end)---|",
      ($all[] | select(.path | startswith($top + "."))
        | "| \(.path | code) | \(.schema | shape | cell) |"
          + (if $changing then " \(default_of | cell) | \($changes[.path] // (if .schema.type == "object" then "" else "yes" end)) |" else "" end)
          + " \(.schema.description // "" | cell) |");
  "# \(.spec.names.kind)",
  "",
  "<!-- Written by ./dev manifests from charts/ublk-operator/files/crds; change it there. -->",
  "",
  ($root.description | gsub("\\s+"; " ")),
  "",
  "| | |",
  "|---|---|",
  "| `apiVersion` | `\(.spec.group)/\($version.name)` |",
  "| `kind` | `\(.spec.names.kind)` |",
  "| names for kubectl | \([.spec.names.plural, .spec.names.singular, .spec.names.shortNames[]] | map(code) | join(", ")); category \([.spec.names.categories[] | code] | join(", ")) |",
  "| scope | \(if .spec.scope == "Cluster" then "the cluster: no namespace" else "a namespace" end) |",
  (if $version.selectableFields then
    "| field selectors | \([$version.selectableFields[].jsonPath | ltrimstr(".") | code] | join(", ")) |" else empty end),
  ($version.additionalPrinterColumns | group_by(.priority // 0)[]
    | "| columns of `kubectl get\(if .[0].priority then " -o wide`, besides" else "`" end) | \(map(.name | ascii_upcase | code) | join(" ")) |"),
  "",
  (if $root.properties.spec then
    "How quantities and durations are written, and what a change does to a volume that runs: [manifests](manifest.md).", "",
    "## spec", "", table("spec"), "" else empty end),
  "## status", "",
  "Written by the operator. The reasons of the conditions: [troubleshooting](../troubleshooting.md).", "",
  table("status"),
  (if $rules == [] then empty else
    "", "## What the API server refuses", "",
    "What breaks a type or a bound above, and:", "",
    ($rules[] | "- \(.message | gsub("\\s+"; " "))") end)
