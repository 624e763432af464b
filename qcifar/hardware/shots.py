"""Finite numbers of shots: outcomes drawn from probabilities, values and standard errors from outcomes."""


def sample(probabilities, shots: int, generator):
    """Frequencies (B, 2^n) of `shots` outcomes for each row; 0 shots: the probabilities themselves.

    Args:
        probabilities: (B, 2^n) tensor.
        generator: NumPy generator, from `qcifar.streams.stream(seed, "shots", ...)`.
    """
    raise NotImplementedError


def expvals_from(frequencies, words):
    """(B, outputs) from frequencies (B, 2^n): mean of the product of signs of the wires in each of `words`."""
    raise NotImplementedError


def standard_errors(values, shots: int):
    """Of means of signs: sqrt((1 - value^2) / shots), like `values`; zeros for 0 shots."""
    raise NotImplementedError
