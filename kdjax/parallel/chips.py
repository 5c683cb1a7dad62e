"""What accelerators can do, by the name that JAX gives them.

Sources: Google Cloud's pages of TPU v4, v5e, v5p and v6e (cloud.google.com/tpu/docs),
which tell what links carry in both directions, of which one is half; the tables of "How
to Scale Your Model" (jax-ml.github.io/scaling-book), which agree to a tenth, and say
what a chip has of the data centre's network; NVIDIA's data sheets of A100, H100 and
H200, and of its DGX machines for the network. Rates are of dense bfloat16.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator, as its maker describes it.

    Attributes:
        peak: floating-point operations per second in dense bfloat16.
        memory: of high bandwidth, in bytes.
        bandwidth: of that memory, in bytes per second.
        interconnect: what all links to other chips send, in bytes per second; as much
            comes back at the same time.
        network: its share of what its host sends to other slices, of a GPU to other
            machines, in bytes per second.
    """

    peak: float
    memory: int
    bandwidth: float
    interconnect: float
    network: float


CHIPS: dict[str, Chip] = {
    "v4": Chip(275e12, 32 * GIB, 1.2e12, 300e9, 6.25e9),
    "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, 3.125e9),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, 6.25e9),
    "v6e": Chip(918e12, 32 * GIB, 1638e9, 400e9, 12.5e9),
    "a100-40": Chip(312e12, 40 * GIB, 1555e9, 300e9, 25e9),
    "a100-80": Chip(312e12, 80 * GIB, 2039e9, 300e9, 25e9),
    "h100": Chip(989e12, 80 * 10**9, 3.35e12, 450e9, 50e9),
    "h100-pcie": Chip(756e12, 80 * 10**9, 2.0e12, 300e9, 50e9),
    "h200": Chip(989e12, 141 * 10**9, 4.8e12, 450e9, 50e9),
}

# Words of a device's kind, in lower case, by the chip; the first that has all is it.
KINDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("tpu v4 lite",), ""),
    (("tpu v4",), "v4"),
    (("tpu v5 lite",), "v5e"),
    (("tpu v5e",), "v5e"),
    (("tpu v5",), "v5p"),
    (("tpu v6",), "v6e"),
    (("a100", "80gb"), "a100-80"),
    (("a100", "40gb"), "a100-40"),
    (("h100", "pcie"), "h100-pcie"),
    (("h100", "nvl"), ""),
    (("h100",), "h100"),
    (("h200", "nvl"), ""),
    (("gh200",), ""),
    (("h200",), "h200"),
)


def chip_of(device_kind: str) -> Chip | None:
    """Return what a device of that kind can do, or None where it is not known."""
    kind = device_kind.lower()
    for words, name in KINDS:
        if all(word in kind for word in words):
            return CHIPS.get(name)
    return None
