"""Make the environment that a program of this package hands to any program it starts.

A frozen program runs with its bundle's libraries in LD_LIBRARY_PATH. Handed on, they break foreign
programs (`/bin/sh: symbol lookup error`), and handed to a frozen child they are saved by its bootloader
as if they had been the user's own. So every exec, of a worker as of a job's command, uses `scrubbed`.
"""

from __future__ import annotations

from collections.abc import Mapping

LOG_FD = 3  # the descriptor on which a worker finds the dealer's standard error, for its log lines
_BOOTLOADER_PREFIX = "_PYI_"  # PyInstaller's bootloader sets _PYI_ARCHIVE_FILE and more
_LIBRARIES = "LD_LIBRARY_PATH"
_LIBRARIES_SAVED = "LD_LIBRARY_PATH_ORIG"  # the user's own value; absent when there was none


def scrubbed(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` as it was before the bootloader of a frozen program changed it.

    Without the bootloader's variables it is returned as it is, LD_LIBRARY_PATH included. Values are those of
    `os.environ`: bytes that are not UTF-8 are held as surrogates and come out of exec unchanged.
    """
    clean = {name: value for name, value in env.items() if not name.startswith(_BOOTLOADER_PREFIX)}
    if len(clean) == len(env):
        return clean
    # Only now: LD_LIBRARY_PATH_ORIG of a program that is not frozen is the user's variable like any other.
    original = clean.pop(_LIBRARIES_SAVED, None)
    if original is None:
        clean.pop(_LIBRARIES, None)
    else:
        clean[_LIBRARIES] = original
    return clean
