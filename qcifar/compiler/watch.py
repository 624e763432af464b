"""What a function reads beside its arguments, so that a compiled circuit notices when it changes.

PennyLane calls a quantum function at every step; a compiled one was called once. `Watch` finds in the function's code
what else it may read, and knows a short list of things that it can see whole: numbers, strings, functions, lists,
arrays, tensors, libraries. These are compared at each call, in microseconds. As soon as the function reads anything
else (an attribute, a method, a clock), it is recorded again at each call, and the recordings are compared.
"""

import builtins
import contextlib
import dis
import functools
import pickle
import sys
import types

import numpy as np
import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from .ir import NotCompilable
from .record import digest_of
from .trace import content

LIBRARIES = {"torch", "pennylane", "numpy", "scipy", "autoray", "math", "cmath", "functools", "itertools", "operator"}
PLAIN = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis),
    torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype,
)  # fmt: skip
BUILTINS = set(
    "abs all any bool bytes complex dict divmod enumerate filter float frozenset getattr hasattr int isinstance "
    "issubclass iter len list map max min next object pow print range repr reversed round set slice sorted str sum "
    "tuple type zip ArithmeticError AssertionError Exception IndexError KeyError RuntimeError TypeError ValueError "
    "NotImplementedError StopIteration ZeroDivisionError True False None".split()
)
_MISSING = object()


class Watch:
    """What `function` reads outside its arguments, as it is now.

    Attributes:
        unseen: what it reads whose changes cannot be seen, or None.
        reads: whether it reads anything but functions, libraries and arguments that were bound to it.
    """

    def __init__(self, function):
        self.unseen: str | None = None
        self.bindings: list[tuple[dict, str, object]] = []  # (globals, name, value)
        self.cells: list[tuple[types.CellType, object]] = []
        self.functions: list[tuple[types.FunctionType, tuple]] = []  # with code, defaults and number of attributes
        self.own: list[tuple[object, tuple]] = []  # defaults and arguments of partials, likewise
        self.containers: list[tuple[object, tuple]] = []  # with what they hold
        self.tensors: list[tuple[object, tuple]] = []  # tensors and arrays, with their content
        self.learn: list[torch.Tensor] = []
        self._seen: dict[int, object] = {}
        self._visit(function, "itself")
        plain = [value for _, _, value in self.bindings] + [value for _, value in self.cells]
        self.reads = bool(self.containers or self.tensors or self.learn or self.unseen) or any(
            isinstance(value, (*PLAIN, np.generic)) for value in plain
        )

    def unchanged(self) -> bool:
        """Whether everything is as it was, and was seen."""
        if self.unseen:
            return False
        for known, name, value in self.bindings:
            if known.get(name, _MISSING) is not value:
                return False
        for cell, value in self.cells:
            if _content(cell) is not value:
                return False
        for function, parts in self.functions:
            if _parts(function) != parts:
                return False
        for container, held in (*self.own, *self.containers):
            now = _held(container)
            if len(now) != len(held) or any(a is not b for a, b in zip(now, held, strict=True)):
                return False
        return all(_look(value) == seen for value, seen in self.tensors) and all(t.requires_grad for t in self.learn)

    def _visit(self, value, name: str) -> None:
        """Find how changes of a value can be seen, if at all."""
        if self.unseen or isinstance(value, (*PLAIN, np.generic)) or id(value) in self._seen or value is _MISSING:
            return
        self._seen[id(value)] = value
        kind = type(value)
        if kind in (torch.Tensor, torch.nn.Parameter):
            if value.requires_grad:  # read at each call
                self.learn.append(value)
            else:
                self._visit_memory(value, name)
        elif kind is np.ndarray and not value.dtype.hasobject:
            self._visit_memory(value, name)
        elif kind in (list, tuple, dict, set, frozenset):
            held = _held(value)
            self.containers.append((value, held))
            for part in held:
                self._visit(part, name)
        elif kind is functools.partial:
            if vars(value):
                self.unseen = name
            self._visit(value.func, name)
            self._visit_own(value.args, name)
            self._visit_own(value.keywords, name)
        elif kind is types.FunctionType and not _is_librarys(value):
            self._visit_function(value, name)
        elif not _is_librarys(value):
            self.unseen = name

    def _visit_own(self, arguments, name: str) -> None:
        """Defaults, or arguments of a partial, which nobody else holds."""
        self.own.append((arguments, _held(arguments)))
        for part in _held(arguments):
            self._visit(part, name)

    def _visit_memory(self, value, name: str) -> None:
        try:
            self.tensors.append((value, _look(value)))
        except (RuntimeError, TypeError):  # sparse, or of a type that NumPy does not have
            self.unseen = name

    def _visit_function(self, function, name: str) -> None:
        self.functions.append((function, _parts(function)))
        if vars(function):
            self.unseen = name
            return
        reason, names = _code(function.__code__)
        if reason:
            self.unseen = reason
            return
        known = function.__globals__
        for each in names:
            value = known.get(each, _MISSING)
            self.bindings.append((known, each, value))
            if value is _MISSING and hasattr(builtins, each) and each not in BUILTINS:
                self.unseen = each
            self._visit(value, each)
        for each, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.cells.append((cell, _content(cell)))
            self._visit(_content(cell), each)
        self._visit_own(function.__defaults__ or (), name)
        self._visit_own(function.__kwdefaults__ or {}, name)


def _parts(function: types.FunctionType) -> tuple:
    return id(function.__code__), id(function.__defaults__), id(function.__kwdefaults__), len(function.__dict__)


def _held(container) -> tuple:
    return (*container.keys(), *container.values()) if type(container) is dict else tuple(container)


def _look(value) -> tuple:
    """The content of a tensor or an array, whoever changed it."""
    if isinstance(value, torch.Tensor):
        return value.requires_grad, content(value)
    return value.dtype, value.shape, value.tobytes()


def _content(cell: types.CellType):
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _MISSING


def _is_librarys(value) -> bool:
    """Whether a module, class or function belongs to a library that does not change."""
    if isinstance(value, types.ModuleType):
        return value.__name__.split(".")[0] in LIBRARIES and sys.modules.get(value.__name__) is value
    if isinstance(value, np.ufunc):
        return True
    if isinstance(value, types.BuiltinFunctionType):
        owner = value.__self__
        ours = owner is None or isinstance(owner, (type, types.ModuleType)) or type(owner).__module__ == "torch._C"
        return ours and (value.__module__ or "torch").split(".")[0] in LIBRARIES
    if not isinstance(value, (type, types.FunctionType)) or value.__module__ is None:
        return False
    there = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        there = getattr(there, name, None)
    return value.__module__.split(".")[0] in LIBRARIES and there is value


@functools.cache
def _code(code: types.CodeType) -> tuple[str | None, tuple[str, ...]]:
    """What a function does that nobody can see, or None, and the names of the globals that it reads."""
    names: dict[str, None] = {}
    for step in dis.get_instructions(code):
        name = step.opname
        if name.startswith(("STORE_GLOBAL", "DELETE_GLOBAL")):
            return f"the global {step.argval}, which it changes", ()
        if name in ("STORE_DEREF", "DELETE_DEREF") and step.argval in code.co_freevars:
            return f"{step.argval}, which it changes", ()
        if name == "IMPORT_NAME" and step.argval.split(".")[0] not in LIBRARIES:
            return f"the module {step.argval}", ()
        if name in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            names[step.argval] = None
        elif isinstance(step.argval, str) and step.argval.startswith("__") and "CONST" not in name:
            return step.argval, ()
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            reason, more = _code(inner)
            if reason:
                return reason, ()
            names |= dict.fromkeys(more)
    return None, tuple(names)


class Outside(list):
    """Somebody else's things: a copy of the circuit has the same ones, and they are neither parameters nor state."""

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        try:
            pickle.dumps(list(self))
        except (pickle.PicklingError, AttributeError, TypeError):  # a function defined in another one
            return type(self), ()
        return type(self), (list(self),)


class Recorded(Outside):
    """[function], what it reads and the digest of its recording, which are lost where it is pickled."""

    def __init__(self, function=()):
        super().__init__(function)
        self.watch, self.digest, self.probes = None, None, ()

    def look(self) -> None:
        """Remember what it reads."""
        self.watch = Watch(*self)

    def keep(self, digest: tuple, probes: tuple[torch.Tensor, ...]) -> None:
        """The function has been recorded, with these probes."""
        if not (self.watch.unseen or self.watch.unchanged()):
            raise NotCompilable("a function that changes what it reads")
        self.digest, self.probes = digest, probes

    def is_unchanged(self) -> bool:
        """Whether a look at what it reads is enough to know that it does the same."""
        return self.watch.unchanged() if self.watch is not None else not self

    def does_something_else(self, device: torch.device) -> bool:
        """Whether the function, called on this device, does something else than when it was recorded."""
        if self.digest is None:  # unpickled
            return True
        with alone():
            watch = self.watch if self.watch.unseen else Watch(*self)
            now, _ = digest_of(*self, [probe.to(device) for probe in self.probes])
        if now == self.digest[0]:
            self.watch = watch
            return False
        return True


@contextlib.contextmanager
def alone():
    """Gradients, and neither autocast nor torch.func: so a function is recorded, wherever that happens."""
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield
