"""Turn functions, arguments, results and exceptions into bytes and back: by pickle, or cloudpickle where it must be.

Plain pickle names functions and classes by their modules. That is no use for what a program defines in `__main__`,
which is another module in a worker, nor for lambdas and functions within functions: cloudpickle sends their code along.

**Globals of `__main__`.** Functions that were sent with their code share one namespace in a worker, so that what an
initializer or an earlier call has set is there for the next one, as in a process that was forked. A function brings
the globals that it uses along, as they are in the submitting program. They are taken where they are new, or other than
what came the last time; else what the worker has made of them stays.

Bytes that are read here come from processes of the same user, through files and queues that no other one can write.
"""

from __future__ import annotations

import io
import pickle
import types
from collections import ChainMap
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

BUFFER_BYTES_MIN = 64 * 1024  # a shorter one is in the pickle: to map pages for it takes longer than to copy it

_MAIN = "__main__"
_MAIN_BYTES = _MAIN.encode()
_NO_FILE = "<dynamic-code>"  # what cloudpickle puts there
_PROTOCOL = pickle.HIGHEST_PROTOCOL
_DEFINITIONS = (types.FunctionType, types.ModuleType, type)  # they come anew with each call, and mean the same

_namespaces: dict[str, dict[str, Any]] = {}
_received: dict[str, dict[str, bytes]] = {}
_owner = ""


def dumps(value: object, buffers: list[memoryview] | None = None) -> bytes:
    """Pickle. With `buffers`, large ones (of numpy arrays, say) are put there, and are not in the pickle.

    They are the objects' own memory, for as long as nothing changes it. Raises what the objects' own code raises,
    mostly TypeError, AttributeError or PicklingError.
    """
    beside = None if buffers is None else _beside(buffers)
    try:
        data = pickle.dumps(value, _PROTOCOL, buffer_callback=beside)
    except Exception:  # noqa: BLE001 - whatever pickle cannot do, cloudpickle may; and if not, its error is told
        data = _MAIN_BYTES
    # The name may be text of the value's own: then it is pickled a second time, and nothing is lost but time.
    if _MAIN_BYTES not in data:
        return data
    if buffers is not None:
        buffers.clear()
    file = io.BytesIO()
    _pickler()(file, _PROTOCOL, buffer_callback=beside).dump(value)
    return file.getvalue()


def _beside(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """Return what pickle asks of each buffer: whether to put it into the pickle."""

    def within(buffer: pickle.PickleBuffer) -> bool:
        data = buffer.raw()
        if data.nbytes < BUFFER_BYTES_MIN:
            return True
        buffers.append(data)
        return False

    return within


def loads(data: bytes | memoryview, owner: str = "", buffers: Iterable[bytes | memoryview] = ()) -> Any:
    """Unpickle. `owner` names the program that the namespace of `__main__` belongs to, in a worker: its batch.

    `buffers` are those that `dumps` has put beside the pickle; what is unpickled stands on their memory.

    Raises whatever the objects' own code and the imports of their modules raise.
    """
    # Global, because a pickle calls `main_namespace` by itself and has no way to tell it the owner.
    global _owner
    _owner = owner
    return pickle.loads(data, buffers=buffers)


def main_namespace() -> dict[str, Any]:
    """Return the globals of functions that came from `__main__` of the program whose call is unpickled just now."""
    return _namespaces.setdefault(_owner, {"__name__": _MAIN})


def set_function_state(function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give a function from `__main__` its state, as cloudpickle does, but for globals that the worker has changed."""
    from cloudpickle import cloudpickle

    attributes, slots = state
    came: dict[str, Any] = slots["__globals__"]
    known = _received.setdefault(_owner, {})
    taken = {}
    for name, value in came.items():
        mark = b"" if isinstance(value, _DEFINITIONS) else _mark(value)
        if mark and known.get(name) == mark and name in function.__globals__:
            continue
        known[name] = mark
        taken[name] = value
    cloudpickle._function_setstate(function, (attributes, {**slots, "__globals__": taken}))


def _mark(value: object) -> bytes:
    """Return what is equal for equal values; empty for what cannot be compared so, which is taken each time."""
    from hashlib import blake2b

    # A digest and not the value, which a call may change in place after it came.
    try:
        return blake2b(dumps(value), digest_size=16).digest()
    except Exception:  # noqa: BLE001 - a value that was unpickled need not pickle again
        return b""


class _MainNamespace(dict[str, Any]):
    """Stands for `main_namespace` in a pickle."""

    def __reduce__(self) -> tuple[Callable[[], dict[str, Any]], tuple[()]]:
        return main_namespace, ()


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """Reduce as cloudpickle does, but with the name of the file, by which a traceback finds the lines."""
    from cloudpickle import cloudpickle

    make, args = cloudpickle._code_reduce(code)
    file = "".join(code.co_filename)  # a copy: what is equal must not be one object now and two another time
    return make, tuple(file if isinstance(part, str) and part == _NO_FILE else part for part in args)


@cache
def _pickler() -> type[pickle.Pickler]:
    """Return cloudpickle's pickler, with what is said above of globals."""
    from cloudpickle import cloudpickle

    class MainPickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        """Sends functions of `__main__` so that they share its namespace."""

        def _dynamic_function_reduce(self, function: types.FunctionType) -> tuple[Any, ...]:
            made: tuple[Any, ...] = super()._dynamic_function_reduce(function)
            if function.__globals__.get("__name__") != _MAIN:
                return made
            make, (code, _, *rest), state, *items, _ = made
            return make, (code, _MainNamespace(), *rest), state, *items, set_function_state

        dispatch_table = ChainMap({types.CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)

    return MainPickler
