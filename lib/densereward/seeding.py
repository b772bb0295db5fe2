"""Randomness by name: every stage and every stream draws from a seed of its own.

One shared stream couples what should be independent (one more dropout draw moves all later data), so each consumer
derives its seed from the run's seed and its own name. Left out: `torch.use_deterministic_algorithms`, which is the
trainer's choice, and the state of data loader workers, which the trainers seed themselves.
"""

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # whoever only draws figures needs no torch
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Stable 31-bit seed, 0..2**31-1, from sha256 of `seed` and `names`: the same on every machine and in every run."""
    text = json.dumps([int(seed), *map(str, names)])  # as a list, ("ab", "c") and ("a", "bc") differ
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


def seed_everything(seed: int) -> None:
    """Seed the global generators of python, numpy and torch (every GPU too), for libraries that draw from them.
    ValueError, numpy's, for a seed beyond 0..2**32-1."""
    from transformers import set_seed

    set_seed(seed)


def generator(seed: int, *names: str | int) -> "torch.Generator":
    """A torch CPU generator of its own for the stream `names`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def rng(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator of its own for the stream `names`."""
    return np.random.default_rng(derive(seed, *names))
