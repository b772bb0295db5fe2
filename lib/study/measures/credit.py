"""Credit fidelity: do a method's rewards, and the advantages made of them, put credit where it belongs?

The measure is per span of a response, against two truths: the span's credit, and the Monte Carlo estimate of its true
advantage under the policy that wrote it, A(span) = V(after the span) - V(before it), where V averages the true return
of sampled continuations. Rewards alone would score a bandit trivially (everything sits on the last token) and favour an
even split, hence the advantages, which are what moves the policy: those of the row's trainer (`signals.py`), read at
the token that decides the span. A mean over the span's tokens would count those before the decision too, whose
advantages no choice of the span is answerable for; it stands beside.

Ranks are what QVal (arXiv 2606.32034) compares dense signals by: does a signal order actions as a reference policy's
values do? Its measure is Spearman's correlation with Q; here it is with the advantage, Q less the value of the state,
since spans of many states are ranked together. Kendall's tau-b stands beside, for the many ties.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch.nn.functional import one_hot

from densereward.reward.rewards import interpolate
from densereward.reward.segments import spread
from densereward.text.logprobs import logprobs_and_entropy
from densereward.text.tokens import joined


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
    """Pearson, Spearman and Kendall correlation, and the share of spans of non-zero truth whose sign agrees once both
    are centred (a constant is no credit). Where either does not vary, they are 0 and sign agreement one half."""
    if min(np.std(estimate), np.std(truth)) < 1e-12:
        return {"pearson": 0.0, "spearman": 0.0, "kendall": 0.0, "sign": 0.5}
    e, t = estimate - estimate.mean(), truth - truth.mean()
    signed = np.abs(t) > 1e-9
    return {
        "pearson": float(np.corrcoef(estimate, truth)[0, 1]),
        "spearman": float(spearmanr(estimate, truth).statistic),
        "kendall": float(kendalltau(estimate, truth).statistic),
        "sign": float(np.mean(np.sign(e[signed]) == np.sign(t[signed]))),
    }


def fidelity(
    rewards: torch.Tensor,
    advantages: torch.Tensor,
    span_ids: torch.Tensor,
    credits: torch.Tensor,
    monte_carlo: torch.Tensor,
    deciding: torch.Tensor,
) -> dict[str, float]:
    """Agreement of rewards (summed per span) and of advantages (at the deciding token; `span_advantages`: mean over the
    span's tokens) with span credits and Monte Carlo advantages, over all spans of all responses. rewards, advantages,
    span_ids [B, T]; credits, monte_carlo, deciding (a token's index) [B, N]."""
    n = int(span_ids.max()) + 1
    held = (torch.arange(n)[None] <= span_ids.max(1, keepdim=True).values).numpy()
    estimates = {
        "rewards": pool(rewards, span_ids, "sum"),
        "advantages": advantages.gather(1, deciding[:, :n]),
        "span_advantages": pool(advantages, span_ids, "mean"),
    }
    truths = {"credit": credits[:, :n], "monte_carlo": monte_carlo[:, :n]}
    return {
        f"{what}_{against}_{name}": value
        for what, estimate in estimates.items()
        for against, truth in truths.items()
        for name, value in agreement(estimate.double().numpy()[held], truth.double().numpy()[held]).items()
    }


def fidelity_parts(
    rewards: torch.Tensor, values: torch.Tensor, span_ids: torch.Tensor, credits: torch.Tensor, deciding: torch.Tensor
) -> dict[str, float]:
    """The Pearson correlation of span credits with PPO's advantages at lambda and gamma 1, taken apart: `own`, what is
    paid from a span's deciding token to its end; `later`, what is paid behind it; `values`, less the critic's. The
    three are covariances over both deviations and add up to `pearson`. Beside them the correlation of what is
    paid for the span itself (`own_pearson`) and its deviation over the advantage's (`own_deviation`). rewards,
    values, span_ids [B, T]; credits, deciding (a token's index) [B, N]. Ours, in no paper."""
    n = int(span_ids.max()) + 1
    held = (torch.arange(n)[None] <= span_ids.max(1, keepdim=True).values).numpy()
    decided = torch.arange(span_ids.size(1)) >= deciding.gather(1, span_ids.clamp(min=0))  # [B, T]
    own = pool(rewards * decided, span_ids, "sum")
    to_go = rewards.flip(1).cumsum(1).flip(1).gather(1, deciding[:, :n])
    made = {"own": own, "later": to_go - own, "values": -values.gather(1, deciding[:, :n])}
    parts, truth = {name: x.double().numpy()[held] for name, x in made.items()}, credits[:, :n].double().numpy()[held]
    advantage = sum(parts.values())
    if min(np.std(advantage), np.std(truth)) < 1e-12:
        return dict.fromkeys((*parts, "pearson", "own_pearson", "own_deviation"), 0.0)
    scale = advantage.std() * truth.std()
    shares = {name: float(np.cov(x, truth, ddof=0)[0, 1] / scale) for name, x in parts.items()}
    alone = {"own_pearson": agreement(parts["own"], truth)["pearson"]}
    alone["own_deviation"] = float(parts["own"].std() / advantage.std())
    return shares | {"pearson": sum(shares.values())} | alone


def gradient_cosine(
    model, batch: dict, advantages: torch.Tensor, spans: torch.Tensor, monte_carlo: torch.Tensor, rows: int = 64
) -> float:
    """The cosine of two policy gradients of `model` on the same answers, by `advantages` [B, T] and by the Monte Carlo
    advantages [B, N] of their spans, [B, T]: at each token of a span they give the true return's gradient without bias.

    Noise of the answers is in both and raises the cosine of any row alike. 0 where one of them is 0."""
    (ids, mask), weights = joined(batch), [p for p in model.parameters() if p.requires_grad]
    ways, sums = (advantages, spread(monte_carlo, spans).to(advantages)), [0.0, 0.0]
    with torch.enable_grad():
        for part in torch.arange(len(ids)).split(rows):
            logps, _ = logprobs_and_entropy(model, ids[part], mask[part], advantages.size(1))
            for i, way in enumerate(ways):
                found = torch.autograd.grad((way[part] * logps).sum(), weights, retain_graph=i == 0)
                sums[i] = sums[i] + torch.cat([g.flatten().double() for g in found])
    return float(torch.nn.functional.cosine_similarity(*sums, dim=0))


def causal_share(
    segment_ids: torch.Tensor, deciding: torch.Tensor, credits: torch.Tensor, how: str, shape: Callable | None = None
) -> float:
    """Of each span's credit, the share that is paid at or after its deciding token, weighted by the credit's size,
    where a segment is paid what is decided in it, `how` (`rewards.INTERPOLATIONS`, or "decided": at the deciding token)
    says at which of its tokens, and `shape` (rewards [B, T] -> rewards [B, T]) moves that on. segment_ids [B, T];
    deciding (a token's index), credits [B, N]. A span that is paid nothing is left out.

    What is paid earlier is no part of the deciding token's reward to go. Ours, in no paper."""
    inside, tokens = segment_ids.gather(1, deciding), torch.arange(segment_ids.size(1))  # [B, N], [T]
    none = torch.zeros(segment_ids.shape)
    paid = in_time = 0.0
    for at, held, worth in zip(deciding.T, inside.T, credits.abs().T):  # one span of every answer: [B]
        decided = one_hot(at, len(tokens)).float()
        scores = one_hot(held.clamp(min=0), int(segment_ids.max()) + 1).float()  # [B, S]
        stream = decided if how == "decided" else interpolate(scores, segment_ids, how)  # [B, T]
        moved = (shape(stream) - shape(none) if shape else stream) * (held >= 0)[:, None]
        total = moved.sum(1)
        worth = worth * (total > 0)
        late = (moved * (tokens >= at[:, None])).sum(1) / total.clamp(min=1e-9)
        paid, in_time = paid + worth.sum(), in_time + (late * worth).sum()
    return float(in_time / paid)
