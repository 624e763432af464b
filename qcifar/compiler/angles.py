"""How a tape's parameters follow from the arguments: which are linear in them, which depend on the image."""

import numpy as np
import torch
from torch import nn

from .ir import NotCompilable
from .watch import Outside

_SIZE = torch.ops.aten.sym_size.int  # see `batch.py`
_STRUCTURAL = {"select", "slice", "view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "permute", "transpose",
               "t", "expand", "clone", "_to_copy", "alias", "stack", "cat", "unbind", "neg"}  # fmt: skip


def classify(graph, arguments: int):
    """Nodes that are linear in the first `arguments` arguments (plus a constant), and nodes that depend on the first.

    Further arguments are trainable tensors whose values change: what depends on them is not linear.
    """
    placeholders = graph.graph.find_nodes(op="placeholder")
    linear, batch = set(placeholders[:arguments]), set(placeholders[:1])
    for node in graph.graph.nodes:
        if node.op not in ("call_function", "get_attr"):
            continue
        if node.op == "get_attr" or node.target is _SIZE:
            linear.add(node)
            continue
        parents = node.all_input_nodes
        if any(parent in batch for parent in parents):
            batch.add(node)
        name = getattr(node.target, "overloadpacket", node.target)
        name = getattr(name, "__name__", str(name))
        # From args, since v * v has one parent, but two factors.
        varying = [each for each in node.args if isinstance(each, torch.fx.Node) and not _is_constant(each)]
        inherits = all(parent in linear for parent in parents)
        rounds = name == "_to_copy" and not node.kwargs.get("dtype", torch.float64).is_floating_point
        keeps = not rounds and (
            name in _STRUCTURAL | {"add", "sub", "rsub", "getitem"}
            or all(map(_is_constant, parents))
            or (name == "mul" and len(varying) == 1)
            or (name == "div" and len(varying) == 1 and varying[0] is node.args[0])
        )
        if inherits and keeps:
            linear.add(node)
    return linear, batch


def _is_constant(node) -> bool:
    if node.op == "get_attr" or node.target is _SIZE:
        return True
    return node.op == "call_function" and all(map(_is_constant, node.all_input_nodes))


def holds_precision(graph) -> bool:
    """Whether a graph computes in the precision of its trace only: it names a type, or holds tensors of one."""
    return any(
        "dtype" in node.kwargs or (node.op == "get_attr" and getattr(graph, node.target).is_floating_point())
        for node in graph.graph.nodes
    )


def jacobian(graph, probes, captured, wanted, other_sizes):
    """For each wanted parameter: (derivative by one image's inputs (n,), by the weights, value at 0), exact.

    None for those not wanted, and for those that turn out not to be linear at the probes or, since they follow from
    the size of the batch, at probes of another one.
    """
    zeros = [torch.zeros_like(probe).requires_grad_() for probe in probes]
    values = graph(*zeros, *captured)
    there, elsewhere = graph(*probes, *captured), graph(*other_sizes, *captured)
    rows = []
    for value, at_probes, at_others, yes in zip(values, there, elsewhere, wanted, strict=True):
        if value.ndim > 1 or (value.ndim == 1 and len(value) not in (1, len(probes[0]))):
            raise NotCompilable(f"an angle of shape {tuple(value.shape)}")
        if not yes:
            rows.append(None)
            continue
        first = value.reshape(-1)[0]
        if first.requires_grad:
            gradients = torch.autograd.grad(first, zeros, retain_graph=True, allow_unused=True)
        else:
            gradients = [None] * len(zeros)
        filled = [torch.zeros_like(z) if g is None else g for g, z in zip(gradients, zeros, strict=True)]
        weights = filled[1].flatten().cpu().numpy() if len(filled) > 1 else np.zeros(0)
        row = filled[0][0].cpu().numpy(), weights, first.item()
        right = _reproduces(row, probes, at_probes) and _reproduces(row, other_sizes, at_others)
        rows.append(row if right else None)
    return rows


def _reproduces(row, probes, value) -> bool:
    """Whether a row of `jacobian` gives a parameter's value at the first of the probes."""
    by_input, by_weights, offset = row
    predicted = offset + by_input @ probes[0][0].cpu().numpy()
    if len(probes) > 1:
        predicted += by_weights @ probes[1].flatten().cpu().numpy()
    return abs(predicted - value.reshape(-1)[0].item()) <= 1e3 * torch.finfo(value.dtype).eps * (1 + abs(predicted))


class Replay(nn.Module):
    """A graph of angles, whose constants move with the module but keep their type: they are the function's own."""

    def __init__(self, graph):
        super().__init__()
        graph._non_persistent_buffers_set.update(graph._buffers)  # constants of the trace are not state
        self.graph, self.exact = graph, Outside(graph._buffers.items())

    def _apply(self, fn, recurse=True):
        """Every conversion of a module comes here, also one of a module around this one."""
        super()._apply(fn, recurse)
        for name, constant in self.exact:
            self.graph._buffers[name] = constant.to(self.graph._buffers[name].device)
        return self

    def forward(self, *arguments):
        return self.graph(*arguments)
