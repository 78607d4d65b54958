#!/bin/sh
# Makes the schemas of this folder again: taken from Python packages that carry the published ones, so that the test of
# deploy/ needs neither Python nor a network. Run it to move to another version of Kubernetes; needs python3 and its venv.
#
#   kubernetes.json    what the kinds of deploy/kubernetes/ reach of the API's strict schema (no unknown fields), without
#                      the descriptions, which are nine tenths of it. The oldest version that is still supported: newer
#                      clusters accept what it accepts.
#   compose.json       the Compose specification, as it is.
#
# Both are under the Apache License 2.0, by the Kubernetes authors and the authors of the Compose specification.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --no-deps kubernetes-validate==1.37.0 check-jsonschema==0.39.0

"$scratch/venv/bin/python" - "$here" <<'PYTHON'
import json, pathlib, re, sys, sysconfig

kubernetes = "1.33.0"
kinds = {
    "apps/v1/Deployment": "io.k8s.api.apps.v1.Deployment",
    "batch/v1/Job": "io.k8s.api.batch.v1.Job",
    "networking.k8s.io/v1/NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "policy/v1/PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
    "v1/ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "v1/Service": "io.k8s.api.core.v1.Service",
    "v1/ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
}
here, packages = pathlib.Path(sys.argv[1]), pathlib.Path(sysconfig.get_paths()["purelib"])
published = json.loads(
    (packages / f"kubernetes_validate/kubernetes-json-schema/v{kubernetes}-local-strict/_definitions.json").read_text()
)["$defs"]


def bare(schema, names_are_fields=False):
    """Without descriptions, and with references into this one file. A *field* may well be called `description`."""
    if isinstance(schema, list):
        return [bare(each) for each in schema]
    if not isinstance(schema, dict):
        return re.sub(r"^/api/_definitions.json#", "#", schema) if isinstance(schema, str) else schema
    return {
        key: bare(value, key == "properties" and not names_are_fields)
        for key, value in schema.items()
        if names_are_fields or not (key == "description" or key.startswith("x-kubernetes"))
    }


reached, waiting = {}, list(kinds.values())
while waiting:
    name = waiting.pop()
    if name not in reached:
        reached[name] = bare(published[name])
        waiting += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(reached[name]))

whole = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$comment": f"Kubernetes {kubernetes}, made by update.sh",
    "kinds": kinds,
    "$defs": dict(sorted(reached.items())),
}
lines = json.dumps(whole, separators=(",", ":")).replace('},"io.k8s', '},\n"io.k8s')  # one definition a line: diffs can be read
(here / "kubernetes.json").write_text(lines + "\n")
compose = (packages / "check_jsonschema/builtin_schemas/vendor/compose-spec.json").read_text()
(here / "compose.json").write_text(compose)
PYTHON
