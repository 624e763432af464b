"""What a function reads beside its arguments, so that a compiled circuit notices when it changes.

PennyLane calls a quantum function at every step; a compiled one was called once. What it may have read there is found
in its code: closure, defaults, globals, attributes of these, and the same of the functions that it calls, libraries
excepted. Files, clocks and random numbers are not seen.
"""

import functools
import sys
import types

import numpy as np
import torch
from torch import nn

LIBRARIES = {"torch", "pennylane", "numpy", "scipy", "autoray", "autograd", "jax", *sys.stdlib_module_names}
PLAIN = (type(None), bool, int, float, complex, str, bytes)
MOST = 4096  # bytes of an array, and entries of a container, that are compared one by one


def reads(function) -> tuple:
    """A value that differs from an earlier one if something that `function` reads has changed since.

    Trainable tensors count as the same while they are the same tensors: a compiled circuit reads them at each call.
    """
    return _token(function, frozenset(), set())


def _token(value, names: frozenset, seen: set):
    """`names`: attributes that the code at hand may look at."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, torch.Tensor):
        return id(value), value.requires_grad, None if value.requires_grad else value._version
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes() if value.nbytes <= MOST else None
    if id(value) in seen or isinstance(value, (types.ModuleType, type)):
        return id(value)
    seen.add(id(value))
    if isinstance(value, functools.partial):
        return tuple(_token(part, names, seen) for part in (value.func, value.args, value.keywords))
    if isinstance(value, types.MethodType):
        own = frozenset(value.__func__.__code__.co_names) if hasattr(value.__func__, "__code__") else names
        return _token(value.__func__, own, seen), _token(value.__self__, own, seen)
    if isinstance(value, types.FunctionType):
        return _function(value, seen)
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return len(value), tuple(_token(part, names, seen) for part in value) if len(value) <= MOST else None
    return _object(value, names, seen)


def _function(function: types.FunctionType, seen: set) -> tuple:
    if (function.__module__ or "").split(".")[0] in LIBRARIES:
        return (id(function),)
    names = _names(function.__code__)
    known = function.__globals__
    outside = [known[name] for name in sorted(names) if name in known]
    closure = [_content(cell) for cell in function.__closure__ or ()]
    kept = [function.__defaults__, function.__kwdefaults__]
    return (id(function.__code__), *(_token(value, names, seen) for value in (*closure, *outside, *kept)))


@functools.cache
def _names(code: types.CodeType) -> frozenset:
    """Globals and attributes named in a function's code, functions defined in it included."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return frozenset(code.co_names).union(*inner)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _object(value, names: frozenset, seen: set) -> tuple:
    """Those attributes of an object that are named in the code that reads it, or in its own where it is called."""
    if type(value).__module__.split(".")[0] in LIBRARIES:
        if not isinstance(value, nn.Module):
            return (id(value),)
    elif callable(value) and isinstance(type(value).__call__, types.FunctionType):
        names = names | _names(type(value).__call__.__code__)
    holders = [vars(value)] if hasattr(value, "__dict__") else []
    if isinstance(value, nn.Module):
        holders += [value._parameters, value._buffers, value._modules]
    found = [holder[name] for holder in holders for name in sorted(names & holder.keys())]
    return (id(value), *(_token(part, names, seen) for part in found))
