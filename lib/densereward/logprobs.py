"""Log-probability and entropy of given completion tokens, in one forward pass and without a [B, T, V] tensor.

Built on TRL's fused LM head, which folds tiles of logits into a running logsumexp. The head always runs in float32,
also on a bfloat16 model: entropies are compared with a cut-off in nats, and bfloat16 logits would move them by a
hundredth.

Positions are counted over real tokens, as `generate()` counts them, so that left padding never changes a result. Models
with RoPE (Llama, Qwen) see only differences of positions and would not need it; those with absolute positions (GPT-2)
do.

Left out: temperatures other than 1 (the entropies would no longer be those of the model), multimodal inputs.
"""

import functools
import inspect
from dataclasses import dataclass
from types import MethodType

import torch
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head


def fused_head(model: torch.nn.Module) -> torch.nn.Module:
    """Give a causal LM TRL's fused head, once; returns the bare model, without the DeepSpeed or DDP wrapper around it.

    The head lives in the instance's `forward`. A deep copy inherits that together with its closure, which would run the
    *original's* weights when the copy generates; hence the owner's mark, and a fresh start where it is another's."""
    while isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module
    if model.__dict__.get("_fused_head_owner") != id(model):
        model.__dict__.pop("forward", None)
        add_fused_lm_head(model, cast_lm_head_to_fp32=True, outputs=("log_probs", "entropy"))
        model._fused_head_owner = id(model)
    return model


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
        values = self.critic.token_scores(kwargs["input_ids"], kwargs["attention_mask"])
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
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, :-completion_length] = -100
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    if "position_ids" in inspect.signature(type(fused_head(model)).forward).parameters:
        inputs["position_ids"] = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
    rows = range(0, len(input_ids), batch_size or len(input_ids))
    chunks = [{name: x[i : i + rows.step] for name, x in inputs.items()} for i in rows]
    outputs = [model(**chunk, fused_lm_head=True) for chunk in chunks]
    fields = [field for field in ("log_probs", "entropy", "token_values") if field in outputs[0]]
    return {field: torch.cat([output[field][:, -completion_length:] for output in outputs]) for field in fields}


def logprobs_and_entropy(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each completion token and entropy of the distribution that predicted it: float32 [B, T], nats.

    `input_ids` and `attention_mask` [B, L] hold left-padded prompts followed by T = `completion_length` columns of
    right-padded completions. Both are zero on padding. Differentiable: wrap it in `torch.no_grad()` to score only."""
    outputs = completion_forward(model, input_ids, attention_mask, completion_length)
    return outputs["log_probs"], outputs["entropy"]
