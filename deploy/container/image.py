"""Build the container image with podman or docker, and for places without a registry its base image too.

    make image                                         on debian:12-slim, or on what make base-image has made
    make image BASE_IMAGE=registry.example/debian      on another Debian 12
    make base-image                                    Debian 12 by debootstrap, from the mirror this host uses

CONTAINER_ENGINE chooses between podman and docker. The engines' own variables work as ever: BUILDAH_ISOLATION=chroot
where containers may not make namespaces, CONTAINERS_CONF for a runtime other than the default.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "pyinstaller"))

import archive  # noqa: E402
import settings  # noqa: E402

IMAGE = "localhost/taskpool"
OWN_BASE = f"localhost/taskpool-base:{settings.DEBIAN}"
# What Debian's slim images leave out; licences stay, because their packages are passed on.
NOT_KEPT: tuple[str, ...] = (
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/groff",
    "usr/share/lintian",
)
NOT_KEPT += ("var/cache/apt", "var/lib/apt/lists", "var/cache/debconf", "var/log", "etc/apt/sources.list")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("image", "base"))
    what = parser.parse_args().what
    try:
        engine = find_engine()
        if what == "base":
            make_base(engine)
        else:
            build(engine)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"image: exit status {error.returncode} of {' '.join(map(str, error.cmd))}\n")
        return 1
    return 0


def find_engine() -> str:
    """podman, else a docker that has an engine behind it, unless CONTAINER_ENGINE says which."""
    if named := os.environ.get("CONTAINER_ENGINE"):
        return named
    if shutil.which("podman"):
        return "podman"
    if shutil.which("docker") and _works("docker", "info"):
        return "docker"
    raise SystemExit("image: neither podman nor a running docker here. Try: apt-get install podman")


def build(engine: str) -> None:
    """Build IMAGE:latest and IMAGE:<version>."""
    version = _version()
    base = os.environ.get("BASE_IMAGE") or (OWN_BASE if _works(engine, "image", "inspect", OWN_BASE) else "")
    sys.stderr.write(f"image: {IMAGE}:{version} on {base or 'the base image of the Containerfile'}, with {engine}\n")
    arguments = {"VERSION": version, **_origin()}
    if base:
        arguments["BASE_IMAGE"] = base
    command = [engine, "build", "--file", "Containerfile", "--tag", f"{IMAGE}:latest", "--tag", f"{IMAGE}:{version}"]
    if engine == "podman":
        command += ["--format", "docker"]  # else there is no HEALTHCHECK
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    command += [f"--build-arg={name}" for name in settings.PROXIES if name in os.environ]
    with tempfile.TemporaryDirectory(prefix="taskpool-image-") as secrets:
        found = settings.write_secrets(Path(secrets), sources=base == OWN_BASE)
        command += [f"--secret=id={name},src={path}" for name, path in found.items()]
        subprocess.run([*command, "."], cwd=ROOT, env=os.environ | {"DOCKER_BUILDKIT": "1"}, check=True)


def make_base(engine: str) -> None:
    """Make OWN_BASE: as debian:12-slim, but without package mirrors."""
    if shutil.which("debootstrap") is None:
        raise SystemExit("base-image: debootstrap not found. Try: apt-get install debootstrap")
    if os.geteuid() != 0:
        raise SystemExit("base-image: debootstrap makes a root file system, as root. Try: sudo make base-image")
    mirrors = [where for where, suite, part in settings.debian_mirrors() if (suite, part) == (settings.DEBIAN, "main")]
    if not mirrors:
        raise SystemExit(f"base-image: apt knows no mirror of Debian {settings.DEBIAN} here. Try: apt-get update")
    with tempfile.TemporaryDirectory(prefix="taskpool-base-", dir=os.environ.get("TMPDIR", "/var/tmp")) as place:
        root = Path(place, "root")
        subprocess.run(["debootstrap", "--variant=minbase", settings.DEBIAN, root, mirrors[0]], check=True)
        _slim(root)
        with subprocess.Popen(["tar", "-C", root, "--numeric-owner", "-c", "."], stdout=subprocess.PIPE) as packed:
            subprocess.run([engine, "import", "--change", "CMD bash", "-", OWN_BASE], stdin=packed.stdout, check=True)
        if packed.returncode != 0:
            raise SystemExit(f"base-image: exit status {packed.returncode} of tar")


def _slim(root: Path) -> None:
    for name in NOT_KEPT:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
        else:
            path.unlink(missing_ok=True)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    for file in (root / "usr/share/doc").rglob("*"):
        if file.is_file() and file.name != "copyright":
            file.unlink()


def _origin() -> dict[str, str]:
    """Of which commit, and of what time, everything in the image says it is."""
    stamp = archive.epoch(ROOT)
    asked = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "SOURCE_DATE_EPOCH": str(stamp),
        "CREATED": datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "REVISION": asked.stdout.strip() if asked.returncode == 0 else "unknown",
    }


def _version() -> str:
    namespace: dict[str, object] = {}
    for line in (ROOT / "internal/taskpool/__init__.py").read_text().splitlines():
        name, _, value = line.partition(" = ")
        namespace[name] = value.strip("\"'")
    return str(namespace["__version__"])


def _works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
