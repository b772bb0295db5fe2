"""Log-probability and entropy of given completion tokens, in one forward pass and without a [B, T, V] tensor.

Built on TRL's fused LM head, which folds tiles of logits into a running logsumexp. The head always runs in float32,
also on a bfloat16 model: entropies are compared with a cut-off in nats, and bfloat16 logits would move them by a
hundredth.

Rows are moved to the left before the pass. So positions are counted over real tokens, as `generate()` counts them, and
all padding is at the end, where causal attention never looks: the pass needs no mask.

On a CPU a small vocabulary is read off plain logits of the completion's columns instead: TRL's head makes its tiles
once more in the backward pass. For a large one its tiles are made to fit a CPU's cache there, and of completions alone.

Left out: temperatures other than 1 (the entropies would no longer be those of the model), multimodal inputs.

Book: segmentation.md
"""

import functools
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import MethodType
from unittest.mock import patch

import torch
import torch.nn.functional as F
from trl.trainer import utils as trl
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

ONE_TILE = 4096  # the largest vocabulary whose logits are made as a whole
# of TRL's head on a CPU: words a tile (a GPU's 32,768 leave the cache and take twice as long); labelled positions alone
ON_CPU = {"_CHUNKED_LOGPROB_CHUNK_SIZE": 512, "_use_triton": lambda device: True}


def fused_head(model: torch.nn.Module) -> torch.nn.Module:
    """Give a causal LM TRL's fused head, once; returns the bare model, without the DeepSpeed or DDP wrapper around it.

    The head lives in the instance's `forward`. A deep copy inherits that together with its closure, which would run the
    *original's* weights when the copy generates; hence the owner's mark, and a fresh start where it is another's."""
    while isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module
    if model.__dict__.get("_fused_head_owner") != id(model):
        model.__dict__.pop("forward", None)
        add_fused_lm_head(model, cast_lm_head_to_fp32=True, outputs=("log_probs", "entropy"))
        model.forward = MethodType(_plain_where_small(model.forward, type(model).forward), model)
        model._fused_head_owner = id(model)
    return model


def _plain_where_small(fused: Callable, of_class: Callable) -> Callable:
    """TRL's `fused` forward, with plain logits in its place where these are the cheaper way to the same numbers."""
    keeps = "logits_to_keep" in inspect.signature(of_class).parameters

    @functools.wraps(of_class)
    def forward(self, *args, fused_lm_head=False, labels=None, **kwargs):
        small = keeps and self.device.type == "cpu" and self.dtype == torch.float32
        small = small and self.config.get_text_config().vocab_size <= ONE_TILE and not torch.is_autocast_enabled("cpu")
        if not (fused_lm_head and small and labels is not None):
            labelled = {} if labels is None else {"labels": labels}
            with patch.multiple(trl, **ON_CPU) if fused_lm_head and self.device.type == "cpu" else nullcontext():
                return fused(*args, fused_lm_head=fused_lm_head, **labelled, **kwargs)
        targets = labels[:, 1:]
        before = int((targets == -100).all(0).long().cumprod(0).sum().clamp(max=targets.size(1) - 1))  # columns unread
        read = kwargs | {"use_cache": False, "logits_to_keep": labels.size(1) - before}
        logps = fused(*args, **read).logits[:, :-1].log_softmax(-1)  # [B, K, V]
        unread = targets[:, before:] == -100
        log_probs = logps.gather(2, targets[:, before:].clamp(min=0)[..., None])[..., 0]
        entropy = -(logps.exp() * logps).sum(-1)
        fields = [F.pad(x.masked_fill(unread, 0), (before, 0)) for x in (log_probs, entropy)]  # [B, L-1]
        loss = -fields[0].sum() / (~unread).sum().clamp(min=1)
        return FusedCausalLMOutput(loss=loss, log_probs=fields[0], entropy=fields[1])

    return forward


@dataclass
class ActorCriticOutput(FusedCausalLMOutput):
    """The fused output with `token_values` [B, L-1]: as in `log_probs`, column i is where token i+1 is predicted."""

    token_values: torch.Tensor | None = None


def attach_critic(model: torch.nn.Module, critic: torch.nn.Module) -> None:
    """Make `critic` (`models.TokenScorer`) a child of `model`, whose fused forward then returns its values as well.

    One module, so that one engine holds both. `model.save_pretrained` leaves the critic's weights out."""
    model._fused_head_owner = None  # whoever patched the model before: start from the class's forward
    policy_forward = fused_head(model).forward
    model.critic = critic
    hidden = {f"critic.{key}" for key in critic.state_dict()}
    model._keys_to_ignore_on_save = hidden | set(model._keys_to_ignore_on_save or ())

    @functools.wraps(type(model).forward)
    def forward(self, *args, fused_lm_head=False, **kwargs):
        outputs = policy_forward(*args, fused_lm_head=fused_lm_head, **kwargs)
        if not fused_lm_head:
            return outputs
        values = self.critic.token_scores(kwargs["input_ids"], kwargs.get("attention_mask"))
        return ActorCriticOutput(**outputs, token_values=values[:, :-1])

    model.forward = MethodType(forward, model)


def completion_forward(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion_length: int,
    batch_size: int | None = None,
) -> dict[str, torch.Tensor]:
    """`log_probs`, `entropy` and, with a critic, `token_values` of the completion, each [B, T]; `batch_size` rows at a
    time.

    Column t belongs to the prediction of completion token t: the value is that of the state *before* it. Raises
    ValueError when no prompt token is left to predict the first completion token from."""
    if not 0 < completion_length < input_ids.size(1):
        raise ValueError(
            f"completion_length is {completion_length} for inputs of {input_ids.size(1)} tokens: it counts the "
            "completion's columns, at least one, after at least one column of prompt"
        )
    ids, labels, first = moved_left(input_ids, attention_mask, completion_length)
    fused_head(model)
    rows = range(0, len(ids), batch_size or len(ids))
    parts = [{"input_ids": ids[i : i + rows.step], "labels": labels[i : i + rows.step]} for i in rows]
    outputs = [model(**part, fused_lm_head=True) for part in parts]
    fields = [field for field in ("log_probs", "entropy", "token_values") if field in outputs[0]]
    columns = first[:, None] + torch.arange(completion_length, device=ids.device)  # [B, T]
    columns, padding = columns.clamp(max=ids.size(1) - 2), attention_mask[:, -completion_length:] == 0
    whole = {field: torch.cat([output[field] for output in outputs]) for field in fields}
    return {field: x.gather(1, columns).masked_fill(padding, 0) for field, x in whole.items()}


def moved_left(ids: torch.Tensor, mask: torch.Tensor, completion_length: int):
    """(ids, labels) [B, W] of left-padded rows with all padding at the end, labels -100 but on completions, and the
    column [B] at which each completion's first token is predicted. W is the longest row's length on a CPU; elsewhere it
    would have to be waited for, and is L."""
    prompt, length = mask[:, :-completion_length].sum(1), mask.sum(1)
    width = int(length.max()) if ids.device.type == "cpu" else ids.size(1)
    steps = torch.arange(max(width, 2), device=ids.device)
    from_ = ((ids.size(1) - completion_length - prompt)[:, None] + steps).clamp(max=ids.size(1) - 1)
    ids = ids.gather(1, from_)
    labels = ids.masked_fill((steps < prompt[:, None]) | (steps >= length[:, None]), -100)
    return ids, labels, (prompt - 1).clamp(min=0)


def logprobs_and_entropy(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each completion token and entropy of the distribution that predicted it: float32 [B, T], nats.

    `input_ids` and `attention_mask` [B, L] hold left-padded prompts followed by T = `completion_length` columns of
    right-padded completions. Both are zero on padding. Differentiable: wrap it in `torch.no_grad()` to score only."""
    outputs = completion_forward(model, input_ids, attention_mask, completion_length)
    return outputs["log_probs"], outputs["entropy"]
