"""What a discriminator's log-odds pay: TLCR's continuous reward and its ablations.

Follows tlcr Eq. 7 (2p - 1), Section 5 (fixed: +1, -1, and 0 below a confidence of .6), Section 7.3 (one sign left out),
and, as a named option, what its released code does: a second softmax over the two probabilities, which squeezes 2p - 1
into tanh((2p - 1) / 2). The two rewards of one sign have no neutral band, as in that code. Left out: its clip of token
rewards at 5, which binds none of these.

Book: tlcr.md
"""

from collections.abc import Callable

import torch

CONFIDENT = 0.6  # tlcr Section 5: below it a token is neutral


def continuous(p: torch.Tensor) -> torch.Tensor:
    """tlcr Eq. 7: 2p - 1, from -1 to 1."""
    return 2 * p - 1


def fixed(p: torch.Tensor) -> torch.Tensor:
    """+1 or -1 where the likelier class has a probability of `CONFIDENT` or more, else 0 (tlcr Section 5)."""
    return (p >= CONFIDENT).to(p.dtype) - (1 - p >= CONFIDENT).to(p.dtype)


def without_negative(p: torch.Tensor) -> torch.Tensor:
    """Eq. 7, and 0 where it is negative (tlcr Section 7.3)."""
    return continuous(p).clamp(min=0)


def without_positive(p: torch.Tensor) -> torch.Tensor:
    """Eq. 7, and 0 where it is positive (tlcr Section 7.3)."""
    return continuous(p).clamp(max=0)


def second_softmax(p: torch.Tensor) -> torch.Tensor:
    """What the released code takes for p: the first of the softmax of (p, 1 - p), between .269 and .731."""
    return torch.sigmoid(p - (1 - p))


def double_softmax(p: torch.Tensor) -> torch.Tensor:
    """The released code's path: softmax of (p, 1 - p), then Eq. 7."""
    return continuous(second_softmax(p))


def fixed_double_softmax(p: torch.Tensor) -> torch.Tensor:
    """The same with +1, -1 and 0: the band of `fixed` behind the second softmax leaves p from .297 to .703 neutral."""
    return fixed(second_softmax(p))


READINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "continuous": continuous,
    "fixed": fixed,
    "without-negative": without_negative,
    "without-positive": without_positive,
    "double-softmax": double_softmax,
    "fixed-double-softmax": fixed_double_softmax,
}
