"""The optimiser once more, from its formulas in float64 NumPy.

Shares no code with the package: parameters and gradients are flat dicts of arrays.
"""

from collections.abc import Iterable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def rate(peak: float, warmup: int, step: int, steps: int) -> float:
    """The updates, numbered from one, on a line up to the peak and on half a cosine."""
    number = step + 1
    if number <= warmup:
        return peak * number / warmup
    return peak * np.cos(np.pi / 2 * (number - warmup) / (steps + 1 - warmup)) ** 2


def norm(arrays: Arrays) -> float:
    return float(np.sqrt(sum((x.astype(float) ** 2).sum() for x in arrays.values())))


class AdamW:
    """Clipped by the global norm, with decay of some names (Loshchilov 2019)."""

    def __init__(
        self, params: Arrays, *, decay: float, b2: float, clip: float, decayed: Iterable
    ) -> None:
        self.params = {name: x.astype(float) for name, x in params.items()}
        self.first = {name: np.zeros(x.shape) for name, x in params.items()}
        self.second = {name: np.zeros(x.shape) for name, x in params.items()}
        self.decay, self.b2, self.clip = decay, b2, clip
        self.decayed = set(decayed)
        self.count = 0

    def step(self, gradients: Arrays, rates: Mapping[str, float]) -> None:
        self.count += 1
        shrink = min(1.0, self.clip / norm(gradients))
        for name, value in self.params.items():
            g = gradients[name].astype(float) * shrink
            self.first[name] = 0.9 * self.first[name] + 0.1 * g
            self.second[name] = self.b2 * self.second[name] + (1 - self.b2) * g * g
            mean = self.first[name] / (1 - 0.9**self.count)
            spread = np.sqrt(self.second[name] / (1 - self.b2**self.count))
            move = mean / (spread + 1e-8)
            if name in self.decayed:
                move = move + self.decay * value
            self.params[name] = value - rates[name] * move
