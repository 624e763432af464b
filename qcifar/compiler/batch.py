"""A traced graph for batches of any size.

A trace holds the sizes of its example, also where the function only says `x.shape[0]` or torch expands a tensor.
Two traces that differ in the size of the batch tell which of its numbers are sizes: those that differ, too.
"""

import operator

import torch

from .ir import NotCompilable


def follow_batch(graph: torch.fx.GraphModule, other: torch.fx.GraphModule, size: int, other_size: int):
    """`graph` with every number that follows from the size of the batch computed from its first argument.

    Args:
        graph, other: traces of one function on batches of `size` and `other_size`.

    Raises:
        NotCompilable: they differ in more than such numbers.
    """
    nodes, others = list(graph.graph.nodes), list(other.graph.nodes)
    inputs = nodes[0]
    sizes = _Sizes(graph.graph, inputs, size, other_size)
    alike = len(nodes) == len(others) and all(
        a.op == b.op and (a.op != "call_function" or a.target == b.target) and _same_constant(graph, other, a, b)
        for a, b in zip(nodes, others, strict=True)
    )
    if not alike:
        raise NotCompilable("angles that are computed otherwise for a batch of another size")
    with graph.graph.inserting_before(next(node for node in nodes if node.op != "placeholder")):
        for node, its_twin in zip(nodes, others, strict=True):
            if node.op == "call_function":
                node.args = sizes.followed(node.args, its_twin.args)
                node.kwargs = sizes.followed(node.kwargs, its_twin.kwargs)
    graph.graph.lint()
    graph.recompile()
    return graph


def _same_constant(graph, other, a: torch.fx.Node, b: torch.fx.Node) -> bool:
    if a.op != "get_attr":
        return True
    one, two = getattr(graph, a.target), getattr(other, b.target)
    return one is two or (one.shape == two.shape and one.dtype == two.dtype and bool((one == two).all()))


class _Sizes:
    """Nodes for numbers k * B + c, each made once, where the nodes are being inserted."""

    def __init__(self, graph: torch.fx.Graph, inputs: torch.fx.Node, size: int, other_size: int):
        self.graph, self.inputs, self.size, self.other_size = graph, inputs, size, other_size
        self.made: dict[tuple[int, int], torch.fx.Node] = {}

    def followed(self, value, twin):
        """`value` of the one trace with each integer replaced that is another one in the other trace, `twin`."""
        if isinstance(value, (list, tuple)) and len(value) == len(twin):
            return type(value)(self.followed(a, b) for a, b in zip(value, twin, strict=True))
        if isinstance(value, dict):
            return {key: self.followed(value[key], twin[key]) for key in value}
        if isinstance(value, torch.fx.Node) or value == twin:
            return value
        factor, rest = divmod(twin - value, self.other_size - self.size) if type(value) is type(twin) is int else (0, 1)
        if rest:
            raise NotCompilable("angles in which another number than a size follows from the size of the batch")
        return self._node(factor, value - factor * self.size)

    def _node(self, factor: int, offset: int) -> torch.fx.Node:
        if (factor, offset) not in self.made:
            node = self.made.get((1, 0)) or self.graph.call_function(torch.ops.aten.sym_size.int, (self.inputs, 0))
            self.made[1, 0] = node
            if factor != 1:
                node = self.graph.call_function(operator.mul, (node, factor))
            if offset:
                node = self.graph.call_function(operator.add, (node, offset))
            self.made[factor, offset] = node
        return self.made[factor, offset]
