"""How a tape's parameters follow from the arguments: which are linear in them, which depend on the image."""

import numpy as np
import torch

from .ir import NotCompilable

_STRUCTURAL = {"select", "slice", "view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "permute", "transpose",
               "t", "expand", "clone", "_to_copy", "alias", "stack", "cat", "unbind", "neg"}  # fmt: skip


def classify(graph):
    """Nodes that are linear in the arguments (plus a constant), and nodes that depend on the first one."""
    linear, batch = set(), set()
    for place, node in enumerate(n for n in graph.graph.nodes if n.op == "placeholder"):
        linear.add(node)
        if place == 0:
            batch.add(node)
    for node in graph.graph.nodes:
        if node.op not in ("call_function", "get_attr"):
            continue
        parents = node.all_input_nodes
        if any(parent in batch for parent in parents):
            batch.add(node)
        if node.op == "get_attr":
            linear.add(node)
            continue
        name = getattr(node.target, "overloadpacket", node.target)
        name = getattr(name, "__name__", str(name))
        # From args, since v * v has one parent, but two factors.
        varying = [each for each in node.args if isinstance(each, torch.fx.Node) and not _is_constant(each)]
        inherits = all(parent in linear for parent in parents)
        keeps = (
            name in _STRUCTURAL | {"add", "sub", "rsub", "getitem"}
            or all(map(_is_constant, parents))
            or (name == "mul" and len(varying) == 1)
            or (name == "div" and len(varying) == 1 and varying[0] is node.args[0])
        )
        if inherits and keeps:
            linear.add(node)
    return linear, batch


def _is_constant(node) -> bool:
    return node.op == "get_attr" or (node.op == "call_function" and all(map(_is_constant, node.all_input_nodes)))


def jacobian(graph, probes, wanted):
    """For each wanted parameter: (derivative by one image's inputs (n,), by the weights, value at 0), exact."""
    zeros = [torch.zeros_like(probe).requires_grad_() for probe in probes]
    values = graph(*zeros)
    rows = []
    for value, yes in zip(values, wanted, strict=True):
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
        weights = filled[1].flatten().numpy() if len(filled) > 1 else np.zeros(0)
        rows.append((filled[0][0].numpy(), weights, first.item()))
    return rows
