"""The circuits of a finished hybrid run for other tools: OpenQASM 2 and 3, with angles or parameters, and Qiskit's QPY.

    python export_circuit.py runs/cifar100_hybrid_qhead/seed42
    python export_circuit.py runs/cifar100_quantum_channels/seed42 --angles 0.1,-0.4,1.2,0 --output elsewhere

The trained weights are in the circuits; the angles are those of the first test image, or --angles. Writes into
hardware/ in the run's folder, or into OUTPUT, for each circuit: NAME.qasm (OpenQASM 2), NAME.qasm3,
NAME_parameters.qasm3, and with Qiskit installed NAME.qpy. docs/hardware.md says how others read them.
"""

import importlib.util
from argparse import Namespace
from pathlib import Path

import torch

from qcifar.config import Rule, own, settings_from_constants
from qcifar.errors import InputError, run_script
from qcifar.experiment.finished import load, read_run
from qcifar.files import write_whole
from qcifar.hardware.gates import portable
from qcifar.hardware.hybrid import read_hybrid
from qcifar.hardware.qasm import qasm
from qcifar.hardware.with_qiskit import INSTALL, qpy_bytes

ANGLES = ""  # of one image, radians, such as 0.1,-0.4,1.2,0; empty: those of the first test image
OUTPUT = ""  # the folder that is written to; empty: hardware/ in the run's
DATA_DIR = "./data"  # holds the data set that the run was trained on

own_rules = {
    "ANGLES": own("", Rule(str, lambda v: isinstance(v, str), "angles in radians, such as 0.1,-0.4,1.2,0")),
    "OUTPUT": own("", Rule(str, lambda v: isinstance(v, str), "a folder")),
}
arguments = (("run", None, "folder of a finished run, for example runs/cifar100_hybrid_qhead/seed42"),)


def angles_of(given: str, n: int) -> torch.Tensor:
    """(1, n) float64. Raises `InputError` for other than n finite numbers."""
    try:
        numbers = torch.tensor([float(one) for one in given.split(",")], dtype=torch.float64)
    except ValueError:
        numbers = torch.tensor([torch.nan])
    if len(numbers) != n or not bool(numbers.isfinite().all()):
        raise InputError(f"ANGLES (--angles): expected {n} numbers, radians, of one image, got {given!r}")
    return numbers[None]


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules, arguments)
    run = read_run(Path(cfg.run))
    it = load(run, Namespace(device="cpu", precision="fp32", data_dir=cfg.data_dir))
    folder, hybrid = Path(cfg.output) if cfg.output else run.folder / "hardware", read_hybrid(run, it, 1)
    has_qiskit = importlib.util.find_spec("qiskit") is not None
    for circuit in hybrid.circuits:
        there = portable(circuit.function, circuit.n_qubits, degree=2)
        angles = angles_of(cfg.angles, circuit.n_qubits) if cfg.angles else circuit.angles
        row = there.values(angles)[0]
        texts = {
            f"{circuit.name}.qasm": qasm(there, 2, row),
            f"{circuit.name}.qasm3": qasm(there, 3, row),
            f"{circuit.name}_parameters.qasm3": qasm(there, 3),
        }
        written = {name: text.encode() for name, text in texts.items()}
        if has_qiskit:
            written[f"{circuit.name}.qpy"] = qpy_bytes(there)
        for name, content in written.items():
            write_whole(folder / name, lambda file, content=content: file.write(content))
            print(f"written: {folder / name}")
        print(f"angles: {', '.join(repr(angle) for angle in angles[0].tolist())}")
    if not has_qiskit:
        print(f"no QPY file: {INSTALL}")


if __name__ == "__main__":
    run_script(main)
