"""The manifests for KubeRay, built as by `kubectl apply -k`, validated against KubeRay's schema of a RayService."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from ray.serve.schema import ServeDeploySchema

from cli.environment import RAY_ENVIRONMENT
from configs.kuberay.write_manifests import HERE, files
from graphs.ingress import Ingress
from pipeline.settings import PROJECT_ROOT, ServiceSettings
from testing.debian import ensure

SCHEMA = PROJECT_ROOT / "tests" / "data" / "kuberay_rayservice_crd.yaml"
OVERLAYS = sorted(path.name for path in (HERE / "overlays").iterdir())
TAGS = {"cpu": "cpu", "gpu": "cuda"}
OPERATORS_SECRETS = {"ai-pipeline-storage", "ai-pipeline-redis", "ai-pipeline-dashboard"}  # base/kustomization.yaml
Resource = dict[str, Any]

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def find_kubectl() -> str | None:
    """Return a `kubectl` with Kustomize 5; older ones lack features that the manifests use."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return None
    output = subprocess.run([kubectl, "version", "--client", "-o", "json"], capture_output=True, text=True).stdout
    version = json.loads(output or "{}").get("kustomizeVersion", "v0")
    return kubectl if int(re.match(r"v(\d+)", version)[1]) >= 5 else None


@cache
def built(overlay: str) -> tuple[Resource, ...]:
    kubectl = ensure("kubernetes-client", find_kubectl)
    folder = HERE / "overlays" / overlay
    text = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True).stdout
    return tuple(yaml.load_all(text, yaml.CSafeLoader))


@cache
def schema() -> Resource:
    """Return KubeRay's schema, strict: an API server drops unknown fields silently."""
    definition = yaml.load(SCHEMA.read_text(), yaml.CSafeLoader)
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    return closed(version["schema"]["openAPIV3Schema"])


def closed(shape: Any) -> Any:
    """Forbid additional properties, unless the schema preserves unknown fields."""
    if isinstance(shape, list):
        return [closed(one) for one in shape]
    if not isinstance(shape, dict):
        return shape
    shape = {name: closed(below) for name, below in shape.items()}
    if isinstance(shape.get("properties"), dict) and not shape.get("x-kubernetes-preserve-unknown-fields"):
        shape.setdefault("additionalProperties", False)
    return shape


def of_kind(overlay: str, kind: str) -> list[Resource]:
    return [deepcopy(resource) for resource in built(overlay) if resource["kind"] == kind]


def ray_service(overlay: str) -> Resource:
    (service,) = of_kind(overlay, "RayService")
    return service


def cluster(overlay: str) -> Resource:
    return ray_service(overlay)["spec"]["rayClusterConfig"]


def serve_config(overlay: str) -> Resource:
    return yaml.safe_load(ray_service(overlay)["spec"]["serveConfigV2"])


def groups(overlay: str) -> list[Resource]:
    return [cluster(overlay)["headGroupSpec"], *cluster(overlay)["workerGroupSpecs"]]


def pod_specs(overlay: str) -> list[Resource]:
    owners = [*groups(overlay), *(r["spec"] for r in built(overlay) if r["kind"] in ("Deployment", "StatefulSet"))]
    return [owner["template"]["spec"] for owner in owners]


def containers(overlay: str) -> list[Resource]:
    return [c for pod in pod_specs(overlay) for c in (*pod.get("initContainers", ()), *pod["containers"])]


def found(tree: Any, name: str) -> Iterator[Any]:
    """Yield every value of this name at any depth."""
    if isinstance(tree, list):
        for one in tree:
            yield from found(one, name)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if key == name:
                yield value
            yield from found(value, name)


def validate(resource: Resource) -> None:
    Draft202012Validator(schema()).validate(resource)


def test_generated_files_are_up_to_date(overlay):
    for path, content in files().items():
        assert path.read_text() == content, "Run `python -m configs.kuberay.write_manifests` and commit what it writes."


def test_the_service_is_valid_against_the_schema(overlay):
    validate(ray_service(overlay))


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("spec",), "upgradeStrategie"),
        (("spec", "rayClusterConfig"), "authOption"),
        (("spec", "rayClusterConfig", "gcsFaultToleranceOptions"), "redisAdress"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0), "maxReplica"),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0), "readynessProbe"),
    ],
)
def test_a_misspelt_field_is_refused(overlay, place, wrong):
    service = ray_service(overlay)
    below: Any = service
    for step in place:
        below = below[step]
    below[wrong] = {}
    with pytest.raises(ValidationError, match=wrong):
        validate(service)


def test_the_other_pods_are_valid_against_the_schema(overlay):
    of_head = schema()["properties"]["spec"]["properties"]["rayClusterConfig"]["properties"]["headGroupSpec"]
    pods = Draft202012Validator(of_head["properties"]["template"])
    owners = [r for r in built(overlay) if r["kind"] in ("Deployment", "StatefulSet")]
    assert len(owners) == 2
    for owner in owners:
        pods.validate(owner["spec"]["template"])


def test_the_configurations_of_serve_and_the_service_are_valid(overlay):
    config = ServeDeploySchema.model_validate(serve_config(overlay))
    settings = ServiceSettings.model_validate(config.applications[0].args)
    assert (settings.accelerator, settings.keys, settings.log_format) == (TAGS[overlay], "required", "json")
    assert settings.load_profile().name == settings.profile
    assert config.http_options.port == 8000


def test_there_are_gpus_for_the_maximum_of_replicas(overlay):
    (application,) = serve_config(overlay)["applications"]
    settings = ServiceSettings.model_validate(application["args"])
    maxima = {d["name"]: d.get("autoscaling_config", {}).get("max_replicas", 1) for d in application["deployments"]}
    wanted = sum(maxima[name] * share for name, share in settings.num_gpus.items())
    cards = [
        int(group["minReplicas"]) * int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        for group in cluster(overlay)["workerGroupSpecs"]
        for container in group["template"]["spec"]["containers"]
    ]
    assert (sum(cards) > 0) == (settings.accelerator == "cuda")
    if settings.accelerator == "cuda":
        assert wanted <= sum(cards) + 1e-9


def test_requests_are_within_limits_and_ingress_replicas_fit_on_the_nodes(overlay):
    for container in containers(overlay):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests.keys() <= limits.keys()
        assert all(amount(requests[name]) <= amount(limits[name]) for name in requests)
    nodes = sum(group["minReplicas"] for group in cluster(overlay)["workerGroupSpecs"])
    (ingress,) = (d for d in serve_config(overlay)["applications"][0]["deployments"] if d["name"] == Ingress.name)
    assert ingress["max_replicas_per_node"] * nodes >= ingress["num_replicas"] >= 2
    head, *workers = groups(overlay)
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert all(worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"] for worker in workers)


def amount(quantity: str) -> float:
    """Return a Kubernetes quantity as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)(\D*)", quantity).groups()
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def test_pods_have_minimal_privileges(overlay):
    for pod in pod_specs(overlay):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"] for volume in pod.get("volumes", ())} | {"data"}  # a StatefulSet's claim
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    contexts = [c["securityContext"] for c in containers(overlay)]
    for context in [*contexts, cluster(overlay)["autoscalerOptions"]["securityContext"]]:
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_every_container_has_readiness_and_liveness_probes(overlay):
    for pod in pod_specs(overlay):
        for container in pod["containers"]:
            offered = {port["name"] for port in container["ports"]} | {52365}  # Ray's agent
            probes = container["readinessProbe"], container["livenessProbe"]
            assert all({"httpGet", "tcpSocket", "exec"} & probe.keys() for probe in probes)
            assert set(found(list(probes), "port")) <= offered


def test_referenced_config_maps_exist_and_secrets_are_documented(overlay):
    resources = list(built(overlay))
    maps = {resource["metadata"]["name"] for resource in of_kind(overlay, "ConfigMap")}
    assert {ref["name"] for ref in found(resources, "configMapRef")} <= maps
    secrets = [ref["name"] for kind in ("secretRef", "secretKeyRef") for ref in found(resources, kind)]
    assert set(secrets) == OPERATORS_SECRETS
    assert not of_kind(overlay, "Secret")
    documentation = (HERE / "base" / "kustomization.yaml").read_text()
    assert all(secret in documentation for secret in OPERATORS_SECRETS)


def test_no_file_contains_credentials(overlay):
    storage = serve_config(overlay)["applications"][0]["args"].get("storage", {})
    assert not storage, "where things are kept is the Secret's to say"
    settings = [line for line in (HERE / "storage.env.example").read_text().splitlines() if not line.startswith("#")]
    example = dict(line.split("=", 1) for line in settings)
    assert {"PIPELINE_DATABASE", "PIPELINE_BLOBS"} <= example.keys()
    assert not [name for name, value in example.items() if value and re.search("PASSWORD|SECRET|KEY|TOKEN", name)]


def test_all_containers_have_the_same_image_and_ray_version(overlay):
    images = {container["image"] for container in containers(overlay) if container["name"] != "redis"}
    assert images == {f"ai-pipeline:{TAGS[overlay]}"}
    (ray,) = re.findall(r"^ray==(\S+)", (PROJECT_ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert cluster(overlay)["rayVersion"] == ray


def test_every_ray_node_has_the_launcher_s_environment(overlay):
    (environment,) = (m for m in of_kind(overlay, "ConfigMap") if m["metadata"]["name"].startswith("ai-pipeline-ray"))
    assert environment["data"]["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert {name for name in RAY_ENVIRONMENT if name not in environment["data"]} == {"RAY_AUTH_MODE"}
    assert cluster(overlay)["authOptions"]["mode"] == RAY_ENVIRONMENT["RAY_AUTH_MODE"]
    for group in groups(overlay):
        (container,) = group["template"]["spec"]["containers"]
        named = [ref["name"] for kind in ("configMapRef", "secretRef") for ref in found(container["envFrom"], kind)]
        assert named == [environment["metadata"]["name"], "ai-pipeline-storage"]


def test_selectors_and_scraped_ports_match_pods(overlay):
    labels = [
        {"ray.io/node-type": "head", **groups(overlay)[0]["template"]["metadata"]["labels"]},
        *(
            {"ray.io/node-type": "worker", "ray.io/group": g["groupName"], **g["template"]["metadata"]["labels"]}
            for g in cluster(overlay)["workerGroupSpecs"]
        ),
        *(r["spec"]["template"]["metadata"]["labels"] for r in built(overlay) if "replicas" in r.get("spec", {})),
    ]
    selectors = [
        *found(list(built(overlay)), "matchLabels"),
        *(s["spec"]["selector"] for s in of_kind(overlay, "Service")),
    ]
    for selector in selectors:
        assert any(selector.items() <= label.items() for label in labels), selector
    ports = {port["name"] for container in containers(overlay) for port in container.get("ports", ())}
    scraped = {
        point["port"] for monitor in of_kind(overlay, "PodMonitor") for point in monitor["spec"]["podMetricsEndpoints"]
    }
    assert {"metrics", "serve"} <= scraped <= ports
