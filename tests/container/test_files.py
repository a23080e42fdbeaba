"""The files for containers, read without an engine: they are valid, and agree with each other and the programs."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.source_tree import ROOT, complain
from taskpool import limits
from taskpool.clock import SECOND

CONTAINER = ROOT / "deploy" / "container"
KUBERNETES = ROOT / "deploy" / "kubernetes"
BUILT_IN = ("state.yaml", "deployment.yaml", "job.yaml")  # what the schemas of Kubernetes itself cover
YAML_RULES = (
    "{extends: default, rules: {line-length: {max: 120}, document-start: disable, comments-indentation: disable}}"
)
PORT = 9743
STATE = "/var/lib/taskpool"
DRAIN_SECONDS = limits.DRAIN_TIMEOUT_NS // SECOND

sys.path.insert(0, str(CONTAINER))
import settings  # noqa: E402

sys.path.pop(0)


def tool(name: str) -> str:
    """A checker of the development environment, beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not in this environment: make setup")
    return str(path)


def check(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())  # type: ignore[no-any-return]


def pod_specs() -> dict[str, dict[str, Any]]:
    return {
        "pod.yaml": load(CONTAINER / "pod.yaml")["spec"],
        "deployment.yaml": load(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"],
        "job.yaml": load(KUBERNETES / "job.yaml")["spec"]["template"]["spec"],
    }


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.slow
def test_containerfile_is_clean() -> None:
    check(tool("hadolint"), ROOT / "Containerfile")


@pytest.mark.slow
def test_yaml_is_clean() -> None:
    check(tool("yamllint"), "--strict", "-d", YAML_RULES, CONTAINER, KUBERNETES)


@pytest.mark.slow
def test_kubernetes_accepts_the_manifests() -> None:
    files = [*(KUBERNETES / name for name in BUILT_IN), CONTAINER / "pod.yaml"]
    check(tool("kubernetes-validate"), "--strict", *files)


def test_every_manifest_is_checked() -> None:
    known = {*BUILT_IN, "podmonitor.yaml", "kustomization.yaml"}
    assert {path.name for path in KUBERNETES.glob("*.yaml")} == known
    named = load(KUBERNETES / "kustomization.yaml")["resources"]
    complain([f"kustomization.yaml: {name} does not exist" for name in named if not (KUBERNETES / name).exists()])


def test_containers_are_locked() -> None:
    offences = []
    for name, spec in pod_specs().items():
        if not spec["securityContext"]["runAsNonRoot"] or spec["securityContext"]["runAsUser"] != 10001:
            offences.append(f"{name}: runs as another user than the image's")
        for container in containers(spec):
            context = container["securityContext"]
            locked = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            if context != locked:
                offences.append(f"{name}: {container['name']}: {context}")
            if [mount["mountPath"] for mount in container["volumeMounts"]] != [STATE]:
                offences.append(f"{name}: {container['name']}: the state volume, and no other, at {STATE}")
    complain(offences)


def test_the_grace_is_longer_than_the_drain() -> None:
    offences = []
    for name, spec in pod_specs().items():
        grace = spec["terminationGracePeriodSeconds"]
        arguments = " ".join(containers(spec)[0]["args"])
        said = re.search(r"--drain-timeout (\d+)s", arguments)
        drain = int(said[1]) if said else DRAIN_SECONDS
        if grace <= drain:
            offences.append(f"{name}: {grace} s for a drain of {drain} s")
    compose = load(CONTAINER / "compose.yaml")["services"]["dealer"]["stop_grace_period"]
    if int(compose.removesuffix("s")) <= DRAIN_SECONDS:
        offences.append(f"compose.yaml: {compose}")
    if int(quadlet("taskpool-dealer.container")["Container"]["StopTimeout"]) <= DRAIN_SECONDS:
        offences.append("taskpool-dealer.container: StopTimeout")
    complain(offences)


@pytest.mark.parametrize("name", ["deployment.yaml", "job.yaml"])
def test_probes_ask_pages_that_exist(name: str) -> None:
    dealer = containers(pod_specs()[name])[0]
    (port,) = dealer["ports"]
    assert port == {"name": "metrics", "containerPort": PORT}
    served = (ROOT / "internal/taskpool/metrics/app.py").read_text()
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe in dealer:
            asked = dealer[probe]["httpGet"]
            assert asked["port"] == "metrics"
            assert f'"{asked["path"]}"' in served
    assert dealer["livenessProbe"]["httpGet"]["path"] == "/-/healthy", "a dealer that drains is alive"


def test_the_pod_monitor_finds_the_pods() -> None:
    monitor = load(KUBERNETES / "podmonitor.yaml")["spec"]
    template = load(KUBERNETES / "deployment.yaml")["spec"]["template"]
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    assert endpoint["port"] in ports
    assert f'"{endpoint["path"]}"' in (ROOT / "internal/taskpool/metrics/app.py").read_text()


def test_nobody_shares_the_dealers_ipc_namespace() -> None:
    """It ends with the dealer, and what shares it is left behind."""
    services = load(CONTAINER / "compose.yaml")["services"]
    assert {name: service["ipc"] for name, service in services.items()} == {
        "ipc": "shareable",
        "dealer": "service:ipc",
        "generator": "service:ipc",
    }
    for path in (CONTAINER / "quadlet").glob("*.container"):
        assert quadlet(path.name)["Container"]["Pod"] == "taskpool.pod"


def quadlet(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(CONTAINER / "quadlet" / name)
    return parser


# What podman-systemd.unit(5) of podman 5.0 lists, as far as it is used here.
QUADLET_KEYS = {
    "Pod": {"PodName", "PublishPort", "PodmanArgs"},
    "Volume": {"VolumeName"},
    "Container": {"ContainerName", "Image", "Pod", "Exec", "Entrypoint", "Volume", "ReadOnly", "DropCapability"}
    | {"NoNewPrivileges", "StopTimeout", "HealthCmd", "HealthInterval", "HealthStartPeriod", "Notify", "Ulimit"},
}


def test_quadlet_keys_exist() -> None:
    offences = []
    for path in (CONTAINER / "quadlet").iterdir():
        for section, keys in QUADLET_KEYS.items():
            parser = quadlet(path.name)
            if parser.has_section(section):
                offences += [f"{path.name}: [{section}] {key}" for key in set(parser[section]) - keys]
    complain(offences)


def test_development_container_uses_a_stage_that_exists() -> None:
    path = ROOT / ".devcontainer" / "devcontainer.json"
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("//")]
    build = json.loads("\n".join(lines))["build"]
    stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert build["target"] in stages
    assert (path.parent / build["dockerfile"]).resolve() == ROOT / "Containerfile"


def test_docker_ignores_the_same_files() -> None:
    assert (ROOT / ".dockerignore").resolve() == ROOT / ".containerignore"


# --- what a build is told of the host ------------------------------------------------------------------------------


def test_pip_settings_of_the_host() -> None:
    config = "\n".join(
        [
            "global.index-url='https://index.example/simple'",
            "global.extra-index-url='file:///opt/wheels https://more.example/simple'",
            "global.find-links='/opt/wheels'",
            "global.constraint='/etc/constraints.txt'",
            "freeze.timeout='5'",
            ":env:.index-url='https://other.example/simple'",
            ":env:.cert='/etc/ssl/certs/ca-certificates.crt'",
        ]
    )
    assert settings.pip_settings(config, has_certificates=True).splitlines() == [
        "[global]",
        "cert = /run/secrets/ca-certificates",
        "extra-index-url = https://more.example/simple",
        "index-url = https://other.example/simple",
    ]


def test_a_host_without_settings_has_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_said", lambda *command: "")
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    assert settings.write_secrets(tmp_path, sources=False) == {}


def test_secrets_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        settings, "_said", lambda *command: "bookworm|Debian|http://mirror.example/debian/|bookworm|main\n"
    )
    monkeypatch.setattr(settings, "_pip_config", lambda: "")
    found = settings.write_secrets(tmp_path, sources=True)
    assert {path.stat().st_mode & 0o777 for path in found.values()} == {0o600}
    assert found["apt-sources"].read_text() == "deb http://mirror.example/debian/ bookworm main\n"
    assert "apt-sources" in found["apt-conf"].read_text()
