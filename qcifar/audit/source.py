"""Circuits from a file: `FILE.py:name`, a quantum function or a function that makes circuits of a size.

What `name` may be:

* a quantum function of (angles) or (angles, weights), which may take sizes by name: n_qubits, n_layers, depth;
* a function of sizes only (n_qubits, n_layers, depth, circuits) that returns a circuit, a list of circuits, or a
  circuit and the shape of its weights, such as `make_circuit` and `make_circuits` of the scripts.

Sizes that are not given are the file's constants N_QUBITS, N_LAYERS, QUANTUM_DEPTH and CIRCUITS, or else 4, 2, 1
and "default".
"""

import ast
import contextlib
import functools
import importlib.util
import inspect
import itertools
import sys
import typing
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from pathlib import Path

import pennylane as qml

from qcifar.errors import InputError, describe, did_you_mean
from qcifar.quantum.checks import circuit_fingerprint, refuse_other_form
from qcifar.quantum.controls import without_entanglers
from qcifar.quantum.layer import circuit_name

from .gates import MAX_QUBITS, Circuit, LeftOut, refuse_angles_in_rows

STANDARD = {"n_qubits": 4, "n_layers": 2, "depth": 1, "circuits": "default"}
CONSTANTS = {"n_qubits": "N_QUBITS", "n_layers": "N_LAYERS", "depth": "QUANTUM_DEPTH", "circuits": "CIRCUITS"}
MAKERS = ("make_circuit", "make_circuits")  # where a script makes the circuits of its runs
WITHOUT_CIRCUIT = ("fourier", "linear", "tanh", "mlp", "raw", "off", "jitter", "planted")  # values of CONTROL
SHAPES = ("L,N", "L,N,2", "L,N,3", "N", "N,2", "N,3", "L")  # of weights, tried in this order


@dataclass(frozen=True)
class Sizes:
    """What the command line says; 0 and "file" leave it to the file, "auto" tries `SHAPES`."""

    n_qubits: int = 0
    n_layers: int = 0
    depth: int = 0
    circuits: str = "file"
    weight_shape: str = "auto"

    @classmethod
    def of_run(cls, constants: dict[str, typing.Any]) -> "Sizes":
        """Those of a run with these constants; what it does not have is left to the file."""
        return cls(**{name: constants[constant] for name, constant in CONSTANTS.items() if constant in constants})

    def filled(self, module) -> dict[str, typing.Any]:
        """Every size, from the command line, else from the file's constants, else standard."""
        own = {name: getattr(module, constant, STANDARD[name]) for name, constant in CONSTANTS.items()}
        given = {name: getattr(self, name) for name in CONSTANTS}
        return {name: own[name] if given[name] in (0, "file") else given[name] for name in CONSTANTS}


def circuits_of(target: str, sizes: Sizes) -> list[Circuit]:
    """The circuits that `target`, FILE.py:name, stands for.

    Raises:
        InputError: no such file or name, no circuit, other arguments, a wrong shape, too many qubits.
    """
    path, name = _split(target)
    module = load(path)
    found = _named(module, path, name)
    filled = sizes.filled(module)
    if not isinstance(filled["n_qubits"], int) or not 1 <= filled["n_qubits"] <= MAX_QUBITS:
        raise InputError(
            f"N_QUBITS (--n-qubits): expected from 1 to {MAX_QUBITS}, which can be audited, got {filled['n_qubits']!r}"
        )
    parameters = _parameters(found, name)
    if parameters and set(parameters) <= set(STANDARD):
        return _made(found, name, parameters, filled)
    return [_plain(found, name, parameters, filled, sizes.weight_shape)]


def circuits_that_ran(
    script: Path, sizes: Sizes, fingerprints: Container[str], control: str | None = None
) -> list[Circuit]:
    """The circuits that a script makes of these sizes now, if they are those whose fingerprints its runs recorded.

    Args:
        control: CONTROL of the runs. With `product` the circuits ran without their entangling gates; with one of
            `WITHOUT_CIRCUIT` none ran, though the fingerprint may be recorded.

    Raises:
        InputError: as `circuits_of`, and for a script that has none of `MAKERS`.
    """
    if control in WITHOUT_CIRCUIT:
        return []
    module = load(script)
    if not any(hasattr(module, maker) for maker in MAKERS):
        raise InputError(
            f"{script.name} has neither {' nor '.join(MAKERS)}, which give the circuits of a run; name the function: "
            f"python audit_circuits.py {script.name}:name"
        )
    made = [one for maker in MAKERS if hasattr(module, maker) for one in circuits_of(f"{script}:{maker}", sizes)]
    ran = [_product(circuit) if control == "product" else circuit for circuit in made]
    recorded = [{_fingerprint_of(one) for one in pair} for pair in zip(made, ran, strict=True)]
    return [circuit for circuit, either in zip(ran, recorded, strict=True) if any(f in fingerprints for f in either)]


def _product(circuit: Circuit) -> Circuit:
    """The circuit without its gates on several qubits, as CONTROL product runs it."""

    def resized(n_qubits: int, layers: int) -> Circuit:
        return _product(circuit.resized(n_qubits, layers))

    without = without_entanglers(circuit.function)
    again = resized if circuit.resized else None
    return replace(circuit, name=f"product_{circuit.name}", function=without, resized=again)


def _fingerprint_of(circuit: Circuit) -> str:
    """As the scripts record it in the identity of their runs."""
    n, weights = circuit.n_inputs, circuit.weight_shape
    return circuit_fingerprint(circuit.function, *(((1, n),) if weights is None else ((2, n), weights)))


def _split(target: str) -> tuple[Path, str]:
    file, colon, name = target.rpartition(":")
    if not colon or not name.isidentifier() or not file.endswith(".py"):
        raise InputError(f"{target}: expected FILE.py:name, such as my_circuits.py:ansatz")
    return Path(file), name


def load(path: Path):
    """The module in the file `path`, executed once; its own folder is where it imports from first."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected FILE.py:name")
    try:
        ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        where = f" (line {error.lineno})" if getattr(error, "lineno", None) else ""
        raise InputError(f"{path} cannot be read as Python{where}: {describe(error)}") from None
    spec = importlib.util.spec_from_file_location(f"audited_{path.stem}", path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses of the file look there
    with _imports_from(path.resolve().parent):
        try:
            spec.loader.exec_module(module)
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # somebody's file
            raise InputError(f"{path} failed when it was imported: {describe(error)}") from error
    return module


@contextlib.contextmanager
def _imports_from(folder: Path):
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _named(module, path: Path, name: str) -> Callable:
    found = getattr(module, name, None)
    if found is None:
        functions = [key for key, value in vars(module).items() if _is_own_function(value, module)]
        hint = did_you_mean(name, functions, f"it has {', '.join(functions[:6]) or 'no function'}")
        raise InputError(f"{path} has no {name}; {hint}")
    inside = found
    while isinstance(inside, functools.partial):
        inside = inside.func
    if isinstance(inside, qml.QNode):
        raise InputError(f"{name} in {path} is a QNode; take the @qml.qnode line away: the audit says what runs it")
    if not callable(found) or inspect.isclass(found):
        raise InputError(f"{name} in {path}: expected a function, got {type(found).__name__}")
    return found


def _is_own_function(value, module) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__ and not value.__name__.startswith("_")


def _parameters(function: Callable, name: str) -> list[str]:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: its arguments cannot be read ({error}); expected a Python function") from None
    if any(p.kind is p.VAR_POSITIONAL for p in found):
        raise InputError(f"{name}: expected the arguments angles, or angles and weights, got *{next(iter(found)).name}")
    return [p.name for p in found if p.kind is not p.VAR_KEYWORD and (p.default is p.empty or p.name in STANDARD)]


def _made(make: Callable, name: str, parameters: list[str], filled: dict) -> list[Circuit]:
    """What a function of sizes makes."""

    def at(n_qubits: int, layers: int) -> list[Circuit]:
        given = filled | {"n_qubits": n_qubits, "n_layers": layers, "depth": layers}
        try:
            made = make(**{p: given[p] for p in parameters})
        except Exception as error:
            raise InputError(f"{name} failed with {_as_text(parameters, given)}: {describe(error)}") from error
        found = _circuits_in(made, name)
        names = _different([circuit_name(function) for function, _ in found])
        circuits = []
        for place, ((function, shape), its_name) in enumerate(zip(found, names, strict=True)):
            again = functools.partial(lambda place, n, depth: at(n, depth)[place], place)
            circuits.append(Circuit(its_name, function, n_qubits, shape, layers, resized=again))
        return circuits

    layers = filled["n_layers"] if "n_layers" in parameters else filled["depth"]
    circuits = at(filled["n_qubits"], layers)
    for circuit in circuits:
        refuse_other_form(circuit.function, circuit.n_inputs, circuit.weight_shape)
    return circuits


def _circuits_in(made, name: str) -> list[tuple[Callable, tuple[int, ...] | None]]:
    if callable(made):
        return [(made, None)]
    if isinstance(made, (list, tuple)) and len(made) == 2 and callable(made[0]) and not callable(made[1]):
        shape = made[1] if isinstance(made[1], (list, tuple)) else None
        if shape and all(isinstance(side, int) and side > 0 for side in shape):
            return [(made[0], tuple(shape))]
    elif isinstance(made, (list, tuple)) and made and all(map(callable, made)):
        return [(function, None) for function in made]
    raise InputError(
        f"{name}: expected it to return a circuit, a list of circuits, or a circuit and the shape of its weights, "
        f"got {type(made).__name__}"
    )


def _different(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name}_{names[:k].count(name) + 1}" for k, name in enumerate(names)]


def _plain(function: Callable, name: str, parameters: list[str], filled: dict, shape_text: str) -> Circuit:
    """A quantum function that may take sizes by name."""
    tensors = [p for p in parameters if p not in STANDARD]
    if len(tensors) not in (1, 2) or parameters[: len(tensors)] != tensors:
        raise InputError(
            f"{name}: expected the arguments angles, or angles and weights, and then any of n_qubits, n_layers, depth; "
            f"got ({', '.join(parameters)})"
        )
    named = [p for p in parameters if p in STANDARD]
    layers = filled["n_layers" if "n_layers" in named or len(tensors) == 2 else "depth"]

    def at(n_qubits: int, depth: int, shape: str | None) -> Circuit:
        given = filled | {"n_qubits": n_qubits, "n_layers": depth, "depth": depth}
        bound = functools.partial(function, **{p: given[p] for p in named}) if named else function
        size = None if shape is None else _shape(shape, n_qubits, depth)
        return Circuit(name, bound, n_qubits, size, depth)

    shape, note = None, ""
    if len(tensors) == 2:
        shape, note = _fitting_shape(functools.partial(at, filled["n_qubits"], layers), shape_text)
    found = at(filled["n_qubits"], layers, shape)
    refuse_other_form(found.function, found.n_inputs, found.weight_shape)

    def resized(n_qubits: int, depth: int) -> Circuit:
        follows = {"n_layers", "depth"} & set(named) or "L" in (shape or "")
        if (n_qubits != found.n_inputs and "N" not in (shape or "N")) or (depth != layers and not follows):
            raise LeftOut(
                "it takes neither n_layers nor depth"
                if shape is None
                else "its weights have one shape; --weight-shape with L and N, such as L,N,3, follows the size"
            )
        return at(n_qubits, depth, shape)

    return replace(found, note=note, resized=resized if "n_qubits" in named else None)


def _fitting_shape(at: Callable[[str], Circuit], text: str) -> tuple[str, str]:
    """The first shape of weights with which the circuit can be built, and what was assumed."""
    refusals = []
    for shape in SHAPES if text == "auto" else (text,):
        circuit = at(shape)
        try:
            refuse_other_form(circuit.function, circuit.n_inputs, circuit.weight_shape)
            refuse_angles_in_rows(circuit)
        except InputError as error:
            refusals.append(error)
            continue
        note = f"weights {circuit.weight_shape} assumed ({shape}); --weight-shape says others" if text == "auto" else ""
        return shape, note
    more = "; give the weights' shape, such as --weight-shape 2,4,3" if text == "auto" else ""
    raise InputError(f"{refusals[0]}{more}") from refusals[0]


def _shape(text: str, n_qubits: int, layers: int) -> tuple[int, ...]:
    """`L,N,3` or `2,4,3`."""
    sides = [{"L": str(layers), "N": str(n_qubits)}.get(side.strip(), side.strip()) for side in text.split(",")]
    if not all(side.isdecimal() and 0 < int(side) <= 10**6 for side in sides):
        raise InputError(
            f"WEIGHT_SHAPE (--weight-shape): expected auto or numbers such as 2,4,3, in which L stands for the layers "
            f"and N for the qubits, got {text!r}"
        )
    return tuple(map(int, sides))


def _as_text(parameters, given) -> str:
    return ", ".join(f"{p}={given[p]}" for p in itertools.islice(parameters, 6))
