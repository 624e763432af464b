"""Training a circuit under noise and with shots: what takes the place of the ideal simulator in a `QuantumLayer`.

Noise is exact and differentiated by backprop. With shots, the value is the mean of sampled outcomes, and its gradient
that of the exact expectation value: what shots do to the loss is in training, what they would do to a gradient that
is measured itself is not. `--diff-method parameter-shift` on a PennyLane device measures both.
"""

from collections.abc import Callable

import numpy as np
import pennylane as qml
import torch
from torch import nn

from qcifar import distributed
from qcifar.errors import InputError, describe
from qcifar.hardware.engine import NoisyCircuit, refuse_too_wide
from qcifar.hardware.gates import along_z
from qcifar.hardware.noise import NoiseModel
from qcifar.quantum.layer import stack_values
from qcifar.quantum.runner import OneByOne
from qcifar.streams import stream

AGREES = 1e-4  # of any value with the ideal simulator in float32, where there is no noise


class Shots(nn.Module):
    """Base of what draws outcomes: the same ones when a step or an evaluation is repeated, whatever else is drawn.

    In training they follow from the seed that `train_model` gives each step, that is (SEED, epoch, step, process);
    in evaluation from (SEED, epoch, process, number of the call since `eval()`).
    """

    def __init__(self, shots: int, seed: int):
        super().__init__()
        self.shots, self.seed, self.epoch, self.calls, self.step = shots, seed, 0, 0, None

    def train(self, mode: bool = True):
        self.calls = 0
        return super().train(mode)

    def start_epoch(self, epoch: int) -> None:
        self.epoch, self.calls = epoch, 0

    def generator(self) -> np.random.Generator:
        """Of the next call's outcomes."""
        if self.training:
            now = torch.initial_seed()  # not drawn from: other parts of the model draw what they would without shots
            self.step, self.calls = now, self.calls if now == self.step else 0
            drawn = stream(now, "shots", self.calls)
        else:
            drawn = stream(self.seed, "shots", "evaluation", self.epoch, distributed.rank(), self.calls)
        self.calls += 1
        return drawn


class Sampled(Shots):
    """(inputs, weights) -> sampled values (B, outputs), with the gradient of the exact ones."""

    def __init__(self, exact: NoisyCircuit, shots: int, seed: int):
        super().__init__(shots, seed)
        self.exact, self.func = exact, exact.func
        self.ran_on = f"{exact.ran_on}, {shots} shots"

    @torch.compiler.disable
    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        values = self.exact(*arguments)
        with torch.no_grad():
            drawn, _ = self.exact.sampled(self.shots, self.generator(), *arguments)
        return values + (drawn - values.detach())


class SampledOnDevice(Shots):
    """The same on a PennyLane device, whose gradients by the parameter-shift rule are sampled, too."""

    def __init__(self, circuit: Callable, device_name: str, n_qubits: int, shots: int, seed: int):
        super().__init__(shots, seed)
        self.func, self.device_name, self.n = circuit, device_name, n_qubits
        self.ran_on = f"{device_name}, {shots} shots"
        self._qnode(0)

    def _qnode(self, seed: int) -> OneByOne:
        try:
            device = qml.device(self.device_name, wires=self.n, seed=seed)
            qnode = qml.QNode(self.func, device, interface="torch", diff_method="parameter-shift")
            return OneByOne(qml.set_shots(qnode, self.shots))
        except Exception as error:  # plugins raise what they like
            raise InputError(
                f"SHOTS {self.shots} on QUANTUM_DEVICE {self.device_name}: {describe(error)}; expected a device that "
                f"takes a seed, such as default.qubit, or fast"
            ) from None

    @torch.compiler.disable
    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        qnode = self._qnode(int(self.generator().integers(2**31)))
        return stack_values(qnode(*arguments), len(arguments[0]))


def refuse_noise(cfg) -> None:
    """Raise `InputError` where QUANTUM_NOISE and SHOTS do not fit QUANTUM_DEVICE, DIFF_METHOD or the memory."""
    if cfg.quantum_noise != "none" and cfg.quantum_device != "fast":
        raise InputError(
            f"QUANTUM_NOISE (--quantum-noise): expected none with QUANTUM_DEVICE {cfg.quantum_device}, got "
            f"{cfg.quantum_noise}; noise is computed with --quantum-device fast"
        )
    if cfg.shots and cfg.quantum_device != "fast" and cfg.diff_method != "parameter-shift":
        raise InputError(
            f"SHOTS (--shots): expected DIFF_METHOD parameter-shift with QUANTUM_DEVICE {cfg.quantum_device}, got "
            f"{cfg.diff_method}, which needs an exact simulator; use --diff-method parameter-shift"
        )
    if (cfg.quantum_noise != "none" or cfg.shots) and cfg.quantum_device == "fast":
        refuse_too_wide(cfg.n_qubits, torch.float32)


def under_noise(runner: Callable, circuit: Callable, weight_shape: tuple[int, ...], cfg) -> Callable:
    """What runs `circuit` under QUANTUM_NOISE and with SHOTS; `runner` itself without them.

    Args:
        runner: from `make_runner`: the same circuit, ideal and checked.

    Raises:
        InputError: the circuit has no noisy form, does not fit into memory, or differs from `runner` without noise.
    """
    noise = NoiseModel.parse(cfg.quantum_noise)
    if noise is None and cfg.shots == 0:
        return runner
    if cfg.quantum_device != "fast":
        made = SampledOnDevice(circuit, cfg.quantum_device, cfg.n_qubits, cfg.shots, cfg.seed)
    else:
        read = _along_z(circuit, cfg.n_qubits, weight_shape, noise)
        _refuse_other_values(NoisyCircuit(read, cfg.n_qubits), runner, cfg.n_qubits, weight_shape)
        made = NoisyCircuit(read, cfg.n_qubits, noise, torch.float32)
        made.check_memory(torch.zeros(cfg.batch_size, cfg.n_qubits), torch.zeros(weight_shape, requires_grad=True))
        if cfg.shots:
            made = Sampled(made, cfg.shots, cfg.seed)
    made.outside = runner.outside
    return made


def _along_z(circuit: Callable, n_qubits: int, weight_shape: tuple[int, ...], noise: NoiseModel | None) -> Callable:
    """`circuit` with the turns before a measurement along X or Y as gates, noisy as in `evaluate_hardware.py`.

    Raises:
        InputError: there is noise, and a qubit is read along several axes: each way of measuring has turns of its own.
    """
    return circuit if noise is None else along_z(circuit, n_qubits, weight_shape)


def start_epoch(module: nn.Module, epoch: int) -> None:
    """Tell what draws outcomes in `module` which epoch it is."""
    for part in module.modules():
        if isinstance(part, Shots):
            part.start_epoch(epoch)


def _refuse_other_values(exact: NoisyCircuit, ideal: Callable, n_qubits: int, weight_shape) -> None:
    generator = torch.Generator().manual_seed(2)
    arguments = torch.randn(4, n_qubits, generator=generator), torch.rand(weight_shape, generator=generator)
    with torch.no_grad():
        difference = (exact(*arguments) - stack_values(ideal(*arguments), 4)).abs().max().item()
    if not difference <= AGREES:
        raise InputError(
            f"the circuit without noise differs from the ideal one by {difference:.1e} (please report this)"
        )
