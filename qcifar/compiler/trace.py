"""A torch.fx graph of what one call of a function computes with tensors, recorded while it runs.

torch's own `make_fx` gives the same graph, about a hundred times slower, and takes what leaves torch for a constant.
Here a number that is read from an argument, or from a trainable tensor, is refused: it would stay as it was.
"""

import operator
from collections.abc import Callable, Sequence

import torch
from torch import fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .ir import NotCompilable

_ATEN = torch.ops.aten
READ = "a number or a condition that is read from inputs, weights or a trainable tensor"
_LEAVES_TORCH = {"numpy", "tolist", "__array__", "__dlpack__"}
_OF_ONE_SHAPE = ("zeros_like", "ones_like", "empty_like", "new_zeros", "new_ones", "new_empty")  # take no values


def trace(function: Callable, arguments: Sequence[torch.Tensor]) -> fx.GraphModule:
    """The graph of `function`, which returns a list of tensors, with what it takes from outside as attributes.

    Raises:
        NotCompilable: a number is read from an argument or from a trainable tensor, gradients are switched off on the
            way, or an argument is changed in place.
    """
    operations, versions = _Operations(arguments), [argument._version for argument in arguments]
    with operations, _Calls(operations):
        results = function(*arguments)
        operations.graph.output([operations.node_of(result) for result in results])
    if operations.refused:  # also where somebody caught it
        raise NotCompilable(operations.refused)
    if [argument._version for argument in arguments] != versions:
        raise NotCompilable("a function that changes its arguments in place")
    return fx.GraphModule(operations.outside, operations.graph)


class _Operations(TorchDispatchMode):
    """Every operation of torch as a node, with the tensors themselves as the keys of nodes."""

    def __init__(self, arguments):
        super().__init__()
        self.graph, self.outside, self.refused = fx.Graph(), {}, None
        self.nodes: dict[int, fx.Node] = {}
        self.kept = list(arguments)  # so that no two tensors have one id
        self.varying = {_memory(argument) for argument in arguments}  # memory with what follows from them or learns
        for number, argument in enumerate(arguments):
            self.nodes[id(argument)] = self.graph.placeholder(f"argument_{number}")

    def refuse(self, reason: str):
        self.refused = self.refused or reason
        raise NotCompilable(reason)

    def varies(self, tensor) -> bool:
        return tensor.requires_grad or _memory(tensor) in self.varying

    def node_of(self, value):
        """`value` with nodes in place of tensors; a tensor not seen before is an attribute of the graph."""
        if isinstance(value, torch.Tensor):
            if id(value) not in self.nodes:
                name = f"_outside_{len(self.outside)}"
                self.outside[name] = value
                self._keep(value, self.graph.get_attr(name), value.requires_grad)
            return self.nodes[id(value)]
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.node_of, value))
        return value

    def _keep(self, tensor, node, varies: bool) -> None:
        self.kept.append(tensor)
        self.nodes[id(tensor)] = node
        if varies:
            self.varying.add(_memory(tensor))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        varies = any(map(self.varies, _tensors((args, tuple(kwargs.values())))))
        if torch.Tag.data_dependent_output in func.tags:
            if varies:
                self.refuse(READ)
            return func(*args, **kwargs)
        given = self.node_of(args), {name: self.node_of(value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        varies = varies and not func.__name__.startswith(_OF_ONE_SHAPE)
        if func is _ATEN.detach.default and not varies:  # as in `zeros_like`, whose result may be filled
            self._keep(result, given[0][0], False)
            return result
        # A graph that fills what `lift_fresh` gives would change its own constant.
        target = _ATEN.lift_fresh_copy.default if func is _ATEN.lift_fresh.default else func
        node = self.graph.call_function(target, *given)
        if isinstance(result, torch.Tensor):
            node.meta["dtype"] = result.dtype
            self._keep(result, node, varies)
        for number, part in enumerate(result if isinstance(result, (list, tuple)) else ()):
            if isinstance(part, torch.Tensor):
                got = self.graph.call_function(operator.getitem, (node, number))
                got.meta["dtype"] = part.dtype
                self._keep(part, got, varies)
        return result


class _Calls(TorchFunctionMode):
    """Notices what no operation shows: values that leave torch, and gradients that are switched off."""

    def __init__(self, operations: _Operations):
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if not torch.is_grad_enabled():
            self.operations.refuse("angles computed under torch.no_grad")
        if getattr(func, "__name__", "") in _LEAVES_TORCH and any(map(self.operations.varies, _tensors(args))):
            self.operations.refuse(READ)
        return func(*args, **(kwargs or {}))


def _memory(tensor) -> int:
    """What a tensor shares with its views."""
    return tensor.untyped_storage()._cdata


def _tensors(values):
    """All tensors in nested tuples and lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def digest(graph: fx.GraphModule) -> tuple[tuple, list]:
    """A value that is equal for graphs that compute the same, whatever they are computed on, and what must live for it.

    Trainable tensors count by identity, other attributes by their content.
    """
    place: dict[fx.Node, int] = {}
    learn, entries = [], []

    def token(value):
        if isinstance(value, fx.Node):
            return "node", place[value]
        if isinstance(value, (list, tuple)):
            return tuple(map(token, value))
        if isinstance(value, dict):
            return tuple((name, token(part)) for name, part in value.items())
        return "device" if isinstance(value, torch.device) else (type(value).__name__, repr(value))

    for number, node in enumerate(graph.graph.nodes):
        place[node] = number
        if node.op == "get_attr":
            tensor = getattr(graph, node.target)
            learn += [tensor] if tensor.requires_grad else []
            entries.append(id(tensor) if tensor.requires_grad else content(tensor))
        else:
            entries.append(
                (node.op, node.target if node.op == "call_function" else "", token(node.args), token(node.kwargs))
            )
    return tuple(entries), learn


def content(tensor: torch.Tensor) -> tuple:
    """A value that is equal for tensors of equal type, shape and content."""
    there = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return tensor.dtype, tuple(tensor.shape), there.reshape(-1).view(torch.uint8).numpy().tobytes()
