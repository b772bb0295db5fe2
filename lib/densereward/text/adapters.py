"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) on every linear layer, by peft, for any trainer here.

They are put into the model, which stays what it is to trainers, engines and samplers, and are merged into the weights
that are saved, so that every later stage finds an ordinary model. Left out: quantised weights, a reference model that
is the policy without its adapters, and resuming from a checkpoint, which holds merged weights.

Book: scale.md
"""

import re
from collections.abc import Iterator

import torch

SCALE = 2.0  # alpha is twice the rank


def with_adapters(model: torch.nn.Module, rank: int) -> torch.nn.Module:
    """The causal LM or token scorer, in place: its weights frozen but for adapters of a rank and a scorer's head, its
    `save_pretrained` of the merged weights. Random: torch's global state. ValueError without peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError(
            f"lora_rank is {rank}, and peft is not installed: pip install -e '.[train]', or give 0"
        ) from None
    scored = getattr(model, "backbone", None)  # a scorer's head is new, and learns as it is
    config = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules="all-linear")
    inject_adapter_in_model(config, model if scored is None else scored)
    if scored is not None:
        model.head.requires_grad_(True)
    plain = model.save_pretrained

    def save_pretrained(folder, state_dict=None, **settings):
        elsewhere = set(model._keys_to_ignore_on_save or ())  # a policy's critic, by its names with adapters
        weights = {name: x for name, x in (state_dict or model.state_dict()).items() if name not in elsewhere}
        plain(folder, state_dict=merged(weights), **settings)

    model.save_pretrained = save_pretrained
    return model


def merged(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by name with every adapter added to its layer's, W + scale B A, under the layer's own name."""
    found = {}
    for name, x in weights.items():
        if match := re.fullmatch(r"(.*)\.base_layer\.(\w+)", name):
            layer, what = match.groups()
            if what == "weight":
                up, down = (weights[f"{layer}.lora_{part}.default.weight"] for part in "BA")
                x = x + SCALE * (up.float() @ down.float()).to(x.dtype)
            found[f"{layer}.{what}"] = x
        elif ".lora_" not in name:
            found[name] = x
    return found


def weights_for(generation) -> Iterator[tuple[str, torch.Tensor]]:
    """The policy's own weights by the names that vLLM knows, adapters merged and a critic left out, of TRL's
    `VLLMGeneration`, which would send both as they are. Every process must iterate: each layer is gathered."""
    model = generation.model
    every, elsewhere = dict(model.named_parameters()), set(model._keys_to_ignore_on_save or ())
    for name in every:
        if name not in elsewhere and ".lora_" not in name:
            layer = name.partition(".base_layer.")[0]
            parts = {n: x for n, x in every.items() if n == name or n.startswith(f"{layer}.lora_")}
            with generation._dist.gather_params(list(parts.values())):
                yield from merged({n: x.data for n, x in parts.items()}).items()
