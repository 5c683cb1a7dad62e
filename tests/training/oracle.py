"""Schedules and optimisers once more, from their formulas in float64 NumPy.

Shares no code with the package: parameters and gradients are flat dicts of arrays.
"""

from collections.abc import Iterable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def rate(
    peak: float, warmup: int, step: int, steps: int, schedule: str = "cosine"
) -> float:
    """The updates, numbered from one, on a line up to the peak and then down."""
    number = step + 1
    if number <= warmup:
        return peak * number / warmup
    left = max(0, steps + 1 - number) / (steps + 1 - warmup)
    return (
        peak
        * {
            "cosine": np.sin(np.pi / 2 * left) ** 2,
            "linear": left,
            "rsqrt": warmup**0.5 / number**0.5,
            "constant": 1.0,
        }[schedule]
    )


def norm(arrays: Arrays) -> float:
    return float(np.sqrt(sum((x.astype(float) ** 2).sum() for x in arrays.values())))


class Rule:
    """Clipped by the global norm, with decay of some names (Loshchilov 2019)."""

    def __init__(
        self,
        params: Arrays,
        *,
        decay: float,
        b2: float,
        clip: float,
        decayed: Iterable,
        b1: float = 0.9,
    ) -> None:
        self.params = {name: x.astype(float) for name, x in params.items()}
        self.first = {name: np.zeros(x.shape) for name, x in params.items()}
        self.second = {name: np.zeros(x.shape) for name, x in params.items()}
        self.decay, self.b1, self.b2, self.clip = decay, b1, b2, clip
        self.decayed = set(decayed)
        self.count = 0

    def step(self, gradients: Arrays, rates: Mapping[str, object]) -> None:
        self.count += 1
        shrink = min(1.0, self.clip / norm(gradients)) if self.clip else 1.0
        for name, value in self.params.items():
            move = self.move(name, gradients[name].astype(float) * shrink)
            if name in self.decayed:
                move = move + self.decay * value
            self.params[name] = value - rates[name] * move

    def move(self, name: str, g: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class AdamW(Rule):
    """Kingma 2015, algorithm 1."""

    def move(self, name: str, g: np.ndarray) -> np.ndarray:
        self.first[name] = self.b1 * self.first[name] + (1 - self.b1) * g
        self.second[name] = self.b2 * self.second[name] + (1 - self.b2) * g * g
        mean = self.first[name] / (1 - self.b1**self.count)
        spread = np.sqrt(self.second[name] / (1 - self.b2**self.count))
        return mean / (spread + 1e-8)


class Lion(Rule):
    """Chen 2023, program 1."""

    def move(self, name: str, g: np.ndarray) -> np.ndarray:
        between = self.b1 * self.first[name] + (1 - self.b1) * g
        self.first[name] = self.b2 * self.first[name] + (1 - self.b2) * g
        return np.sign(between)


class Adafactor(Rule):
    """Shazeer 2018, algorithms 4 and 5, without scales; every layer by itself.

    Zhai 2022 adds the first moment and bounds the decay of the second.
    """

    def __init__(self, params: Arrays, **options: object) -> None:
        super().__init__(params, **options)
        self.squares: dict[str, object] = {}

    def move(self, name: str, g: np.ndarray) -> np.ndarray:
        if "blocks" in name:
            unit = np.stack([self.unit(f"{name}{i}", x) for i, x in enumerate(g)])
        else:
            unit = self.unit(name, g)
        self.first[name] = self.b1 * self.first[name] + (1 - self.b1) * unit
        return self.first[name]

    def unit(self, name: str, g: np.ndarray) -> np.ndarray:
        b2 = min(self.b2, 1 - self.count**-0.8)
        square = g * g + 1e-30
        if g.ndim == 2 and min(g.shape) >= 128:  # as vectors of sums over the other
            rows, columns = self.squares.get(name, (0, 0))
            rows = b2 * rows + (1 - b2) * square.sum(1)
            columns = b2 * columns + (1 - b2) * square.sum(0)
            self.squares[name] = rows, columns
            square = np.outer(rows, columns) / rows.sum()
        else:
            square = b2 * self.squares.get(name, 0) + (1 - b2) * square
            self.squares[name] = square
        u = g / np.sqrt(square)
        return u / max(1.0, np.sqrt((u * u).mean()))


class Muon(AdamW):
    """Jordan 2024 with the sizes of Liu 2025, equation 4; AdamW of all but matrices.

    Newton and Schulz's iteration is a polynomial of the singular values. Nesterov's
    momentum is corrected for its start as in Dozat 2016.
    """

    matrices: tuple[str, ...] = ()

    def move(self, name: str, g: np.ndarray) -> np.ndarray:
        if name not in self.matrices:
            return super().move(name, g)
        self.first[name] = 0.95 * self.first[name] + 0.05 * g
        ahead = 0.95 * self.first[name] / (1 - 0.95 ** (self.count + 1))
        ahead = ahead + 0.05 * g / (1 - 0.95**self.count)
        return np.stack([self.orthogonal(x) for x in ahead])

    @staticmethod
    def orthogonal(x: np.ndarray) -> np.ndarray:
        u, s, v = np.linalg.svd(x, full_matrices=False)
        s = s / np.sqrt((s * s).sum())
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        return 0.2 * np.sqrt(max(x.shape)) * (u * s) @ v
