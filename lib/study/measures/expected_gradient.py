"""Which ways to pay a total leave the expected policy gradient as it is? All answers of a tiny world, exactly.

With rewards r_s, total R and reward to go G_t = R - sum_{s<t} r_s (gamma = lambda = 1),

    sum_t E[G_t grad log pi(y_t)] = sum_t E[R grad log pi(y_t)] - sum_t sum_{s<t} E[r_s grad log pi(y_t)].

The first sum on the right is the gradient of R paid at the end. The second is 0 where each r_s is a function of y_<=s:
given y_<t it is then a constant, and E[grad log pi(y_t) | y_<t] = 0. Such a stream of rewards is called causal. A
reward that is paid before token t but depends on y_t or on what follows is acausal; its term is not 0 in general.

The policy is a table of logits, a row for every prefix: the gradient of any other policy is a linear function of this
one's. Left out: sampling, the KL term, clipping, whitening. Explained in book/variance.md.
"""

import pandas as pd
import torch
from torch.nn.functional import cosine_similarity, pad

from densereward.reward.rewards import Normaliser, interpolate, normalise
from densereward.reward.segments import at_ends, segment_ids, segment_lengths
from densereward.seeding import generator
from densereward.training.ppo import gae
from study.measures.variance import at_end

PLACE = Normaliser("regression", w_mean=0.5, b_mean=0.0, w_std=0.2, b_std=1.0)  # any slopes but 0 would do


def answers(vocabulary: int = 3, length: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every answer of at most `length` tokens, which token 0 ends: ids, mask [N, T], and a number for each of its
    prefixes, [N, T + 1], of 0 to T tokens. Equal numbers: equal prefixes."""
    ids = torch.cartesian_prod(*[torch.arange(vocabulary)] * length)
    mask = (ids == 0).cumsum(1) - (ids == 0).long() == 0
    steps = torch.arange(length + 1)
    ahead = steps - 1 - steps[:-1, None]  # [s, t]: how many tokens of the first t follow token s
    digits = torch.where(ahead >= 0, vocabulary ** ahead.clamp(min=0), 0)
    prefixes = ids @ digits + vocabulary**steps  # the leading 1 tells lengths apart
    once = (mask | (ids == 0)).all(1)  # of the rows that differ on padding alone
    return ids[once], mask[once], prefixes[once]


def log_probs(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, prefixes: torch.Tensor) -> torch.Tensor:
    """log pi(y_t | y_<t) of a table of logits [prefixes, V]: [N, T]."""
    return logits.log_softmax(1)[prefixes[:, :-1], ids] * mask


def expected_gradient(logps: torch.Tensor, logits: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """sum_y pi(y) sum_t A_t grad log pi(y_t | y_<t) with respect to `logits`: `logps`, `advantages` [N, T]."""
    chance = logps.detach().sum(1).exp()
    expected = (chance @ (advantages * logps)).sum()
    return torch.autograd.grad(expected, logits, retain_graph=True)[0].flatten()


def given(prefixes: torch.Tensor, chance: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """E[x | prefix], x and prefixes [N, T], chance [N]: [N, T]."""
    total, weight = torch.zeros(2, int(prefixes.max()) + 1, dtype=x.dtype)
    for sums, part in ((total, x), (weight, torch.ones_like(x))):
        sums.index_add_(0, prefixes.flatten(), (chance[:, None] * part).flatten())
    return (total / weight)[prefixes]


def streams(scores: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rewards [N, T] by how they are paid, of `scores` [N, T] that are functions of the tokens up to their own.

    A credit has a span of two tokens, the joint first, and is decided at its second one (or where the answer ends). A
    segment, as of entropies, begins where the tokens before it say so: here behind token 1."""
    spans = segment_ids((torch.arange(ids.size(1)) % 2 == 0).expand(ids.shape), mask)
    cut = segment_ids(pad(ids[:, :-1] == 1, (1, 0)), mask)
    last = mask & ~pad(mask[:, 1:], (0, 1))
    credit, (score, held), lengths = at_ends(scores, spans)[0], at_ends(scores, cut), segment_lengths(cut)
    first = scores.gather(1, (lengths.cumsum(1) - lengths).clamp(max=ids.size(1) - 1))
    decided = interpolate(credit, spans, "none")
    later = pad((decided * ~last)[:, :-1], (1, 0)) + decided * last
    return {
        "credit, at the token that decides it": decided,
        "credit, one token later": later,
        "credit, half there and half one token later": (decided + later) / 2,
        "credit, evenly over its span, which begins before": interpolate(credit, spans, "even"),
        "credit, all of it at each token of its span": interpolate(credit, spans, "repeat"),
        "score of each token, at the token": scores,
        "score at a segment's end, at its end": interpolate(score, cut, "none"),
        "score at a segment's end, evenly over it": interpolate(score, cut, "even"),
        "score at a segment's start, evenly over it": interpolate(first, cut, "even"),
        "score at a segment's end, at its end, normalised by place": interpolate(
            normalise(score, held, PLACE), cut, "none"
        ),
    }


def compare(draws: int = 20, seed: int = 0) -> pd.DataFrame:
    """Each stream against its own totals at the end, in tables of logits and scores drawn `draws` times: draw, paid,
    causal; `bias`, the norm of the difference of expected gradients over that at the end, and their `cosine`, both at
    lambda = 1; `critic` and `alone`, the bias at lambda = 0 with the stream's exact values, and with none."""
    (ids, mask, prefixes), rows = answers(), []
    for i in range(draws):
        draw, many = generator(seed, "expected gradient", i), int(prefixes.max()) + 1
        logits = torch.randn(many, int(ids.max()) + 1, generator=draw, dtype=torch.float64).requires_grad_()
        scores = torch.randn(many, generator=draw, dtype=torch.float64)[prefixes[:, 1:]] * mask
        logps, none = log_probs(logits, ids, mask, prefixes), torch.zeros_like(scores)
        chance = logps.detach().sum(1).exp()
        for name, r in streams(scores, ids, mask).items():
            exact = given(prefixes[:, :-1], chance, gae(r, none, mask, 1.0, 1.0)[0])
            ways = ((at_end(r, mask), none, 1.0), (r, none, 1.0), (r, exact, 0.0), (r, none, 0.0))
            goal, *found = (expected_gradient(logps, logits, gae(p, v, mask, 1.0, lam)[0]) for p, v, lam in ways)
            bias = {k: float((g - goal).norm() / goal.norm()) for k, g in zip(("bias", "critic", "alone"), found)}
            causal = bool((given(prefixes[:, 1:], chance, r) - r).abs().max() < 1e-12)
            cosine = float(cosine_similarity(found[0], goal, dim=0))
            rows.append({"draw": i, "paid": name, "causal": causal, "cosine": cosine, **bias})
    return pd.DataFrame(rows)


def table(found: pd.DataFrame) -> pd.DataFrame:
    """`compare` as text, a row per stream: the mean over draws, and the range."""

    def text(x: pd.Series) -> str:
        exact = (x - x.iloc[0].round()).abs().max() < 1e-12
        return f"{abs(x.iloc[0]):.0f}" if exact else f"{x.mean():.2f} [{x.min():.2f}, {x.max():.2f}]"

    rows = []
    for name, part in found.groupby("paid", sort=False):
        row = {"what is paid, and where": name, "causal": "yes" if part.causal.all() else "no"}
        row |= {"difference": text(part.bias), "cosine": text(part.cosine)}
        row |= {"λ = 0, exact critic": text(part.critic), "λ = 0, no critic": text(part.alone)}
        rows.append(row)
    return pd.DataFrame(rows)
