"""A decode step as a CUDA graph: kernels that Python starts one by one cost more than they run, in small models most.

The graph holds addresses: the cache has one shape from the start (`StaticCache`), and what a step takes is copied to
where it was first. A batch that loses rows is another shape: its first step runs as it is, which readies the libraries
that a graph cannot, and its second is captured. Kernels are the same ones; only attention reads the whole cache, so
log-probabilities differ from those of a growing cache by rounding.

Left out, and decoded step by step: sliding windows and states that are no keys and values, attention other than
PyTorch's own (`sdpa`), positions that are scaled by what is read, models that transformers does not compile either.

Book: scale.md
"""

from collections.abc import Callable

import torch
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import StaticLayer


def cache_of(model, tokens: int) -> tuple[DynamicCache | StaticCache, bool]:
    """A cache of keys and values, and whether steps on it can be replayed: it then has room for `tokens`, from the
    start."""
    config = model.config.get_text_config()
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    compiled = getattr(model, "_can_compile_fullgraph", False) and config._attn_implementation == "sdpa"
    if model.device.type == "cuda" and compiled and rope not in ("dynamic", "longrope"):
        fixed = StaticCache(config=model.config, max_cache_len=tokens)
        if all(type(layer) is StaticLayer for layer in fixed.layers):
            return fixed, True
    return DynamicCache(config=model.config), False


def replayed(step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`step` of tensors, as a graph from the second call of each batch size on. What it returns lasts until the next
    call."""
    held: dict = {}

    def call(*given: torch.Tensor) -> torch.Tensor:
        if held.get("rows") != len(given[0]):
            held.clear()
            held["rows"] = len(given[0])
            return step(*given)
        if "graph" not in held:
            held["given"], held["graph"] = [x.clone() for x in given], torch.cuda.CUDAGraph()
            with torch.cuda.graph(held["graph"]):
                held["made"] = step(*held["given"])
        for place, x in zip(held["given"], given, strict=True):
            place.copy_(x)
        held["graph"].replay()
        return held["made"]

    return call
