"""A circuit as text that others read: OpenQASM 2 and 3 for given angles, and OpenQASM 3 with parameters.

Both are written here, with all digits of double precision. `qml.to_openqasm` writes float32 with 8 digits, and for a
batch a text that no reader takes. Qubit 0 is `q[0]`, in the text as in PennyLane; only when outcomes are printed as a
word of bits do the two put qubit 0 at opposite ends (here it comes first, in Qiskit last).
"""

from qcifar.errors import InputError
from qcifar.hardware.gates import Expression, Portable

HEADERS = {2: 'OPENQASM 2.0;\ninclude "qelib1.inc";\n', 3: 'OPENQASM 3.0;\ninclude "stdgates.inc";\n'}
OLD_NAMES = {"p": "u1", "cp": "cu1"}  # in the qelib1.inc of OpenQASM 2 as published


def qasm(circuit: Portable, version: int, parameters=None, measure: bool = True) -> str:
    """The circuit as OpenQASM.

    Args:
        version: 2 or 3.
        parameters: (P,) numbers, a row of `circuit.values`, radians; None keeps them as `input float[64]`, which
            OpenQASM 3 has.
        measure: whether all qubits are measured at the end, qubit k into bit k.

    Raises:
        InputError: parameters for version 2 left out, or another number of them.
    """
    if parameters is None and version == 2:
        raise InputError("OpenQASM 2 has no parameters: expected angles, or version 3")
    if parameters is not None and len(parameters) != len(circuit.parameters):
        raise InputError(f"expected {len(circuit.parameters)} parameters of one image, got {len(parameters)}")
    n = circuit.n_qubits
    lines = [] if parameters is not None else [f"input float[64] {name};" for name in circuit.parameters]
    lines += [f"qreg q[{n}];", f"creg c[{n}];"] if version == 2 else [f"qubit[{n}] q;", f"bit[{n}] c;"]
    for gate in circuit.gates:
        name = OLD_NAMES.get(gate.name, gate.name) if version == 2 else gate.name
        angles = [_angle(angle, circuit.parameters, parameters) for angle in gate.angles]
        given = f"({', '.join(angles)})" if angles else ""
        lines.append(f"{name}{given} {', '.join(f'q[{wire}]' for wire in gate.wires)};")
    if measure:
        lines += ["measure q -> c;" if version == 2 else "c = measure q;"]
    return HEADERS[version] + "\n".join(lines) + "\n"


def _angle(angle: Expression, names: tuple[str, ...], parameters) -> str:
    if parameters is not None:
        return repr(float(angle.of([float(value) for value in parameters])))
    products = ["*".join([repr(coefficient), *(names[k] for k in factors)]) for factors, coefficient in angle.terms]
    parts = [*([repr(angle.const)] if angle.const or not products else []), *products]
    return " + ".join(parts).replace("+ -", "- ")
