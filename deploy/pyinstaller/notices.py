"""What is inside a bundle and under which licence: THIRD-PARTY.txt for people, sbom.cdx.json for programs.

Two sources: Python packages, by the distributions that taskpool requires (pip-licenses, cyclonedx-py); and the
system's libraries that PyInstaller copied, by the Debian packages that own them (dpkg, /usr/share/doc/*/copyright).
Run in the freezing environment.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

OWN = "taskpool"
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)([^;]*)(;.*)?$")


_SYSTEM = ("lib", "lib64", "usr")  # what comes from elsewhere belongs to a Python package


class SystemPackage(NamedTuple):
    """A Debian package of which the bundle has files."""

    name: str
    version: str
    source: str
    files: tuple[str, ...]
    copyright: str


def closure(distribution: str = OWN) -> set[str]:
    """Normalised names of what a distribution requires, and of what those require, itself left out.

    Requirements with a marker are optional ones or another system's, unless they are installed and named without
    `extra`.
    """
    found: set[str] = set()
    waiting = [distribution]
    while waiting:
        for text in metadata.requires(waiting.pop()) or []:
            match = _REQUIREMENT.match(text)
            assert match, text
            name = _normal(re.split(r"[\[ (<>=!~]", match[1])[0])
            if name not in found and "extra" not in (match[3] or "") and _installed(name):
                found.add(name)
                waiting.append(name)
    return found


def system_packages(files: list[Path]) -> list[SystemPackage]:
    """The owners of the system's files among these, by name. Empty where there is no dpkg.

    Raises LookupError for a file of the system that no package owns: its licence would be missing.
    """
    owned: dict[str, set[str]] = {}
    if shutil.which("dpkg-query") is None:
        return []
    for path in files:
        if path.parts[1] in _SYSTEM and "local" not in path.parts:
            owned.setdefault(_owner(path), set()).add(path.name)
    packages = []
    for name, names in sorted(owned.items()):
        fields = ["${Version}", "${source:Package}"]
        asked = _run("dpkg-query", "-W", f"-f={chr(9).join(fields)}", name)
        version, source = asked.split("\t")
        bare = name.partition(":")[0]
        text = Path(f"/usr/share/doc/{bare}/copyright").read_text(errors="replace")
        packages.append(SystemPackage(bare, version, source, tuple(sorted(names)), text))
    return packages


def third_party(python_packages: set[str], packages: list[SystemPackage]) -> str:
    """Every licence text of what is in the bundle and not ours."""
    listed = _pip_licenses(python_packages)
    names = {_normal(entry["Name"]) for entry in listed}
    assert names == python_packages, f"pip-licenses does not know {sorted(python_packages - names)}"
    lines = [
        "What this bundle contains beside taskpool itself, and under which terms.",
        f"Python is {sys.version.split()[0]}. PyInstaller's bootloader may be shipped under any terms.",
        "",
    ]
    lines += [f"  {entry['Name']} {entry['Version']}: {entry['License']}" for entry in listed]
    lines += [f"  {package.name} {package.version}: {', '.join(package.files)}" for package in packages]
    for entry in listed:
        lines += [
            "",
            "=" * 100,
            f"{entry['Name']} {entry['Version']}, {entry['License']}",
            "",
            entry["LicenseText"].strip(),
        ]
    for package in packages:
        lines += ["", "=" * 100, f"{package.name} {package.version} (Debian)", "", package.copyright.strip()]
    return "\n".join(lines) + "\n"


def sbom(python_packages: set[str], packages: list[SystemPackage], version: str) -> str:
    """CycloneDX, JSON: only what is in the bundle, not what built it."""
    document: dict[str, Any] = json.loads(
        _run(
            sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--of", "JSON", sys.executable
        )
    )
    wanted = python_packages | {OWN}
    components = [part for part in document["components"] if _normal(part["name"]) in wanted]
    components = [_without_build_path(part) for part in components]
    components += [_component(package) for package in packages]
    own = next(part for part in components if part["name"] == OWN)
    components.remove(own)
    document["metadata"]["component"] = own | {"type": "application", "version": version}
    document["components"] = components
    known = {part["bom-ref"] for part in components} | {own["bom-ref"]}
    document["dependencies"] = [
        entry | {"dependsOn": [ref for ref in entry.get("dependsOn", []) if ref in known]}
        for entry in document["dependencies"]
        if entry["ref"] in known
    ]
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _pip_licenses(names: set[str]) -> list[dict[str, Any]]:
    """Name, Version, License and LicenseText of each."""
    listed: list[dict[str, Any]] = json.loads(
        _run(
            sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json", "--with-license-file",
            "--no-license-path", "--with-system", "--packages", *sorted(names),
        )
    )  # fmt: skip
    return sorted(listed, key=lambda entry: str(entry["Name"]).lower())


def _component(package: SystemPackage) -> dict[str, Any]:
    reference = f"pkg:deb/debian/{quote(package.name, safe='')}@{quote(package.version, safe='')}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": package.name,
        "version": package.version,
        "purl": reference,
        "description": f"of source package {package.source}: {', '.join(package.files)}",
    }


def _without_build_path(component: dict[str, Any]) -> dict[str, Any]:
    """Where a package was built says nothing to the reader, and differs from machine to machine."""
    return {key: value for key, value in component.items() if key != "externalReferences" or component["name"] != OWN}


def _owner(path: Path) -> str:
    # Some packages say /lib and some /usr/lib, which are one folder.
    for name in (str(path), str(path).removeprefix("/usr"), f"/usr{path}"):
        asked = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            return asked.stdout.partition(": ")[0].split(",")[0]
    raise LookupError(f"{path} belongs to no package: where is its licence?")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _run(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
