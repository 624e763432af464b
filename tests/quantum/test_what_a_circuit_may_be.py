"""Each line of docs/circuits.md: compiled and equal to default.qubit, run there, or refused in one line."""

import math  # noqa: F401  examples use it
import re

import pennylane as qml
import pytest
import torch
import torch.nn.functional as F  # noqa: F401  likewise
from torch import nn

from cifar100_hybrid_Qhead import make_circuit
from qcifar.compiler import CompiledCircuit
from qcifar.errors import InputError
from qcifar.quantum.checks import check_layer
from qcifar.quantum.layer import QuantumLayer, stack_values
from qcifar.quantum.runner import make_runner
from tests.helpers import ROOT, slow

SHAPE = (2, 4, 3)
PAGE = (ROOT / "docs" / "circuits.md").read_text(encoding="utf-8")
setting = {"factor": 0.7}
scale, shift = nn.Parameter(torch.full((4,), 0.6)), nn.Parameter(torch.full((4,), 0.2))
matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
symmetric = (matrix + matrix.T).to(torch.complex128)
hermitian = torch.tensor([[0.2, 0.3 - 0.1j], [0.3 + 0.1j, -0.4]], dtype=torch.complex128).numpy()


def filled_by_columns(angles):
    made = torch.zeros_like(angles)
    made[:, 0], made[:, 1] = angles[:, 1], 2 * angles[:, 0]
    return made


def without_gradients(angles):
    with torch.no_grad():
        return torch.tanh(angles)


def lines_of(section):
    """(kind, line) of every example in a section of the page."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    blocks = re.findall(r"```(angles|gates|values)\n(.*?)```", text, re.DOTALL)
    return [(kind, line) for kind, block in blocks for line in block.strip().splitlines()]


def circuit_of(kind, line):
    code = compile(line, "docs/circuits.md", "eval")

    def circuit(angles, weights):
        known = globals() | {"angles": angles, "weights": weights}
        if kind == "angles":
            angles = eval(code, known)
        qml.AngleEmbedding(angles, wires=range(4))
        if kind == "gates":
            eval(code, known)
        qml.StronglyEntanglingLayers(weights, wires=range(4))
        return eval(code, known) if kind == "values" else [qml.expval(qml.PauliZ(i)) for i in range(4)]

    return circuit


def results(run, inputs, weights):
    """Values and the gradients by inputs, weights and what the line takes from outside."""
    arguments = [inputs.clone().requires_grad_(), weights.clone().requires_grad_()]
    values = stack_values(run(*arguments), len(inputs))
    ramp = torch.arange(1.0, 5, dtype=values.dtype)
    arguments += [scale, shift]
    gradients = torch.autograd.grad((values * ramp).sum(), arguments, allow_unused=True)
    filled = [torch.zeros_like(a) if g is None else g for a, g in zip(arguments, gradients, strict=True)]
    return [part.detach().double() for part in (values, *filled)]


def compare(circuit, runner, tolerance):
    generator = torch.Generator().manual_seed(2)
    inputs, weights = torch.randn(6, 4, generator=generator), 6.28 * torch.rand(SHAPE, generator=generator)
    node = qml.QNode(circuit, qml.device("default.qubit", wires=5), interface="torch", diff_method="backprop")
    exact = results(node, inputs.double(), weights.double())
    for found, expected in zip(results(runner, inputs, weights), exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_the_page_has_its_examples():
    assert [len(lines_of(section)) for section in ("Compiled", "On default.qubit", "Refused")] == [30, 5, 12]


COMPILED = [line if number % 3 == 0 else slow(*line) for number, line in enumerate(lines_of("Compiled"))]


@pytest.mark.parametrize(("kind", "line"), COMPILED)
def test_compiled_and_equal_to_default_qubit(kind, line):
    circuit = circuit_of(kind, line)
    runner = make_runner(circuit, "fast", 4, SHAPE, "backprop", images=16)
    assert isinstance(runner, CompiledCircuit)
    check_layer(QuantumLayer(runner, torch.rand(SHAPE)), 4, torch.device("cpu"))
    compare(circuit, runner, 2e-4 if "int()" in line else 2e-5)


@pytest.mark.parametrize(("kind", "line"), lines_of("On default.qubit"))
def test_runs_on_default_qubit_and_says_so(kind, line, capsys):
    circuit = circuit_of(kind, line)
    runner = make_runner(circuit, "fast", 4, SHAPE, "backprop", images=16)
    assert isinstance(runner, qml.QNode)
    said = capsys.readouterr().out
    assert "circuit: " in said and "runs on default.qubit by backprop, about 20 times slower" in said
    assert said.count("\n") == 1
    compare(circuit, runner, 2e-5)


@pytest.mark.parametrize(("kind", "line"), lines_of("Refused"))
def test_refused_in_one_line(kind, line):
    with pytest.raises(InputError) as caught:
        runner = make_runner(circuit_of(kind, line), "fast", 4, SHAPE, "backprop", images=16)
        check_layer(QuantumLayer(runner, torch.rand(SHAPE)), 4, torch.device("cpu"))
    assert str(caught.value).startswith("the circuit circuit") and "\n" not in str(caught.value)


def test_a_trainable_tensor_from_outside_learns_wherever_it_comes_from():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((4,), 1.5))
            self.layers = 1
            self.circuit = QuantumLayer(make_runner(self.of, "fast", 4, SHAPE, "backprop"), 6.28 * torch.rand(SHAPE))

        def of(self, angles, weights):
            qml.AngleEmbedding(self.scale * angles, wires=range(4))
            qml.StronglyEntanglingLayers(weights[: self.layers], wires=range(4))
            return [qml.expval(qml.PauliZ(i)) for i in range(4)]

    model, x = Model(), torch.randn(5, 4)
    assert isinstance(model.circuit.runner, CompiledCircuit)
    assert set(dict(model.named_parameters())) == {"scale", "circuit.weights"} == set(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for layers in (1, 2, 2):  # it grows by a layer on the way
        model.layers = layers
        optimizer.zero_grad()
        values = model.circuit(x)
        values.sum().backward()
        node = qml.QNode(model.of, qml.device("default.qubit", wires=4), interface="torch")
        expected = stack_values(node(x.double(), model.circuit.weights.double()), 5)
        (gradient,) = torch.autograd.grad(expected.sum(), model.scale)
        torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.scale.grad, gradient, rtol=0, atol=1e-4)
        optimizer.step()


@pytest.mark.parametrize("change", ["number", "list", "array", "attribute", "function"])
def test_what_a_circuit_reads_is_noticed_when_it_changes(change):
    class Holder:
        factor = 1.0

    import numpy as np

    box, array, holder, number = [1.0], np.ones(2), Holder(), 1.0

    def helper(x):
        return number * x

    def circuit(angles):
        by = {"number": lambda: number, "list": lambda: box[0], "array": lambda: float(array[1]),
              "attribute": lambda: holder.factor, "function": lambda: helper(1.0)}[change]()  # fmt: skip
        qml.RX(by * angles[..., 0], wires=0)
        return qml.expval(qml.PauliZ(0))

    runner, x = make_runner(circuit, "fast", 1), torch.randn(3, 1)
    torch.testing.assert_close(runner(x), x.cos())
    steps = runner.steps
    runner(x)
    assert runner.steps is steps  # not compiled anew where nothing changed
    box[0] = array[1] = number = 2.0
    holder.factor = 2.0
    torch.testing.assert_close(runner(x), (2 * x).cos())
    runner.double()
    box[0] = array[1] = number = holder.factor = 3.0
    assert runner(x.double()).dtype == torch.float64
    torch.testing.assert_close(runner(x.double()), (3 * x.double()).cos())


CONVERSIONS = {
    "half, float": lambda m: m.half().float(),
    "bfloat16, double": lambda m: m.bfloat16().double(),
    "bfloat16": lambda m: m.bfloat16(),
    "half": lambda m: m.half(),
    "half, double, inside another module": lambda m: nn.Sequential(m).half().double()[0],
    "double, float, double": lambda m: m.double().float().double(),
}


@pytest.mark.slow
@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize(
    "line",
    [
        "math.pi * torch.tanh(angles)",
        "torch.stack([torch.sin(angles[:, i] * matrix[0, i]) for i in range(4)], dim=-1)",
        "torch.sin(angles * matrix[0].to(angles.dtype))",
        "torch.tanh(angles @ matrix.to(angles.dtype))",
    ],
)
def test_half_precision_does_not_last_and_is_not_computed_in(line, conversion):
    circuit = circuit_of("angles", line)
    runner = CONVERSIONS[conversion](CompiledCircuit(circuit, 4, SHAPE))
    generator = torch.Generator().manual_seed(2)
    x, w = torch.randn(5, 4, generator=generator).double(), torch.rand(SHAPE, generator=generator).double()
    node = qml.QNode(circuit, qml.device("default.qubit", wires=4), interface="torch")
    expected, values = stack_values(node(x, w), 5), runner(x, w)
    exact = conversion.endswith(("double", "module"))
    assert values.dtype == (torch.float64 if exact else torch.float32)
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-12 if exact else 2e-6)


def test_functions_of_torch_func_and_views_work_as_with_default_qubit():
    circuit = circuit_of("angles", "angles")
    layer = QuantumLayer(make_runner(circuit, "fast", 4, SHAPE, "backprop"), torch.rand(SHAPE))
    x = torch.randn(6, 4)
    expected = torch.autograd.functional.jacobian(layer, x)
    torch.testing.assert_close(torch.func.jacrev(layer)(x), expected)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
    for values in (layer(x), layer(x.requires_grad_())):
        assert values.is_contiguous() and values.view(-1).shape == (24,)
        nn.functional.relu(values, inplace=True)
        values[:, 0] = 0.0


@pytest.mark.slow  # torch.compile
@pytest.mark.parametrize("circuit", [make_circuit(4, 2)[0], circuit_of("angles", "angles")])  # compiled, left as it is
def test_a_second_derivative_under_compile_is_refused(circuit):
    torch._dynamo.reset()  # what other tests compiled
    layer = QuantumLayer(make_runner(circuit, "fast", 4, SHAPE, "backprop"), torch.rand(SHAPE))
    compiled, x = torch.compile(layer, backend="aot_eager"), torch.randn(2, 4, requires_grad=True)
    for wanted in (x, layer.weights):
        with pytest.raises(RuntimeError, match="double backward|differentiable once"):
            (gradient,) = torch.autograd.grad(compiled(x).sum(), wanted, create_graph=True)
            (gradient**2).sum().backward()


@pytest.mark.slow
def test_parameter_shift_is_right_for_a_gate_without_a_shift_rule():
    def circuit(x, w):
        qml.AngleEmbedding(x, wires=range(4))
        qml.StronglyEntanglingLayers(w, wires=range(4))
        qml.cond(qml.measure(1), qml.RY)(w[0, 0, 0], wires=0)
        return [qml.expval(qml.PauliZ(0)), qml.expval(qml.PauliX(0)), qml.expval(qml.PauliZ(2)), qml.expval(qml.Z(3))]

    layer = QuantumLayer(make_runner(circuit, "default.qubit", 4, SHAPE, "parameter-shift"), torch.rand(SHAPE))
    layer(torch.randn(5, 4, generator=torch.Generator().manual_seed(3))).sum().backward()
    weights = layer.weights.detach().double().requires_grad_()
    node = qml.QNode(circuit, qml.device("default.qubit", wires=4), interface="torch", diff_method="backprop")
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(3)).double()
    torch.stack(list(node(x, weights)), -1).sum().backward()
    torch.testing.assert_close(layer.weights.grad.double(), weights.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ignored", ["angles", "weights"])
def test_a_circuit_that_ignores_its_arguments_is_named(ignored):
    def circuit(angles, weights):
        qml.AngleEmbedding(angles.detach() if ignored == "angles" else angles, wires=range(4))
        if ignored == "angles":
            qml.StronglyEntanglingLayers(weights, wires=range(4))
        return [qml.expval(qml.PauliZ(i)) for i in range(4)]

    notes = []
    runner = make_runner(circuit, "fast", 4, SHAPE, "backprop")
    check_layer(QuantumLayer(runner, torch.rand(SHAPE)), 4, torch.device("cpu"), notes.append)
    assert notes == [f"warning: the circuit circuit does not learn by its {ignored}: no gradient reaches them"]
