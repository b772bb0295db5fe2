"""Credit fidelity: do a method's rewards, and the advantages made of them, put credit where it belongs?

The measure is per span of a response, against two truths: the span's credit, and the Monte Carlo estimate of its true
advantage under the policy that wrote it, A(span) = V(after the span) - V(before it), where V averages the true return
of sampled continuations. Rewards alone would score a bandit trivially (everything sits on the last token) and favour an
even split, hence the advantages, which are what moves the policy: those of the row's trainer (`signals.py`).

Left out: credit inside a span, which the testbed does not define.
"""

import numpy as np
import torch
from scipy.stats import spearmanr


def pool(values: torch.Tensor, span_ids: torch.Tensor, how: str) -> torch.Tensor:
    """Per-token values [B, T] pooled over spans to [B, N]: "sum" or "mean"; span_ids are -1 where a token belongs to
    none."""
    n = int(span_ids.max()) + 1
    index = torch.where(span_ids < 0, n, span_ids)
    total = torch.zeros(len(values), n + 1, dtype=values.dtype).scatter_add(1, index, values)[:, :n]
    if how == "sum":
        return total
    count = torch.zeros(len(values), n + 1, dtype=values.dtype).scatter_add(1, index, torch.ones_like(values))[:, :n]
    return total / count.clamp(min=1)


def agreement(estimate: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Pearson and Spearman correlation, and the share of spans of non-zero truth whose sign agrees once both are
    centred (a constant is no credit). Where either does not vary, the correlation is 0 and sign agreement one half."""
    if min(np.std(estimate), np.std(truth)) < 1e-12:
        return {"pearson": 0.0, "spearman": 0.0, "sign": 0.5}
    e, t = estimate - estimate.mean(), truth - truth.mean()
    signed = np.abs(t) > 1e-9
    return {
        "pearson": float(np.corrcoef(estimate, truth)[0, 1]),
        "spearman": float(spearmanr(estimate, truth).statistic),
        "sign": float(np.mean(np.sign(e[signed]) == np.sign(t[signed]))),
    }


def fidelity(
    rewards: torch.Tensor,
    advantages: torch.Tensor,
    span_ids: torch.Tensor,
    credits: torch.Tensor,
    monte_carlo: torch.Tensor,
) -> dict[str, float]:
    """Agreement of rewards (summed per span) and of advantages (mean over the span's tokens) with span credits and
    Monte Carlo advantages, over all spans of all responses. rewards, advantages, span_ids [B, T]; credits, monte_carlo
    [B, N]."""
    n = int(span_ids.max()) + 1
    held = (torch.arange(n)[None] <= span_ids.max(1, keepdim=True).values).numpy()
    estimates = {"rewards": pool(rewards, span_ids, "sum"), "advantages": pool(advantages, span_ids, "mean")}
    truths = {"credit": credits[:, :n], "monte_carlo": monte_carlo[:, :n]}
    return {
        f"{what}_{against}_{name}": value
        for what, estimate in estimates.items()
        for against, truth in truths.items()
        for name, value in agreement(estimate.double().numpy()[held], truth.double().numpy()[held]).items()
    }
