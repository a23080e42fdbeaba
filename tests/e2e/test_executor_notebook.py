"""`taskpool.Executor` in the kernel of a notebook, where its packages are: pip install ipykernel jupyter_client."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.leftovers import processes_of, unlink_queues

# Optional, and of fifty packages with what they need: without them the prompt of an interpreter is the nearest test.
jupyter = pytest.importorskip("jupyter_client.manager", exc_type=ImportError)
pytest.importorskip("ipykernel", exc_type=ImportError)

DEADLINE_S = 60.0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # theirs are not ours to mend
]


class Notebook:
    """A kernel, and what its cells give."""

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager, self._client = manager, client

    def run(self, cell: str, while_it_runs: Callable[[], object] = lambda: None) -> list[str]:
        """What the cell prints, gives and raises, in order."""
        sent = self._client.execute(cell)
        while_it_runs()
        said: list[str] = []
        until = time.monotonic() + DEADLINE_S
        while True:
            try:
                message = self._client.get_iopub_msg(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"the cell has not ended, and said {said}: {cell}")
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != sent:
                continue
            if kind == "status" and content["execution_state"] == "idle":
                return said
            if kind in SHOWN:
                said.append(SHOWN[kind](content))


SHOWN: dict[str, Callable[[Any], str]] = {
    "stream": lambda content: str(content["text"]),
    "execute_result": lambda content: str(content["data"]["text/plain"]),
    "error": lambda content: str(content["ename"]),
}


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    for name in ("XDG_STATE_HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    manager, client = jupyter.start_new_kernel(startup_timeout=DEADLINE_S)
    try:
        yield Notebook(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)  # polling: what happens in another process has nothing to wait on


def test_an_executor_in_a_notebook(notebook: Notebook, tmp_path: Path) -> None:
    run, started = notebook.run, tmp_path / "started"
    assert run("import os, taskpool, time\nexecutor = taskpool.Executor(2)\nscale = 2") == []
    (batch,) = run("print(executor._loop._link.batch, end='')")
    assert run("def area(side):\n    return scale * side * side\nexecutor.submit(area, 3).result()") == ["18"]
    assert run("scale = 3\nexecutor.submit(area, 3).result()") == ["27"]  # as it is now
    assert run("class Point:\n    x = 1\ntype(executor.submit(Point).result()) is Point") == ["True"]
    assert run("list(executor.map(lambda n: n + 1, range(3)))") == ["[1, 2, 3]"]
    assert "".join(run("executor.submit(print, 'said').result()")) == "said\n"
    assert run("executor.submit(os.abort).result()") == ["JobCrashed"]
    hang = f"def hang():\n    open({str(started)!r}, 'w').close()\n    time.sleep(600)\n"

    def interrupt() -> None:
        wait_until(started.exists)
        notebook.manager.interrupt_kernel()

    assert run(f"{hang}future = executor.submit(hang)\nfuture.result()", interrupt) == ["KeyboardInterrupt"]
    assert run("future.cancel()") == ["True"]  # to wait no more is not to cancel
    assert run("import asyncio\nawait asyncio.get_running_loop().run_in_executor(executor, area, 1)") == ["3"]
    run("exit()")
    wait_until(lambda: not notebook.manager.is_alive() and not processes_of(batch))
    assert unlink_queues(batch, 3, 20) == []
    assert [path for path in (tmp_path / "xdg_state_home").rglob("*") if path.name != "taskpool"] == []
