"""What goes wrong on a device: a channel after each gate, and errors of the readout."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NoiseModel:
    """Channels that follow gates, and readout errors."""

    @classmethod
    def uniform(cls, depolarizing=0.0, two_qubit_depolarizing=None, amplitude_damping=0.0, phase_damping=0.0,
                readout=0.0) -> "NoiseModel":  # fmt: skip
        """The same channels after every gate, on each of its qubits."""
        raise NotImplementedError

    @classmethod
    def parse(cls, text: str) -> "NoiseModel | None":
        """`depolarizing=0.01,readout=0.02` -> `uniform(depolarizing=0.01, readout=0.02)`; "none" -> None.

        Raises:
            InputError: an unknown name, or a number outside [0, 1].
        """
        raise NotImplementedError

    @classmethod
    def from_pennylane(cls, model) -> "NoiseModel":
        """A `qml.NoiseModel`; gates that it does not name are decomposed into gates that it does."""
        raise NotImplementedError

    @classmethod
    def from_qiskit(cls, model) -> "NoiseModel":
        """A noise model of Qiskit Aer, or of a backend, for `NoisyCircuit.from_qiskit` and a transpiled circuit."""
        raise NotImplementedError

    def scaled(self, factor: float) -> "NoiseModel":
        """The same model with every strength times `factor`; of `uniform` models only."""
        raise NotImplementedError
