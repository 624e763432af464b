"""Exact noisy expectation values and outcome probabilities of a batch, as real Pauli vectors in torch."""

import torch
from torch import nn


def density_bytes(n_qubits: int, batch: int, dtype: torch.dtype = torch.float64) -> int:
    """Bytes of `batch` density matrices on `n_qubits` qubits as Pauli vectors: 4^n real numbers each."""
    return batch * 4**n_qubits * dtype.itemsize


class NoisyCircuit(nn.Module):
    """A quantum function under noise: (inputs (B, n), weights, ...) -> what it returns, (B, outputs)."""

    def __init__(self, circuit, n_qubits: int, noise=None, dtype=torch.float64, device="cpu"):
        super().__init__()
        raise NotImplementedError

    @classmethod
    def from_qiskit(cls, circuit, noise=None, inputs=(), weights=(), dtype=torch.float64, device="cpu"):
        """A transpiled `QuantumCircuit` on its active qubits.

        Args:
            circuit: with measurements of the qubits that count, into classical bits; classical bit i is wire i.
            inputs, weights: its parameters, in the order of the columns of the arguments `inputs` (B, n) and, flat,
                of `weights`. Leave `weights` out where they are bound.
        """
        raise NotImplementedError

    def probabilities(self, *arguments) -> torch.Tensor:
        """(B, 2^n) of all outcomes, wire 0 the most significant bit, readout errors included."""
        raise NotImplementedError

    def expvals(self, *arguments) -> torch.Tensor:
        """(B, outputs) what the circuit returns, differentiable in inputs and weights."""
        raise NotImplementedError

    def sampled(self, shots: int, generator, *arguments) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and standard errors, (B, outputs) each, from `shots` outcomes of each image and basis; 0 = exact."""
        raise NotImplementedError
