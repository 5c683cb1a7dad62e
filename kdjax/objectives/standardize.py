"""Statistics of a teacher's outputs, estimated once: PHI-S and principal directions."""

import math

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh, hadamard

from kdjax.errors import UserError

# Rows that are turned to float64 at a time.
CHUNK = 8192


def phi_s(
    rows: Float[np.ndarray, "N W"],
) -> tuple[Float[np.ndarray, " W"], Float[np.ndarray, "W W"]]:
    """Return mean and M of (x - mean) M, which gives every dimension a variance of one.

    PHI-S (Ranzinger 2024, arXiv:2410.01680): M = U H^T / sqrt(mean eigenvalue), with U
    the eigenvectors of the covariance and H an orthonormal Hadamard matrix, so all that
    changes of the rows is where they lie, one scale and a rotation.

    Raises:
        UserError: no Hadamard matrix of that width is known here.
    """
    mean, covariance = _moments(rows)
    values, vectors = eigh(covariance)
    scale = math.sqrt(max(values.mean(), 0)) or 1.0
    return mean, vectors @ orthonormal_hadamard(len(mean)).T / scale


def principal_directions(
    rows: Float[np.ndarray, "N W"],
) -> tuple[Float[np.ndarray, " W"], Float[np.ndarray, "W W"]]:
    """Return the mean and, as columns, all principal directions, the leading first."""
    mean, covariance = _moments(rows)
    return mean, eigh(covariance)[1][:, ::-1]


def _moments(
    rows: Float[np.ndarray, "N W"],
) -> tuple[Float[np.ndarray, " W"], Float[np.ndarray, "W W"]]:
    mean = np.asarray(rows.mean(axis=0, dtype=np.float64))
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(rows), CHUNK):
        centred = rows[start : start + CHUNK].astype(np.float64) - mean
        covariance += centred.T @ centred
    return mean, covariance / len(rows)


def orthonormal_hadamard(width: int) -> Float[np.ndarray, "W W"]:
    """Return an orthogonal matrix whose elements are all of one magnitude.

    Raises:
        UserError: none is made of powers of two, Paley's constructions and products.
    """
    found = _hadamard(width)
    if found is None:
        raise UserError(
            f"form 'phi_s' needs a Hadamard matrix as wide as the teacher's tokens, "
            f"and there is none here of {width}: choose form 'radio'"
        )
    return found / math.sqrt(width)


def _hadamard(size: int) -> np.ndarray | None:
    if size & (size - 1) == 0:
        return hadamard(size, dtype=np.float64)
    if size % 4:
        return None
    if _is_prime(size - 1):
        return _paley_one(size - 1)
    if _is_prime(size // 2 - 1) and size // 2 % 4 == 2:
        return _paley_two(size // 2 - 1)
    for factor in range(2, math.isqrt(size) + 1):
        if size % factor == 0:
            one, other = _hadamard(factor), _hadamard(size // factor)
            if one is not None and other is not None:
                return np.kron(one, other)
    return None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % i for i in range(2, math.isqrt(number) + 1))


def _paley_one(prime: int) -> np.ndarray:
    """Return that of size prime + 1, for a prime that is 3 modulo 4 (Paley 1933)."""
    bordered = np.pad(_residues(prime), ((1, 0), (1, 0)), constant_values=1.0)
    bordered[1:, 0] = -1
    bordered[0, 0] = 0
    return bordered + np.eye(prime + 1)


def _paley_two(prime: int) -> np.ndarray:
    """Return that of size 2 (prime + 1), for a prime that is 1 modulo 4."""
    bordered = np.pad(_residues(prime), ((1, 0), (1, 0)), constant_values=1.0)
    bordered[0, 0] = 0
    one, other = np.array([[1, 1], [1, -1]]), np.array([[1, -1], [-1, -1]])
    return np.kron(bordered, one) + np.kron(np.eye(prime + 1), other)


def _residues(prime: int) -> np.ndarray:
    """Return 1 where j - i is a square modulo a prime and -1 elsewhere, 0 where 0."""
    kinds = np.full(prime, -1.0)
    kinds[np.arange(1, prime) ** 2 % prime] = 1
    kinds[0] = 0
    places = np.arange(prime)
    return kinds[(places - places[:, None]) % prime]
