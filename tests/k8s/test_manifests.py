"""What would be applied is valid by Kubernetes' own schemas, and keeps the rules that no schema knows."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import jsonschema
import pytest
import yaml

from services.config import Settings, load_settings
from tests.k8s.kustomize import Object
from tests.k8s.manifests import FOLDERS, ROOT, WORKLOADS, Manifests, container, module, pod, quantity
from tests.k8s.vendor_schema import SCHEMA

POOLS = {"gateway": "edge", "context-store": "memory", "compressor": "batch", "inference": "gpu"}
POOL_LABEL = "isthmus.dev/pool"
DRAIN_MARGIN_MS = 5_000

both = pytest.mark.parametrize("name", FOLDERS)


def workloads(manifests: Manifests) -> Iterator[tuple[str, Object]]:
    yield from manifests.of(*WORKLOADS).items()


def environment(manifests: Manifests, workload: Object) -> dict[str, str]:
    """The plain values that a container sees; what is filled in by the cluster is left out."""
    maps = manifests.of("ConfigMap")
    values: dict[str, str] = {}
    for source in container(workload).get("envFrom", ()):
        values |= maps[source["configMapRef"]["name"]]["data"]
    own = container(workload).get("env", ())
    return values | {variable["name"]: variable["value"] for variable in own if "value" in variable}


@both
def test_every_object_is_valid_by_kubernetes_own_schema(name: str) -> None:
    schema = json.loads(SCHEMA.read_text())
    for each in Manifests(name).objects:
        kind = schema["kinds"][f"{each['apiVersion']}/{each['kind']}"]
        validator = jsonschema.Draft7Validator({"$ref": f"#/$defs/{kind}", "$defs": schema["$defs"]})
        faults = [f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(each)]
        assert not faults, f"{each['kind']} {each['metadata']['name']}"


def test_the_schema_refuses_what_kubernetes_would() -> None:
    schema = json.loads(SCHEMA.read_text())
    broken = Manifests("base").of("Deployment")["gateway"]
    container(broken)["livenesProbe"] = container(broken).pop("livenessProbe")
    validator = jsonschema.Draft7Validator(
        {"$ref": f"#/$defs/{schema['kinds']['apps/v1/Deployment']}", "$defs": schema["$defs"]}
    )

    (fault,) = validator.iter_errors(broken)
    assert "livenesProbe" in fault.message


@both
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="compares with kubectl's own rendering, where it is there")
def test_kubectl_renders_the_same(name: str) -> None:
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(FOLDERS[name])], capture_output=True, check=True, text=True, timeout=60
    ).stdout

    def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
        return {(each["kind"], each["metadata"]["name"]): each for each in objects}

    assert by_name(Manifests(name).objects) == by_name(list(yaml.safe_load_all(rendered)))


@both
def test_every_room_has_a_workload_that_runs_it(name: str) -> None:
    rooms = Manifests(name).rooms

    assert {name: module(each) for name, each in rooms.items()} == {pool: pool.replace("-", "_") for pool in POOLS}
    for each in rooms.values():
        assert importlib.util.find_spec(f"{module(each)}.__main__")
        assert container(each)["args"][:4] == ["--member", "$(POD_NAME)", "--listen", "$(POD_IP):8081"]
        names = {variable["name"] for variable in container(each)["env"]}
        assert {"POD_NAME", "POD_IP"} <= names


@both
def test_every_workload_has_probes_requests_and_limits(name: str) -> None:
    for workload, each in workloads(Manifests(name)):
        room = container(each)
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= room.keys(), workload
        for resource in ("cpu", "memory"):
            asked, allowed = (room["resources"][part][resource] for part in ("requests", "limits"))
            assert 0 < quantity(asked) <= quantity(allowed), f"{workload}: {resource}"


@both
def test_rooms_are_probed_by_grpc_health_where_they_listen(name: str) -> None:
    for each in Manifests(name).rooms.values():
        room = container(each)
        (grpc_port,) = [port["containerPort"] for port in room["ports"] if port["name"] == "grpc"]
        assert f"$(POD_IP):{grpc_port}" in room["args"]
        assert {room[probe]["grpc"]["port"] for probe in room if probe.endswith("Probe")} == {grpc_port}


def test_each_room_has_a_node_pool_by_label_and_taint() -> None:
    for name, each in Manifests("base").rooms.items():
        assert pod(each)["nodeSelector"] == {POOL_LABEL: POOLS[name]}
        assert {"key": POOL_LABEL, "value": POOLS[name], "effect": "NoSchedule"} in pod(each)["tolerations"]


def test_the_development_overlay_runs_anywhere_on_its_own() -> None:
    manifests = Manifests("dev")
    own = set(manifests.of("Namespace"))
    for each in manifests.objects:
        assert each["kind"] == "Namespace" or {each["metadata"]["namespace"]} == own
    for _, each in workloads(manifests):
        assert "nodeSelector" not in pod(each)
        assert each["spec"]["replicas"] == 1
        assert re.search(r":[\w.]+$", container(each)["image"])


def test_the_gpu_overlay_gives_each_replica_a_gpu_and_vllm() -> None:
    manifests = Manifests("gpu")
    replica = manifests.rooms["inference"]
    room = container(replica)
    assert {room["resources"][part]["nvidia.com/gpu"] for part in ("requests", "limits")} == {"1"}
    assert environment(manifests, replica)["ISTHMUS_INFERENCE__ENGINE"] == "vllm"
    assert pod(replica)["nodeSelector"] == {POOL_LABEL: "gpu"}
    mounts = {mount["name"]: mount["mountPath"] for mount in room["volumeMounts"]}
    assert mounts.items() >= {"shm": "/dev/shm", "cache": "/var/cache/isthmus", "tmp": "/tmp"}.items()
    assert environment(manifests, replica)["HF_HOME"].startswith(mounts["cache"])
    probe = room["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] * 1_000 >= Settings().vllm.start_ms_max


@both
def test_what_is_referred_to_exists(name: str) -> None:
    manifests = Manifests(name)
    # The base leaves it to overlays to say where Valkey is.
    secrets = set(manifests.of("Secret")) or {"isthmus-valkey"}
    for workload, each in workloads(manifests):
        room = container(each)
        for source in room.get("envFrom", ()):
            assert source["configMapRef"]["name"] in manifests.of("ConfigMap"), workload
        for variable in room.get("env", ()):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                assert variable["valueFrom"]["secretKeyRef"]["name"] in secrets, workload
        claims = [claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())]
        volumes = {volume["name"] for volume in pod(each).get("volumes", ())} | set(claims)
        assert {mount["name"] for mount in room["volumeMounts"]} == volumes, workload


@both
def test_services_and_budgets_find_their_pods_and_ports(name: str) -> None:
    manifests = Manifests(name)
    found = dict(workloads(manifests))
    services, budgets = manifests.of("Service"), manifests.of("PodDisruptionBudget")
    assert services.keys() == found.keys()
    assert budgets.keys() == manifests.rooms.keys()
    for workload, each in found.items():
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert services[workload]["spec"]["selector"].items() <= labels.items()
        ports = {port["name"]: port["containerPort"] for port in container(each)["ports"]}
        for port in services[workload]["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]]
        if each["kind"] == "StatefulSet":
            assert services[each["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"
        if workload in budgets:
            assert budgets[workload]["spec"]["selector"]["matchLabels"].items() <= labels.items()


@both
def test_settings_are_ones_that_the_rooms_know(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = Manifests(name)
    for each in manifests.rooms.values():
        with monkeypatch.context() as patched:
            for variable, value in environment(manifests, each).items():
                patched.setenv(variable, value)
            assert isinstance(load_settings(), Settings)


@both
def test_a_pod_has_the_time_that_its_drain_may_take(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = Manifests(name)
    for each in manifests.rooms.values():
        with monkeypatch.context() as patched:
            for variable, value in environment(manifests, each).items():
                patched.setenv(variable, value)
            drain_ms = load_settings().rpc.drain_ms_max
        pause_ms = container(each)["lifecycle"]["preStop"]["sleep"]["seconds"] * 1_000
        assert pod(each)["terminationGracePeriodSeconds"] * 1_000 >= pause_ms + drain_ms + DRAIN_MARGIN_MS


@both
def test_pods_run_without_privileges(name: str) -> None:
    for workload, each in workloads(Manifests(name)):
        assert pod(each)["securityContext"]["runAsNonRoot"], workload
        assert pod(each)["automountServiceAccountToken"] is False
        assert container(each)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_image_is_built_from_what_is_there_and_runs_as_the_pods_do() -> None:
    lines = (ROOT / "k8s" / "images" / "isthmus.Containerfile").read_text().splitlines()
    copies = [line.split()[1:] for line in lines if line.startswith("COPY") and "--from" not in line]
    sources = {source for *copied, _ in copies for source in copied}
    (user,) = [line.split()[1] for line in lines if line.startswith("USER")]
    pods = [pod(each) for each in Manifests("base").rooms.values()]

    assert all((ROOT / source).exists() for source in sources)
    assert {module(each) for each in Manifests("base").rooms.values()} | {"services", "protos"} <= sources
    for each in pods:
        assert user == f"{each['securityContext']['runAsUser']}:{each['securityContext']['runAsGroup']}"
