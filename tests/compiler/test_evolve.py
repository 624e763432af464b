"""The pass through a circuit's steps: what it keeps, and what its gradient is not."""

import gc
import weakref

import pennylane as qml
import pytest
import torch

from cifar100_hybrid_Qhead import make_circuit
from qcifar.compiler import CompiledCircuit


def test_a_second_derivative_is_refused_and_not_taken_for_zero():
    fast = CompiledCircuit(make_circuit(2, 1)[0], 2, (1, 2, 3))
    x, w = torch.ones(1, 2, requires_grad=True), torch.ones(1, 2, 3)
    assert torch.autograd.grad(fast(x, w).sum(), x)[0].abs().max() > 0.1
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(fast(x, w).sum(), x, create_graph=True)


@pytest.mark.parametrize("letter", [qml.PauliZ, qml.PauliX])
def test_what_a_pass_keeps_is_freed_without_the_garbage_collector(letter):
    def circuit(x, w):
        qml.AngleEmbedding(x, range(7))
        qml.StronglyEntanglingLayers(w, range(7))
        return [qml.expval(letter(0))]

    fast, x, w = CompiledCircuit(circuit, 7, (2, 7, 3)), torch.ones(2, 7, requires_grad=True), torch.ones(2, 7, 3)
    gc.collect()
    gc.disable()
    try:
        values = fast(x, w)
        nodes = [values.grad_fn]
        while type(nodes[0]).__name__ != "EvolveBackward":
            nodes = [*nodes[1:], *(node for node, _ in nodes[0].next_functions if node is not None)]
        scratch = weakref.ref(nodes[0].scratch)
        del nodes, values
        assert scratch() is None
    finally:
        gc.enable()
