"""What the host knows about its network, as build secrets: package mirrors, proxies, certificates.

Everything is asked at run time, of apt and pip themselves, and written to a private directory that the caller
removes. Nothing of it is kept in a file of the project or in a layer of the image.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

DEBIAN = "bookworm"

SECRETS = "/run/secrets"  # where a build sees them
PROXIES = tuple(name for word in ("http_proxy", "https_proxy", "no_proxy") for name in (word, word.upper()))

_APT_KEYS = re.compile(r'^Acquire::(?:https?::|Check-|Retries)\S* "[^"]', re.MULTILINE)
_PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries", "cert")
_REMOTE = re.compile(r"https?://\S+")


def debian_mirrors() -> list[tuple[str, str, str]]:
    """(address, suite, component) of every Debian 12 package list apt knows here; empty where it knows none."""
    wanted = "$(CODENAME)|$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    lists = _said("apt-get", "indextargets", "--format", wanted, "Created-By: Packages")
    found = []
    for line in lists.splitlines():
        codename, origin, address, suite, component = line.split("|")
        if origin == "Debian" and codename.split("-")[0] == DEBIAN:
            found.append((address, suite, component))
    return list(dict.fromkeys(found))


def write_secrets(directory: Path, *, sources: bool) -> dict[str, Path]:
    """Secret id -> file, for what there is to say. `sources`: the base image has no package mirrors of its own."""
    texts: dict[str, str] = {}
    certificates = _certificates(os.environ)
    apt = _apt_settings()
    if sources:
        texts["apt-sources"] = "".join(f"deb {' '.join(mirror)}\n" for mirror in debian_mirrors())
        apt += f'Dir::Etc::sourcelist "{SECRETS}/apt-sources";\nDir::Etc::sourceparts "/dev/null";\n'
    if certificates is not None:
        texts["ca-certificates"] = certificates.read_text(errors="replace")
        apt += f'Acquire::https::CaInfo "{SECRETS}/ca-certificates";\n'
    if apt:
        texts["apt-conf"] = apt
    if pip := pip_settings(_pip_config(), has_certificates=certificates is not None):
        texts["pip-conf"] = pip
    for name, text in texts.items():
        descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    return {name: directory / name for name in texts}


def pip_settings(config: str, *, has_certificates: bool) -> str:
    """A pip.conf for the build from what `pip config list` says: local folders and files do not exist there."""
    found: dict[str, str] = {}
    for line in config.splitlines():
        name, _, literal = line.partition("=")
        section, _, key = name.rpartition(".")
        if key in _PIP_KEYS and section in ("global", "install", ":env:"):  # in this order: the later one wins
            found[key] = str(ast.literal_eval(literal))
    for key in ("index-url", "extra-index-url"):
        found[key] = " ".join(_REMOTE.findall(found.get(key, "")))
    found["cert"] = f"{SECRETS}/ca-certificates" if has_certificates else ""
    lines = [f"{key} = {value}\n" for key, value in sorted(found.items()) if value]
    return "".join(["[global]\n", *lines]) if lines else ""


def _pip_config() -> str:
    listed = _said(sys.executable, "-m", "pip", "config", "list").splitlines()
    order = {"global": 0, "user": 0, "site": 0, "install": 1, ":env:": 2}
    return "\n".join(sorted(listed, key=lambda line: order.get(line.partition(".")[0], 0)))


def _apt_settings() -> str:
    """Proxies, time-outs and what has been said about checks."""
    dump = _said("apt-config", "dump")
    return "".join(f"{line}\n" for line in dump.splitlines() if _APT_KEYS.match(line) and "CaInfo" not in line)


def _certificates(env: Mapping[str, str]) -> Path | None:
    """Return the certificates that this host's programs were told to trust; None: those of the programs will do."""
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if (path := Path(env.get(name, ""))).is_file():
            return path
    return None


def _said(*command: str) -> str:
    """What a program prints; empty where it is missing or fails: then there is nothing to be known from it."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(f"{shlex.join(command)}: {done.stderr.strip()}\n")
        return ""
    return done.stdout
