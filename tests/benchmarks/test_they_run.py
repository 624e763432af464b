"""The benchmarks still measure what there is: small, and without looking at how long anything took."""

import pytest

from benchmarks import common, quantum, training
from benchmarks.quantum import Row


def test_circuits_in_every_way_without_peers():
    assert {Row.ours, Row.exact, Row.broadcast, Row.loop} <= quantum.descriptors(4, 1).keys()
    assert {Row.ours, Row.exact, Row.backprop, Row.adjoint} <= quantum.head(4, 2, 8, 1, inductor_too=False).keys()


@pytest.mark.slow
def test_a_step_of_the_head_beside_the_baselines():
    assert quantum.training_step(4, 4, 1) > 0


@pytest.mark.slow
def test_training_in_every_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    small = "--device cpu --dataset synthetic --batch-size 4 --steps 2 --repeats 1 --workers 1"
    training.main(small.split())
    (table,) = (tmp_path / "benchmarks" / "results").glob("training_cpu_32px.md")
    rows = [line.split("|")[1].strip() for line in table.read_text().splitlines() if line.startswith("| ")]
    assert {"baseline", "channels", "head", "baseline, not deterministic", "baseline, bf16"} <= set(rows)
    assert table.read_text() == capsys.readouterr().out
