"""Shorthands for the objects that a kustomization makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tests.k8s.kustomize import Object, build

ROOT: Final = Path(__file__).parents[2]
OVERLAYS: Final = ROOT / "k8s" / "overlays"
FOLDERS: Final = {"base": ROOT / "k8s" / "base", "dev": OVERLAYS / "dev", "gpu": OVERLAYS / "gpu"}
WORKLOADS: Final = ("Deployment", "StatefulSet")


class Manifests:
    """The objects of `base` or of an overlay."""

    def __init__(self, name: str) -> None:
        self.folder = FOLDERS[name]
        self.objects = build(self.folder)

    def of(self, *kinds: str) -> dict[str, Object]:
        """Objects of these kinds by name."""
        return {each["metadata"]["name"]: each for each in self.objects if each["kind"] in kinds}

    @property
    def rooms(self) -> dict[str, Object]:
        """The workloads that run a room, by name."""
        return {name: each for name, each in self.of(*WORKLOADS).items() if module(each)}


def pod(workload: Object) -> Any:
    """The spec of a workload's pods."""
    return workload["spec"]["template"]["spec"]


def container(workload: Object) -> Any:
    """The one container of a workload's pods."""
    (only,) = pod(workload)["containers"]
    return only


def module(workload: Object) -> str:
    """The Python module that a workload runs; empty for one that runs something else."""
    command = container(workload).get("command", [])
    return command[-1] if command[-2:-1] == ["-m"] else ""


def quantity(text: str) -> float:
    """A Kubernetes quantity in cores or bytes."""
    for suffix, factor in {"Gi": 2**30, "Mi": 2**20, "Ki": 2**10, "m": 1e-3}.items():
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)
