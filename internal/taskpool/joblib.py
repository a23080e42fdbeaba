"""joblib's backend `taskpool`: `taskpool.joblib.register()`, then `parallel_config(backend="taskpool")`.

What is given beside the backend's name goes to the Executor: `parallel_config("taskpool", timeout=60, retries=1)`.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import joblib
from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from taskpool.executor.executor import Executor

NAME = "taskpool"


def register(*, make_default: bool = False) -> None:
    """Make the backend known to joblib; `make_default`: and the one that is used where no other is named."""
    joblib.register_parallel_backend(NAME, TaskpoolBackend, make_default=make_default)


class TaskpoolBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs the calls of one `Parallel` in an Executor of its own, or all in a named pool."""

    supports_retrieve_callback = True  # without it, joblib has neither `timeout` nor `return_as` a generator

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = options
        self._executor: Executor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls run at a time; as joblib has it, -1 stands for every CPU."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, int(joblib.cpu_count()) + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Start an Executor, and return how many calls run at a time. What else joblib gives is for its own pools."""
        self.parallel = parallel
        n_jobs = self.effective_n_jobs(n_jobs)
        named = self._options.get("pool") is not None
        # As joblib's own backends do. A named pool was chosen on purpose, and is used for one call at a time too.
        if n_jobs == 1 and not named:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        # How many workers a named pool has is its dealer's to say: the Executor refuses a number there.
        self._executor = Executor(None if named else n_jobs, **self._options)
        return n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None) -> Any:
        """Schedule a batch of calls."""
        assert self._executor is not None
        future = self._executor.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        """Return the result of a batch, or raise what its future does."""
        return out.result()  # `out` is what the callback was given, and that is the future

    def terminate(self) -> None:
        """End the Executor; what is left of it is not waited for."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what is not done. `ensure_ready`: and be ready for more."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
        # What runs already ends by itself, in the loop of the old Executor: the new one need not wait for it.
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)
