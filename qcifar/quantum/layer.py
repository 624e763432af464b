"""A circuit as a torch layer, whatever runs it."""

from collections.abc import Callable

import torch
from torch import nn

from qcifar.errors import InputError, describe


class QuantumLayer(nn.Module):
    """A circuit as a layer: inputs (..., n_qubits) -> expectation values (..., n_qubits).

    The circuit is called once for the whole batch, in float32 or wider even under autocast. Its
    parameter is `weights`, as in `qml.qnn.TorchLayer`, whatever runs the circuit. Parameters that the circuit takes
    from outside its arguments are `outside_0`, `outside_1` ..., in the order of their use.

    Args:
        runner: from `make_runner`: (inputs (B, n), weights) -> values (B, n), or n of shape (B,).
        weights: initial value of the circuit's weights.
        learns: False makes them a buffer.
    """

    def __init__(self, runner: Callable, weights: torch.Tensor, learns: bool = True):
        super().__init__()
        self.runner = runner
        if learns:
            self.weights = nn.Parameter(weights)
            for number, parameter in enumerate(getattr(runner, "outside", ())):
                self.register_parameter(f"outside_{number}", parameter)
        else:
            self.register_buffer("weights", weights)

    @torch.compiler.disable  # torch.compile goes through the compiled circuit, but cannot look into PennyLane
    def _outside_torch(self, inputs, weights):
        return self.runner(inputs, weights)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        if len(flat) == 0:
            return inputs.float() + self.weights.sum()  # no values, but gradients: zeros
        run = self.runner if isinstance(self.runner, nn.Module) else self._outside_torch
        with torch.autocast(inputs.device.type, enabled=False):
            try:
                values = stack_values(run(flat.float(), self.weights), len(flat))  # (B, n)
            except Exception as error:  # never replaced by zeros: a circuit that fails stops the run
                raise InputError(
                    f"the circuit {circuit_name(self.runner)} failed on inputs {tuple(inputs.shape)}: {describe(error)}"
                ) from error
            looks = values.device.type == "cpu" and not (
                torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
            )
            if looks and not bool(values.isfinite().all()):
                bad = int((~values.isfinite()).any(1).sum())
                raise InputError(
                    f"the circuit {circuit_name(self.runner)} returned values that are not finite for {bad} of "
                    f"{len(flat)} images, whose angles go from {flat.min().item():.3g} to {flat.max().item():.3g}"
                )
            # Contiguous, as PennyLane's: people view them as patches, or change them in place.
            return values.to(torch.float32).contiguous().view(*inputs.shape[:-1], values.shape[-1])


def stack_values(values, images: int) -> torch.Tensor:
    """What a circuit returned for B images as one tensor (B, n).

    PennyLane gives n tensors of shape (B,), or () where a value does not depend on the image; for n = 1 only the one.
    """
    if isinstance(values, torch.Tensor):
        if values.ndim == 2:
            return values
        values = [values]
    columns = [torch.as_tensor(value) for value in values]
    for column in columns:
        if column.shape not in ((), (images,)):
            raise ValueError(f"values of shape {tuple(column.shape)} for {images} images, expected one for each image")
    return torch.stack([column.expand(images) for column in columns], dim=-1)


def circuit_name(circuit: Callable) -> str:
    """Name of the quantum function inside a QNode, a partial, or both."""
    while hasattr(circuit, "func"):
        circuit = circuit.func
    return getattr(circuit, "__name__", type(circuit).__name__)
