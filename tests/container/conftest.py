"""What a container test gets: podman that works here, the image, and a place for its containers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from conftest import need_tools
from container.engine import IMAGE, Host, podman, settle

HOW = "make image (and where no registry can be reached, make base-image before it)"


@pytest.fixture(scope="session")
def _engine() -> str | None:
    """Why nothing can be tested, or None."""
    if shutil.which("podman") is None:
        return None  # need_tools says it, for each test
    if podman("image", "exists", IMAGE, code=None).returncode != 0:
        return f"no image {IMAGE}: {HOW}"
    reason = settle()
    return None if reason is None else f"podman starts no container here: {reason}"


@pytest.fixture
def host(_engine: str | None) -> Iterator[Host]:
    need_tools("podman")
    if _engine is not None:
        if os.environ.get("TASKPOOL_REQUIRE_IMAGE") == "1":
            pytest.fail(_engine, pytrace=False)
        pytest.skip(_engine)
    with Host() as host:
        yield host
