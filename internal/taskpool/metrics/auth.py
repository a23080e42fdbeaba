"""Authentication for the pages: the secrets of `--metrics-auth-file`.

One entry a line, `bearer TOKEN` or `basic USER:PASSWORD`; blank lines and lines that begin with # are ignored. There
can be several, so that a secret can be replaced while the scrapers still use the old one.
"""

from __future__ import annotations

import base64
import hmac
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from taskpool.errors import ConfigurationError

FILE_BYTES_MAX = 64 * 1024  # thousands of entries; a larger file is another file, given by mistake


class Auth:
    """Compare Authorization headers with those that are valid."""

    def __init__(self, headers: Iterable[bytes]) -> None:
        self._headers = tuple(headers)

    def allows(self, authorization: str) -> bool:
        """Whether this header is valid.

        Every entry is compared, and each as a digest: neither which entry matched nor how long the right one is can be
        told from how long the answer takes.
        """
        given = _digest(_normal(authorization))
        # A list, and no generator: `any` would stop at the first match.
        found = [hmac.compare_digest(given, _digest(header)) for header in self._headers]
        return any(found)


def from_file(path: Path) -> Auth:
    """Read the file of secrets.

    Raises ConfigurationError when it cannot be read, when other users can read or change it, or when it holds anything
    but entries.
    """
    headers = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        scheme, _, secret = line.strip().partition(" ")
        secret = secret.strip()
        # By scheme, since a secret may contain a #.
        if not scheme or scheme.startswith("#"):
            continue
        if scheme == "bearer" and secret:
            headers.append(f"bearer {secret}".encode())
        elif scheme == "basic" and ":" in secret:
            headers.append(b"basic " + base64.b64encode(secret.encode()))
        else:
            # The line's number and not its text: the log must not show what may be a secret with a typing error.
            raise ConfigurationError(
                f"--metrics-auth-file {path}: line {number}: expected `bearer TOKEN` or `basic USER:PASSWORD`"
            )
    if not headers:
        raise ConfigurationError(f"--metrics-auth-file {path}: nothing in it, so no request could be allowed")
    return Auth(headers)


def _read(path: Path) -> str:
    """Return the file's text. What is checked is the file that was opened, whatever is done to its name meanwhile."""
    try:
        # O_NONBLOCK: the open of a FIFO would wait for a writer. `_check` then refuses it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            _check(path, os.fstat(descriptor))
            return file.read(FILE_BYTES_MAX).decode()
    except OSError as error:
        raise ConfigurationError(f"--metrics-auth-file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--metrics-auth-file {path}: not UTF-8") from error


def _check(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_BYTES_MAX:
        raise ConfigurationError(f"--metrics-auth-file {path}: not a file of at most {FILE_BYTES_MAX} bytes")
    mode = stat.S_IMODE(found.st_mode)
    # Root may own it: root reads everything anyway, and a secret that a service is given often belongs to root.
    if found.st_uid not in (0, os.geteuid()) or mode & 0o077:
        raise ConfigurationError(
            f"--metrics-auth-file {path}: owner uid {found.st_uid}, mode {mode:04o}: others can read or change the "
            f"secrets; chown it to uid {os.geteuid()} and chmod 600"
        )


def _normal(authorization: str) -> bytes:
    """Return the header with its scheme in lower case: by RFC 9110 its case means nothing; that of the rest does."""
    scheme, _, secret = authorization.partition(" ")
    return f"{scheme.lower()} {secret.strip()}".encode("utf-8", "surrogateescape")


def _digest(text: bytes) -> bytes:
    # compare_digest takes as long as its arguments are long: digests all have one length.
    return hmac.digest(b"length must not tell", text, "sha256")
