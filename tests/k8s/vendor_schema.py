"""Writes `kubernetes.schema.json`: Kubernetes' own schemas, strict, of the kinds that the manifests use.

`uv run --no-project --with kubernetes-validate python tests/k8s/vendor_schema.py`. The package carries every kind of
every version, over 100 MB; here are the few that are checked against, without their prose. Apache-2.0, as Kubernetes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

# The oldest release that the manifests are meant for.
VERSION: Final = "v1.34.0"
KINDS: Final = {
    "v1/ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "v1/Namespace": "io.k8s.api.core.v1.Namespace",
    "v1/Secret": "io.k8s.api.core.v1.Secret",
    "v1/Service": "io.k8s.api.core.v1.Service",
    "apps/v1/Deployment": "io.k8s.api.apps.v1.Deployment",
    "apps/v1/StatefulSet": "io.k8s.api.apps.v1.StatefulSet",
    "policy/v1/PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
}
SCHEMA: Final = Path(__file__).with_name("kubernetes.schema.json")


def main() -> None:
    source = files("kubernetes_validate") / "kubernetes-json-schema" / f"{VERSION}-local-strict" / "_definitions.json"
    whole = json.loads(source.read_text())
    kept: dict[str, Any] = {}
    waiting = list(KINDS.values())
    while waiting:
        name = waiting.pop()
        if name not in kept:
            kept[name] = _without_prose(whole["$defs"][name])
            waiting += _references(kept[name])
    schema = {"$comment": f"Kubernetes {VERSION}, Apache-2.0; made by vendor_schema.py", "$schema": whole["$schema"]}
    SCHEMA.write_text(json.dumps(schema | {"kinds": KINDS, "$defs": kept}, sort_keys=True, indent=1) + "\n")


def _without_prose(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_prose(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    # A property may itself be called `description`; prose is a string.
    prose = {key for key in ("description", "x-kubernetes-group-version-kind") if not isinstance(schema.get(key), dict)}
    return {key: _without_prose(value) for key, value in schema.items() if key not in prose}


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


if __name__ == "__main__":
    main()
