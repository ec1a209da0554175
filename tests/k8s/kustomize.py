"""Kustomize, as far as the manifests use it, so that a machine without kubectl can check what would be applied.

A key of a kustomization that is not known here is refused. Where kubectl is there, a test compares the two.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

Object: TypeAlias = dict[str, Any]

# By which key the items of a list are told apart; other lists are replaced whole.
_LIST_KEYS: Final = {
    "containers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumes": "name",
    "volumeMounts": "mountPath",
}
_CLUSTER_WIDE: Final = ("Namespace",)


def build(folder: Path) -> list[Object]:
    """The objects of a kustomization, as `kubectl kustomize` would print them."""
    objects, generated = _build(folder)
    names = {(each["kind"], each["metadata"]["name"]): _hashed(each) for each in generated}
    for each in generated:
        each["metadata"]["name"] = names[each["kind"], each["metadata"]["name"]]
    for each in objects:
        _rename_references(each, names)
    return objects


def _build(folder: Path) -> tuple[list[Object], list[Object]]:
    """All objects, and those of them whose names get a hash of their content."""
    spec = _load(folder / "kustomization.yaml")[0]
    unknown = spec.keys() - _STEPS.keys() - {"apiVersion", "kind", "resources", *_GENERATORS}
    assert not unknown, f"{folder}: {sorted(unknown)} is not rendered here; expected one of {sorted(_STEPS)}"
    objects: list[Object] = []
    generated: list[Object] = []
    for resource in spec.get("resources", ()):
        if (folder / resource).is_dir():
            inner, inner_generated = _build(folder / resource)
            objects += inner
            generated += inner_generated
        else:
            objects += _load(folder / resource)
    for key, make in _GENERATORS.items():
        made = [make(entry) for entry in spec.get(key, ())]
        objects += made
        generated += made
    for key, step in _STEPS.items():
        if key in spec:
            step(objects, spec[key], folder)
    return objects, generated


def _load(path: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def _literals(entry: Object) -> dict[str, str]:
    pairs = (literal.partition("=") for literal in entry["literals"])
    return {key: value for key, _, value in pairs}


def _config_map(entry: Object) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": entry["name"]}, "data": _literals(entry)}


def _secret(entry: Object) -> Object:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in _literals(entry).items()}
    metadata = {"name": entry["name"]}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data}


_GENERATORS: Final[dict[str, Callable[[Object], Object]]] = {
    "configMapGenerator": _config_map,
    "secretGenerator": _secret,
}


def _patch(objects: list[Object], patches: list[Object], folder: Path) -> None:
    for entry in patches:
        patch = yaml.safe_load(entry["patch"] if "patch" in entry else (folder / entry["path"]).read_text())
        own = {"kind": patch["kind"], "name": patch["metadata"]["name"]} if isinstance(patch, dict) else {}
        targets = [each for each in objects if _selected(each, entry.get("target", own))]
        assert targets, f"{folder}: nothing to patch with {entry}"
        for target in targets:
            if isinstance(patch, dict):
                _merge(target, {key: value for key, value in patch.items() if key == "spec"})
            else:
                _edit(target, patch)


def _selected(candidate: Object, target: Object) -> bool:
    labels = candidate["metadata"].get("labels", {})
    wanted = dict(pair.split("=") for pair in target.get("labelSelector", "").split(",") if pair)
    return (
        re.fullmatch(target.get("kind", ".*"), candidate["kind"]) is not None
        and re.fullmatch(target.get("name", ".*"), candidate["metadata"]["name"]) is not None
        and wanted.items() <= labels.items()
    )


def _merge(target: Object, patch: Object) -> None:
    """A strategic merge: dictionaries deeply, lists by their items' key; what is new stands first."""
    for key, value in patch.items():
        there = target.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            _merge(there, value)
        elif isinstance(there, list) and key in _LIST_KEYS:
            target[key] = _merged(there, value, _LIST_KEYS[key])
        else:
            target[key] = deepcopy(value)


def _merged(there: list[Object], patch: list[Object], key: str) -> list[Object]:
    old = {item[key]: item for item in there}
    result = []
    for item in patch:
        whole = old.pop(item[key], {})
        _merge(whole, item)
        result.append(whole)
    return [*result, *old.values()]


def _edit(target: Object, operations: list[Object]) -> None:
    """A JSON patch; the manifests only remove."""
    for operation in operations:
        assert operation["op"] == "remove", f"{operation} is not rendered here"
        *path, last = operation["path"].lstrip("/").split("/")
        place = target
        for part in path:
            place = place[part]
        del place[last]


def _namespace(objects: list[Object], namespace: str, _: Path) -> None:
    for each in objects:
        if each["kind"] not in _CLUSTER_WIDE:
            each["metadata"]["namespace"] = namespace


def _labels(objects: list[Object], entries: list[Object], _: Path) -> None:
    for entry in entries:
        for each in objects:
            each["metadata"].setdefault("labels", {}).update(entry["pairs"])
            if entry.get("includeTemplates") and "template" in each.get("spec", {}):
                each["spec"]["template"]["metadata"].setdefault("labels", {}).update(entry["pairs"])


def _images(objects: list[Object], images: list[Object], _: Path) -> None:
    renamed = {image["name"]: f"{image.get('newName', image['name'])}:{image['newTag']}" for image in images}
    for each in objects:
        for container in each.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            container["image"] = renamed.get(container["image"], container["image"])


def _replicas(objects: list[Object], entries: list[Object], _: Path) -> None:
    counts = {entry["name"]: entry["count"] for entry in entries}
    for each in objects:
        if "replicas" in each.get("spec", {}) and each["metadata"]["name"] in counts:
            each["spec"]["replicas"] = counts[each["metadata"]["name"]]


# In the order in which kustomize takes them.
_STEPS: Final[dict[str, Callable[[list[Object], Any, Path], None]]] = {
    "patches": _patch,
    "namespace": _namespace,
    "labels": _labels,
    "images": _images,
    "replicas": _replicas,
}


def _hashed(made: Object) -> str:
    """Kustomize's name for generated content: ten letters of its SHA-256, no two of which look alike, no vowels."""
    content = {key: made[key] for key in ("kind", "data", "type") if key in made} | {"name": ""}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{made['metadata']['name']}-{digest.translate(str.maketrans('013ae', 'ghkmt'))}"


def _rename_references(each: Any, names: dict[tuple[str, str], str]) -> None:
    for key, kind in (("configMapRef", "ConfigMap"), ("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        for reference in _find(each, key):
            reference["name"] = names.get((kind, reference["name"]), reference["name"])


def _find(node: Any, key: str) -> Iterator[Object]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            else:
                yield from _find(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _find(value, key)
