"""What is made of a reward once it is dense: RTO and ABC, of other papers, and pooling, of this study.

Both wrap a reward function (batch -> rewards [B, T], as `dense.reward_function` makes it) and keep its normaliser.

- RTO (Zhong et al. 2024, arXiv 2404.18922): every token is paid `beta` log(pi_DPO / pi_ref), the response its score at
  the last token. Its KL to the SFT model is the trainer's. beta = .05 is what its released code runs with.
- ABC (Chan et al. 2024, arXiv 2402.00782): a share `beta` of the score is paid along the attention of the reward
  model's last token, in its last layer, mean over heads, over the tokens of the response; the rest at the end. beta =
  .8 is what its released experiments run with.
- Pooling: every token is paid the mean of the rewards of its segment, so that the rewards of one method (TLCR's
  tokens) get the boundaries of another (entropy) and each segment keeps its total.

Left out: the clip at .05 that RTO's released code puts on each token's log-ratio reward; ABC's variant with the
attention of the policy (ABC-D).

Book: tlcr.md
"""

import inspect
from collections.abc import Callable

import torch

from densereward.reward.dense import segment_ids
from densereward.reward.masks import segment_means
from densereward.text.logprobs import logprobs_and_entropy
from densereward.text.models import TokenScorer
from densereward.text.tokens import joined

RewardFunction = Callable[[dict], torch.Tensor]
ROWS = 32  # whose attention maps are in memory at once


@torch.no_grad()
def log_ratios(policy, batch: dict) -> torch.Tensor:
    """log(policy / reference) of every completion token, [B, T] (nats), zero on padding; batch holds `ref_logps`."""
    logps, _ = logprobs_and_entropy(policy, *joined(batch), batch["completion_ids"].size(1))
    return (logps - batch["ref_logps"]) * batch["completion_mask"]


def by_log_ratios(reward_fn: RewardFunction, policy, beta: float) -> RewardFunction:
    """RTO: what `reward_fn` pays, plus `beta` times the log-ratio of `policy`, a DPO policy, at every token."""
    policy.eval()
    return lambda batch: reward_fn(batch) + beta * log_ratios(policy, batch)


@torch.no_grad()
def attention_shares(scorer: TokenScorer, batch: dict) -> torch.Tensor:
    """Attention of each response's last token to the response's tokens, [B, T]: last layer, mean over heads, divided by
    its sum, so that each row sums to 1. Zero on padding."""
    (ids, mask), start = joined(batch), batch["prompt_ids"].size(1)
    last = start + batch["completion_mask"].sum(1) - 1  # [B]
    shares = []
    for rows in torch.arange(len(ids), device=ids.device).split(ROWS):
        inputs = {"input_ids": ids[rows], "attention_mask": mask[rows], "use_cache": False}
        if "position_ids" in inspect.signature(scorer.backbone.forward).parameters:
            inputs["position_ids"] = (mask[rows].long().cumsum(1) - 1).clamp(min=0)
        maps = scorer.backbone(**inputs, output_attentions=True).attentions[-1].mean(1)  # [b, P + T, P + T]
        seen = maps[torch.arange(len(rows), device=ids.device), last[rows], start:].float()  # [b, T]
        shares.append(seen * batch["completion_mask"][rows])
    shares = torch.cat(shares)
    return shares / shares.sum(1, keepdim=True)


def by_segments(reward_fn: RewardFunction, segmentation: dict, tokenizer) -> RewardFunction:
    """Pooling: what `reward_fn` pays the tokens of a segment, split evenly over them. `segmentation` is that of
    `segments.segment`, none that is random. ValueError where a token in no segment is paid."""

    def rewards(batch: dict) -> torch.Tensor:
        paid = reward_fn(batch)
        ids = segment_ids(segmentation, batch, tokenizer)
        if paid.masked_fill(ids >= 0, 0).any():
            raise ValueError("a token outside every segment is paid: pooling would lose it; set eos to 'paper'")
        return segment_means(paid, ids).to(paid.dtype)

    return rewards


def by_attention(reward_fn: RewardFunction, scorer: TokenScorer, beta: float) -> RewardFunction:
    """ABC: the share `beta` of each response's total goes where `scorer` looks, 1 - `beta` stays where `reward_fn` pays
    it; totals are kept. ValueError unless 0 <= beta <= 1."""
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}: it is a share of the reward, from 0 to 1")
    scorer.backbone.set_attn_implementation("eager")  # the others return no attention maps
    scorer.eval()

    def rewards(batch: dict) -> torch.Tensor:
        paid = reward_fn(batch)
        return beta * attention_shares(scorer, batch) * paid.sum(1, keepdim=True) + (1 - beta) * paid

    return rewards
