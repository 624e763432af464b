"""What is read from Pauli vectors: expectation values of Pauli words, or probabilities of outcomes.

Readout errors are a linear map at the end: of a qubit that is read along a letter, the matrix (2, 2) of `confusion`.
"""

import functools

import numpy as np
import torch

from qcifar.hardware.evolve import Constants
from qcifar.hardware.pauli import LETTERS, number_of


class Words:
    """Expectation values of sums of Pauli words, each as the mean of the product of signs that are read.

    Args:
        observables: for each output [(coefficient, wire -> letter)].
        confusions: (2, 2) of each wire.
    """

    def __init__(self, observables, confusions):
        self.columns, self.n = len(observables), len(confusions)
        terms: list[tuple[int, int, float]] = []  # (output, number of the word, weight)
        for output, words in enumerate(observables):
            for coefficient, word in words:
                for letters, weight in _as_read(word, confusions):
                    terms.append((output, number_of(letters, self.n), coefficient * weight))
        self.outputs, self.numbers, self.weights = map(np.array, zip(*terms, strict=True))

    def dense(self, constants: Constants) -> torch.Tensor:
        """(4^n, outputs)."""
        matrix = np.zeros((4**self.n, self.columns))
        np.add.at(matrix, (self.numbers, self.outputs), self.weights)
        return constants.of(None, matrix)

    def apply(self, state: torch.Tensor, constants: Constants) -> torch.Tensor:
        """(outputs, B) of Pauli vectors (4^n, B)."""
        spread = np.zeros((self.columns, len(self.numbers)))
        spread[self.outputs, np.arange(len(self.numbers))] = self.weights
        return constants.of(None, spread) @ state.index_select(0, constants.of(None, self.numbers))


class Outcomes:
    """Probabilities of all outcomes where each wire is read along a letter of `basis`; "I" = it is not read."""

    def __init__(self, basis: str, confusions):
        n, read = len(basis), [wire for wire, letter in enumerate(basis) if letter != "I"]
        self.columns, self.n, self.read = 2 ** len(read), n, len(read)
        bits = (np.arange(self.columns)[:, None] >> np.arange(self.read - 1, -1, -1)) & 1
        letters = np.array([LETTERS.index(basis[wire]) << (2 * (n - 1 - wire)) for wire in read], dtype=np.int64)
        self.rows = bits @ letters  # numbers of the words of I and these letters
        self.maps = [confusions[wire] @ np.array([[0.5, 0.5], [0.5, -0.5]]) for wire in read]

    def dense(self, constants: Constants) -> torch.Tensor:
        """(4^n, outcomes)."""
        matrix = np.zeros((4**self.n, self.columns))
        matrix[self.rows] = functools.reduce(np.kron, self.maps).T
        return constants.of(None, matrix)

    def apply(self, state: torch.Tensor, constants: Constants) -> torch.Tensor:
        """(outcomes, B) of Pauli vectors (4^n, B)."""
        values = state.index_select(0, constants.of(None, self.rows))
        for place, matrix in enumerate(self.maps):
            values = torch.matmul(constants.of(None, matrix), values.view(2**place, 2, -1)).view(values.shape)
        return values


def _as_read(word: dict[int, str], confusions) -> list[tuple[dict[int, str], float]]:
    """The words, with weights, whose sum is what the product of signs says on average."""
    found = [({}, 1.0)]
    for wire, letter in word.items():
        signs = np.array([1.0, -1.0]) @ confusions[wire]  # mean sign where 0 and where 1 is true
        shift, scale = signs.sum() / 2, (signs[0] - signs[1]) / 2
        found = [
            (letters | more, weight * factor)
            for letters, weight in found
            for more, factor in (({wire: letter}, scale), ({}, shift))
            if factor
        ]
    return found or [({}, 0.0)]


def grouped(observables, along: str) -> list[tuple[str, list[tuple[int, float, tuple[int, ...]]]]]:
    """[(basis, [(output, coefficient, wires whose signs are multiplied)])]: what can be read along the same axes.

    Args:
        along: the letters along which wires that no word holds are read.
    """
    groups: list[tuple[dict[int, str], list]] = []
    for output, words in enumerate(observables):
        for coefficient, word in words:
            term = output, coefficient, tuple(sorted(word))
            for axes, terms in groups:
                if all(axes.get(wire, letter) == letter for wire, letter in word.items()):
                    axes.update(word)
                    terms.append(term)
                    break
            else:
                groups.append((dict(word), [term]))
    return [("".join(axes.get(wire, letter) for wire, letter in enumerate(along)), terms) for axes, terms in groups]
