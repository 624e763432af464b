"""PennyLane circuits as batched torch. Needs nothing but numpy, torch and PennyLane: the folder can be copied.

circuit = CompiledCircuit(quantum_function, n_inputs, weight_shape)
values = circuit(inputs, weights)  # (B, outputs), differentiable
"""

from .circuit import CompiledCircuit
from .ir import NotCompilable

__all__ = ["CompiledCircuit", "NotCompilable"]
