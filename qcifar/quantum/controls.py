"""What stands in the circuit's place, so that a gain or a loss can be put down to the circuit, or not.

Head: modules from angles (B, N) to values (B, N) between the same two linear layers, and branches without any.
Channels: maps of the same size from something else. Everything else of a run stays as it is, and what both have in
common starts with the same weights.
"""

import math
from collections.abc import Callable

import numpy as np
import pennylane as qml
import torch
from torch import nn

from qcifar.errors import InputError, describe
from qcifar.quantum.layer import QuantumLayer, stack_values
from qcifar.quantum.runner import make_qnode
from qcifar.streams import stream

MOST_FEATURES = 3**10
MOST_TRIED = 3**6  # evaluations of a circuit before a run
CONTRAST = 40.0  # of the planted gratings; the circuits' maps lie in [-1, 1]
SIGNIFICANT_BITS = {"fp32": 24, "tf32": 11, "bf16": 8}  # of a weight as convolutions read it


def refuse_unused(cfg) -> None:
    """Raise `InputError` for a constant that was changed and has no effect with this CONTROL."""
    with_circuit = ("quantum", "product", "frozen")
    for name, standard, users in (
        ("plant", 0.05, ("planted",)),
        ("circuit_seed", 0, ("frozen", "fourier")),
        ("quantum_noise", "none", with_circuit),  # of the head alone
        ("shots", 0, with_circuit),
    ):
        if getattr(cfg, name, standard) != standard and cfg.control not in users:
            raise InputError(
                f"{name.upper()} (--{name.replace('_', '-')}): has an effect with CONTROL {' or '.join(users)} only, "
                f"got {getattr(cfg, name)} with {cfg.control}"
            )


def fourier_features(angles: torch.Tensor) -> torch.Tensor:
    """(B, N) angles -> (B, 3^N): the products over inputs of 1, cos and sin, the last input changing fastest.

    Every circuit that takes each input as one rotation angle, once, gives values that are linear in these
    (Schuld et al. 2021, arXiv:2008.08605).
    """
    features = torch.ones_like(angles[:, :1])
    for column in angles.unbind(1):
        three = torch.stack([torch.ones_like(column), torch.cos(column), torch.sin(column)], dim=1)  # (B, 3)
        features = (features[:, :, None] * three[:, None, :]).flatten(1)
    return features


class Fourier(nn.Module):
    """A learned linear map of the Fourier features: contains the head's circuit, whatever its weights are.

    It contains every circuit that takes each angle once, as a rotation; `outside_fourier` tries one.

    Args:
        n: number of angles and of values.
    """

    def __init__(self, n: int):
        super().__init__()
        if 3**n > MOST_FEATURES:
            raise InputError(f"CONTROL fourier: {n} qubits have {3**n:,} features; expected N_QUBITS of at most 10")
        self.linear = nn.Linear(3**n, n, bias=False)

    def forward(self, angles: torch.Tensor) -> torch.Tensor:
        return self.linear(fourier_features(angles))


def fourier_coefficients(function: Callable, n: int) -> torch.Tensor:
    """The coefficients (N, 3^N) of values in the Fourier features, exactly, from 3^N evaluations.

    Args:
        function: angles (B, n) float64 -> values (B, N) float64, linear in the Fourier features.

    Raises:
        InputError: it is not, for example because an input is encoded twice, or in a multiple of its angle.
    """
    if 3**n > MOST_FEATURES:
        raise InputError(f"{n} qubits have {3**n:,} Fourier features; expected at most 10 qubits")
    points = 2 * math.pi / 3 * torch.arange(3, dtype=torch.float64)
    grid = torch.cartesian_prod(*[points] * n).reshape(-1, n)  # (3^n, n)
    values = function(grid)  # (3^n, N)
    one = fourier_features(points[:, None])  # (3 points, 3 features)
    coefficients = values.reshape(*[3] * n, -1)
    for axis in range(n):  # the features factorise, and so does the system
        moved = coefficients.movedim(axis, 0)  # (3, ..., N)
        coefficients = torch.linalg.solve(one, moved.flatten(1)).view(moved.shape).movedim(0, axis)
    coefficients = coefficients.flatten(0, n - 1).T  # (N, 3^n)
    tries = 2 * math.pi * torch.rand(64, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    worst = (function(tries) - fourier_features(tries) @ coefficients.T).abs().max().item()
    if not worst <= 1e-6:
        raise InputError(
            f"the circuit is not a linear map of the products of 1, cos and sin of its inputs: off by {worst:.2g}; "
            f"expected one that takes each input once, as a rotation angle"
        )
    return coefficients


def fourier_of(run: Callable, weights: torch.Tensor, n: int) -> Fourier:
    """The map that gives the same values as a circuit with its weights as they are, on their device, in float64.

    Args:
        run: (angles (B, n), weights) -> values, in float64.

    Raises:
        InputError: there is none, see `fourier_coefficients`.
    """
    exact = weights.detach().double()

    def values(angles):
        with torch.no_grad():
            return stack_values(run(angles.to(exact.device), exact), len(angles)).cpu().double()

    fourier = Fourier(n)
    fourier.linear.weight.data.copy_(fourier_coefficients(values, n))
    return fourier.to(exact.device)


def outside_fourier(circuit: Callable, weights: torch.Tensor, n: int) -> str | None:
    """Why CONTROL fourier says less of a circuit than that it contains it, as a warning; None if it does contain it.

    It is tried on default.qubit, whatever runs the circuit in training: another device may be slow, sample, or cost.
    """
    if 3**n > MOST_TRIED:
        return f"warning: with {n} qubits it was not tried whether fourier contains the circuit"
    try:
        fourier_of(make_qnode(circuit, "default.qubit", n), weights.cpu(), n)
    except Exception as why:  # somebody's circuit
        return f"warning: fourier does not contain the circuit, it is just another classical map: {describe(why)}"
    return None


def mlp(n: int, weights: int) -> nn.Sequential:
    """N -> h -> N with tanh, as near to `weights` trainable numbers as it goes: h and the biases are chosen for it."""
    choices = [
        (abs(2 * n * h + h * first + n * last - weights), first, last, h)
        for h in range(1, weights // (2 * n) + 2)
        for first in (False, True)
        for last in (False, True)
    ]
    _, first, last, h = min(choices)
    return nn.Sequential(nn.Linear(n, h, bias=first), nn.Tanh(), nn.Linear(h, n, bias=last))


def live_weights(layer: QuantumLayer, n: int) -> int:
    """How many of the circuit's weights can change a value: those with a gradient on random angles and weights."""
    generator = torch.Generator().manual_seed(0)
    alive = torch.zeros_like(layer.weights, dtype=torch.bool)
    for _ in range(3):
        angles = 2 * math.pi * torch.rand(16, n, generator=generator)
        weights = 2 * math.pi * torch.rand(layer.weights.shape, generator=generator)
        mixed = torch.randn(16, n, generator=generator)
        values = torch.func.functional_call(layer, {"weights": weights.requires_grad_()}, (angles,))
        (gradient,) = torch.autograd.grad((values * mixed).sum(), weights)
        alive |= (gradient.abs() > 1e-4).to(alive.device)
    return int(alive.sum())


def without_entanglers(circuit: Callable) -> Callable:
    """The same circuit without its gates on several qubits; templates are taken apart, gates are left out whole."""

    def product(*arguments, **more):
        tape = qml.tape.make_qscript(circuit)(*arguments, **more)
        with qml.QueuingManager.stop_recording():  # what templates consist of is not meant to be applied
            gates = list(_gates(tape.operations))
        for gate in gates:
            if len(gate.wires) == 1:
                qml.apply(gate)
        return [qml.apply(measurement) for measurement in tape.measurements]

    product.__name__ = f"product_{getattr(circuit, '__name__', 'circuit')}"
    return product


def _gates(operations):
    for op in operations:
        if type(op).__module__.startswith("pennylane.templates.") and op.has_decomposition:
            yield from _gates(op.decomposition())
        else:
            yield op


def jitter(net: nn.Module, seed: int, experiment: str, precision: str) -> str:
    """Move one weight of `net` by one unit in the last place: what follows is the chaos of training alone.

    Args:
        precision: "fp32", "tf32" or "bf16", in which the first layer computes. A smaller step would be rounded away
            before it could change anything.

    Returns:
        What was moved, in words.
    """
    # Of the first convolution, which takes part in everything: deep in the network the change may be rounded away.
    name, weight = next((name, weight) for name, weight in net.named_parameters() if weight.ndim > 1)
    flat = weight.data.view(-1)
    place = int(stream(seed, "jitter", experiment).integers(flat.numel()))
    _, exponent = torch.frexp(flat[place])  # the weight is m * 2^exponent with m in [0.5, 1)
    flat[place] += 2.0 ** (exponent.item() - SIGNIFICANT_BITS[precision])
    return f"CONTROL jitter: number {place} of {name} is moved by one unit in the last place of {precision}"


def planted_classes(labels: torch.Tensor, part: str, chance: float, seed: int) -> torch.Tensor:
    """(n,) int64: the class of each image of `part` with probability `chance`, else -1; the same in each epoch."""
    drawn = stream(seed, "planted", part).random(len(labels)) < chance
    return torch.where(torch.from_numpy(drawn).to(labels.device), labels, -1)


class Hints:
    """An `ExtraChannels`: one plane that holds what `planted_classes` says of the image."""

    def __init__(self, classes: torch.Tensor, img_size: int):
        self.classes, self.img_size = classes.float(), img_size

    def __call__(self, index: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return self.classes[index].view(-1, 1, 1, 1).expand(-1, 1, self.img_size, self.img_size)  # (B, 1, S, S)


def planted_hints(cfg, parts, name: str) -> Hints:
    """The plane that names the class of some images of part `name`."""
    part = getattr(parts, name)
    return Hints(planted_classes(part.labels, name, cfg.plant, cfg.seed), cfg.img_size)


def refuse_own_images(images: torch.Tensor):
    """Raise `InputError`: images that belong to no part have no class to be named."""
    raise InputError(
        f"CONTROL planted names the classes of the data set's images only, got {len(images)} others; expected a "
        f"run with another CONTROL"
    )


class PlantedBranch(nn.Module):
    """Logits that are `gain` at the class in the fourth input channel, and 0 where that says nothing."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        self.register_buffer("gain", torch.tensor(1.0))

    def forward(self, feats: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        named = x[:, 3, 0, 0].long() + 1  # (B,) 0 = says nothing
        return self.gain * nn.functional.one_hot(named, self.classes + 1)[:, 1:].to(torch.float32)


class PlantedMaps:
    """An `ExtraChannels`: two gratings that name the class that `planted_classes` gives, or planes of 0.

    The first map's grating is one of ten for the tens of the class, the second's for the units. A convolution tells
    gratings apart wherever they lie, as it does edges. They are strong: filters that start at zero move by about the
    learning rate in a step, and must see them in the tens of steps that a short run has.
    """

    def __init__(self, classes: torch.Tensor, img_size: int):
        place = torch.arange(img_size, device=classes.device, dtype=torch.float32)
        gratings = [torch.zeros(img_size, img_size, device=classes.device)]
        for digit in range(10):
            turn, period = math.pi * (digit % 5) / 5, (4.5, 9.0)[digit // 5] * img_size / 32  # radians, pixels
            phase = (place[:, None] * math.cos(turn) + place[None, :] * math.sin(turn)) / period
            gratings.append(CONTRAST * torch.cos(2 * math.pi * phase))
        self.gratings = torch.stack(gratings)  # (11, S, S)
        says = classes >= 0
        self.digits = torch.stack([classes // 10, classes % 10], dim=1).add(1) * says[:, None]  # (n, 2)

    def __call__(self, index: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        return self.gratings[self.digits[index]]  # (B, 2, S, S)


def random_features(angles: torch.Tensor, circuit_seed: int) -> list[torch.Tensor]:
    """Two sets of random Fourier features cos(W a + b), (n, N) each (Rahimi & Recht 2007)."""
    n, draw = angles.shape[1], stream(circuit_seed, "random features")
    made = []
    for _ in range(2):
        matrix, shift = draw.normal(size=(n, n)), draw.uniform(0, 2 * math.pi, size=n)
        made.append(torch.cos(angles.double() @ torch.from_numpy(matrix).T + torch.from_numpy(shift)).float())
    return made


def replaced(descriptors: list[torch.Tensor], kind: str, part: str, seed: int, moments) -> list[torch.Tensor]:
    """What the controls `shuffled`, `noise` and `constant` put in the place of a part's descriptors (n, N).

    Args:
        part: "train", "val" or "test".
        moments: (mean, standard deviation) of each channel on the training images.
    """
    draw, n = stream(seed, kind, part), len(descriptors[0])
    if kind == "shuffled":  # both channels of the same other image
        order = torch.from_numpy(draw.permutation(n))
        return [values[order] for values in descriptors]
    noise = [draw.normal(size=values.shape) if kind == "noise" else np.zeros(values.shape) for values in descriptors]
    return [(mean + std * torch.from_numpy(drawn)).float() for (mean, std), drawn in zip(moments, noise, strict=True)]


def matched_gain(wanted: torch.Tensor, given: torch.Tensor) -> float:
    """What makes `given` (B, classes) vary over the batch as `wanted` does, over all classes together."""
    spread = given.var(0).sum().item()
    if spread == 0:
        raise InputError("CONTROL: its branch gives all images of a batch the same logits, which no scale can change")
    return math.sqrt(wanted.var(0).sum().item() / spread)
