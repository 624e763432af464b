"""Pauli vectors and transfer matrices: a density matrix of n qubits as 4^n real numbers r_Q = Tr(Q rho).

Pauli words are numbered in base 4 by their letters I, X, Y, Z = 0, 1, 2, 3, qubit 0 first. With these numbers the
product of two words is, up to a phase, the exclusive or of their numbers. (Nielsen & Chuang 2010, chapter 8;
Greenbaum 2015, arXiv:1509.02921.)
"""

import functools

import numpy as np
import torch

LETTERS = "IXYZ"
_ONE = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])


@functools.cache
def words(qubits: int) -> torch.Tensor:
    """(4^k, 2^k, 2^k) complex128: all Pauli words on k qubits, in the order of their numbers."""
    return torch.from_numpy(functools.reduce(_kron_all, [_ONE] * qubits))


def _kron_all(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.array([np.kron(a, b) for a in left for b in right])


def transfer_of(operators: torch.Tensor) -> torch.Tensor:
    """Transfer matrix (..., 4^k, 4^k) of the channel rho -> sum over K of K rho K^dagger; differentiable.

    Args:
        operators: (..., number of K, 2^k, 2^k) complex, a unitary as the only one.
    """
    operators = operators.to(torch.complex128)
    size = operators.shape[-1]
    paulis = words(size.bit_length() - 1).to(operators.device)
    after = torch.einsum("...kab,jbc,...kdc->...jad", operators, paulis, operators.conj())
    return torch.einsum("iba,...jab->...ij", paulis, after).real / size


def digits(numbers: np.ndarray, qubits: int) -> np.ndarray:
    """(..., n) letters of Pauli words, qubit 0 first."""
    return (numbers[..., None] >> (2 * np.arange(qubits - 1, -1, -1))) & 3


def number_of(word: dict[int, str], qubits: int) -> int:
    """Number of a Pauli word, given as qubit -> letter."""
    return sum(LETTERS.index(letter) << (2 * (qubits - 1 - qubit)) for qubit, letter in word.items())


@functools.lru_cache(maxsize=256)
def rotation(word: tuple[tuple[int, str], ...], qubits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What exp(-i angle/2 P) does to a Pauli vector: r[rows] -> cos r[rows] + sin sign r[partners].

    `rows` (4^n / 2,) are the words that do not commute with P; all others stay as they are.
    """
    number = number_of(dict(word), qubits)
    letters, own = digits(np.arange(4**qubits), qubits), digits(np.array(number), qubits)
    clash = (letters != 0) & (own != 0) & (letters != own)
    rows = np.flatnonzero(clash.sum(1) % 2)
    partners = rows ^ number
    # U Q U^dagger = cos Q - i sin P Q; P Q is a word times i^(number of cyclic pairs - number of the others).
    turn = np.where(clash[partners], np.where((letters[partners] - own) % 3 == 1, 1, -1), 0).sum(1)
    return rows, partners, np.where(turn % 4 == 1, 1.0, -1.0)


@functools.cache
def single_rotation(letter: str) -> np.ndarray:
    """(3, 4, 4): exp(-i angle/2 P) on one qubit is [0] + cos [1] + sin [2]."""
    rows, partners, sign = rotation(((0, letter),), 1)
    parts = np.zeros((3, 4, 4))
    parts[0] = np.eye(4)
    parts[0, rows, rows], parts[1, rows, rows], parts[2, rows, partners] = 0.0, 1.0, sign
    return parts


def reversed_qubits(transfer: np.ndarray) -> np.ndarray:
    """The same transfer matrix with its qubits counted from the other end, as Qiskit counts them."""
    qubits = (len(transfer).bit_length() - 1) // 2
    order = [*range(qubits - 1, -1, -1)]
    axes = order + [qubits + axis for axis in order]
    return transfer.reshape([4] * (2 * qubits)).transpose(axes).reshape(transfer.shape)
