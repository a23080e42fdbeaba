"""taskpool: a crash-proof job pool for Linux hosts.

Read docs/architecture.md first, then `core/reactor.py`. Layers; imports point one way only (tests/test_tidy.py):

    generator | dealer | worker   the three programs; none imports another
    joblib                        a backend for joblib
    executor                      the Python interface, `taskpool.Executor`
    private                       a dealer started for one batch, and its state directory
    cluster                       a dealer's side of the engine that several hosts share
    client                        a generator's side of the protocol
    ipc procs metrics journal kinds   the edges: queues, processes, pages, storage, job kinds
    core                          decisions: events in, effects out, no I/O
    chaos durations sizes log codec certificate messages identifiers limits clock errors   what all layers share
    arguments                     the option parser of the programs
"""

__version__ = "0.2.0"

# Where the Python interface has its names. Looked up at first use: the programs import this package without them.
_EXPORTS = {
    "Executor": "taskpool.executor.executor",
    "JobCrashed": "taskpool.executor.errors",
    "JobFailed": "taskpool.executor.errors",
    "JobLost": "taskpool.executor.errors",
    "JobTimedOut": "taskpool.executor.errors",
    "OutOfMemory": "taskpool.executor.errors",
    "PoolError": "taskpool.executor.errors",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "joblib":
        return import_module("taskpool.joblib")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_EXPORTS[name]), name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *_EXPORTS]
