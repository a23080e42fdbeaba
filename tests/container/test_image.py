"""What is in the image, and what is not."""

from __future__ import annotations

import json
import re
from typing import Any

from container.engine import IMAGE, LOCKED, NO_NETWORK, STATE, Host, podman
from support.source_tree import ROOT

SIZE_MAX = 150_000_000
USER = "10001"
PROGRAMS = ("tp-dealer", "tp-generator", "tp-worker")


def image() -> dict[str, Any]:
    return json.loads(podman("image", "inspect", IMAGE).stdout)[0]  # type: ignore[no-any-return]


def shell(script: str) -> str:
    """What a shell in a locked container prints."""
    return podman("run", "--rm", *LOCKED, NO_NETWORK, "--entrypoint", "sh", IMAGE, "-ec", script).stdout


def test_configuration(host: Host) -> None:
    found = image()
    config = found["Config"]
    assert config["User"] == f"{USER}:{USER}", "a number: Kubernetes' runAsNonRoot does not know names"
    assert config["Entrypoint"] == ["tp-dealer"]
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["Volumes"]) == [STATE]
    assert list(config["ExposedPorts"]) == ["9743/tcp"]
    assert found["Healthcheck"]["Test"] == ["CMD", "tp-dealer", "--health"], "built without --format docker"
    assert "TP_DEALER_METRICS=0.0.0.0:9743" in config["Env"]
    assert found["Size"] < SIZE_MAX


def test_labels_say_what_it_is(host: Host) -> None:
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in image()["Labels"].items()}
    assert labels["title"] == "taskpool"
    assert labels["licenses"] == "Apache-2.0"
    said = podman("run", "--rm", NO_NETWORK, IMAGE, "--version").stdout
    assert said == f"tp-dealer {labels['version']}\n"
    assert len(labels["revision"]) in (40, len("unknown"))
    assert labels["created"].endswith("Z")


def test_programs_on_path_papers_beside_them(host: Host) -> None:
    assert shell("id -u; id -g; pwd").split() == [USER, USER, STATE]
    for program in PROGRAMS:
        assert shell(f"readlink -f $(command -v {program})") == f"/opt/taskpool/{program}\n"
    bill = json.loads(shell("cat /opt/taskpool/sbom.cdx.json"))
    assert bill["bomFormat"] == "CycloneDX"
    assert "msgspec" in {part["name"] for part in bill["components"]}
    assert "msgspec" in shell("cat /opt/taskpool/THIRD-PARTY.txt")
    assert shell("cat /opt/taskpool/LICENSE") == (ROOT / "LICENSE").read_text()


def test_nothing_is_writable_but_the_state(host: Host) -> None:
    """Even where --read-only is forgotten: no program or library can be replaced by what runs in it."""
    find = "find / -xdev -not -type l -writable 2>/dev/null || true"
    found = podman("run", "--rm", NO_NETWORK, "--entrypoint", "sh", IMAGE, "-c", find).stdout.split()
    kernel_and_tmp = re.compile(r"/(proc|dev|sys|tmp|var/tmp|run/lock)(/|$)")
    assert [path for path in found if not kernel_and_tmp.match(path)] == [STATE]


def test_no_trace_of_the_builders_network(host: Host) -> None:
    """Mirrors, proxies, certificates and package indexes of the host came as secrets and went with them."""
    places = "/run/secrets /etc/pip.conf /etc/xdg/pip /etc/apt/apt.conf /etc/apt/sources.list"
    assert shell(f"ls -A {places} 2>/dev/null || true") == ""
    assert shell("grep -rlI -e 'BEGIN CERTIFICATE' -e _proxy= /etc /opt /usr/local || true") == ""
    assert "://" not in podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE).stdout
    assert not [name for name in image()["Config"]["Env"] if "PIP_" in name or "_proxy" in name.lower()]


def test_it_keeps_its_promise(host: Host) -> None:
    """With nothing writable but the state, and as process 1, which orphans come to."""
    words = ("--entrypoint", "tp-generator", IMAGE, "selftest", "--rounds", "3", "--json")
    told = json.loads(podman("run", "--rm", *LOCKED, NO_NETWORK, *words).stdout)
    assert told["verdict"] == "passed"
