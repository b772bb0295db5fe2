"""The error of a segment's reward, taken apart: adaptive-mask Eq. 9 to 12, measured and not assumed.

Every token has a true reward r*_t and a noisy one. A partition gives all tokens of a segment one reward r_k: the mean
of their noisy rewards, or the last of them (Section 3.1 names both). With r*_k, the same of the true rewards, exactly

    sum_t (r_k - r*_t)^2 = sum_t (r*_t - r*_k)^2 + sum_t (r_k - r*_k)^2 + 2 sum_t (r_k - r*_k) (r*_k - r*_t)
           total         =     approximation     +         noise        +               cross

and cross is 0 for the mean. Eq. 12 has c^2 K for the noise of K segments. In expectation that holds if the reward is
the mean, the noise is independent from token to token with deviation c, and the partition does not look at it. For the
last token the noise is c^2 N whatever the K, so that no partition which does not look at the noise has a smaller
expected error than single tokens have (Eq. 11).

PARTITIONS are those of the paper and what they are compared with; the optimal one of Eq. 12 knows the truth, and exact
penalised change-point search (PELT) finds it. On the testbed the truth is known per span (`token_truth`).

Left out: rewards that are no mean of token rewards, such as a scorer's that was trained on segments.
"""

import numpy as np
import pandas as pd
import torch
from ruptures import KernelCPD
from sklearn.linear_model import LinearRegression

from densereward.reward.masks import DECISIONS, segment_means
from densereward.reward.rewards import interpolate
from densereward.reward.segments import at_ends, segment, segment_ids, spread
from study.words import PARTITIONS
from testbed import truth as on_testbed

KNOW_THE_TRUTH = ("spans", "optimal")
SEE_THE_NOISE = (*DECISIONS, "search")
PARTS = ("approximation", "noise", "cross", "total")


def _last(values, ids):
    return spread(at_ends(values.masked_fill(ids < 0, 0), ids)[0], ids)


READS = {"mean": segment_means, "last": _last}


def decompose(truth, noisy, ids, reads: str = "mean") -> dict[str, torch.Tensor]:
    """What the module's equation says, of true and noisy rewards [B, T] under segment ids [B, T] (-1 on padding):
    PARTS, tokens, segments, each [B]; in squared units of reward. adaptive-mask Eq. 9-12. reads: a key of READS."""
    real = ids >= 0
    truth, noisy = (x.double().masked_fill(~real, 0) for x in (truth, noisy))
    given, ideal = (READS[reads](x, ids) for x in (noisy, truth))
    found = {
        "approximation": (truth - ideal) ** 2,
        "noise": (given - ideal) ** 2,
        "cross": 2 * (given - ideal) * (ideal - truth),
        "total": (given - truth) ** 2,
    }
    found = {name: (x * real).sum(1) for name, x in found.items()}
    return found | {"tokens": real.sum(1), "segments": ids.max(1).values + 1}


def change_points(values, mask, penalty) -> torch.Tensor:
    """Segment ids [B, T] of the partition with the least sum of squares around segment means plus `penalty` [B], above
    0, for every segment: Eq. 12's minimum over all partitions, for values r* and a penalty of c^2. Exact: PELT, in the
    form that the library has compiled."""
    starts = torch.zeros_like(mask, dtype=torch.bool)
    for row, n in enumerate(mask.bool().sum(1).tolist()):
        if n > 1:
            signal = values[row, :n, None].double().cpu().numpy()
            search = KernelCPD(kernel="linear", min_size=1).fit(signal)
            starts[row, search.predict(pen=float(penalty[row]))[:-1]] = True
    return segment_ids(starts, mask)


def crossings(noisy, mask, baseline, decision: str, delta: float) -> torch.Tensor:
    """Segment ids [B, T] of the adaptive partition: runs of tokens in one state (good, bad, neutral) under a row of
    `masks.DECISIONS`. adaptive-mask Section 3.2.1, Eq. 17."""
    states = DECISIONS[decision]((noisy - baseline).masked_fill(~mask.bool(), 0), delta)
    return segment_ids(torch.nn.functional.pad(states[:, 1:] != states[:, :-1], (1, 0)), mask)


def partitions(batch: dict, tokenizer, ngram: int, entropy_cutoff: float) -> dict[str, torch.Tensor]:
    """Segment ids [B, T] of the partitions that look at no reward, of a batch as `sampling.batch_of` makes it."""
    rows = {
        "sequence": {"kind": "bandit"},
        "sentence": {"kind": "sentence"},
        "ngram": {"kind": "ngram", "n": ngram},
        "entropy": {"kind": "entropy", "cutoff": entropy_cutoff},
        "token": {"kind": "token"},
    }
    inputs = {"mask": batch["completion_mask"], "completion_ids": batch["completion_ids"], "tokenizer": tokenizer}
    return {name: segment(**row, **inputs, entropies=batch["ref_entropies"]) for name, row in rows.items()}


def token_truth(tokenizer, batch: dict, how: str = "repeat") -> tuple[torch.Tensor, torch.Tensor]:
    """(true rewards, span ids), both [B, T], of testbed answers, in credit. The testbed knows credit per span; `how`
    puts it on tokens (`rewards.interpolate`): repeat, every token has its span's, as Eq. 9 compares a token with its
    segment; none, all of it at the span's last token; even, an equal share each. Spans without a token are left out."""
    mask = batch["completion_mask"].cpu()
    completions = [ids[:n] for ids, n in zip(batch["completion_ids"].tolist(), mask.sum(1).tolist())]
    prompts = [on_testbed.text_of(tokenizer, ids) for ids in batch["prompt_ids"].tolist()]
    ids, credits, *_ = on_testbed.spans_of(tokenizer, prompts, completions)
    ids = torch.nn.functional.pad(ids, (0, mask.shape[1] - ids.shape[1]), value=-1)
    starts = torch.nn.functional.pad(ids[:, 1:] != ids[:, :-1], (1, 0))
    return interpolate(credits.double(), ids, how), segment_ids(starts, mask)


def cuts(truth, noisy, mask, fixed: dict[str, torch.Tensor], c: float, delta: float = 1.0) -> dict[str, torch.Tensor]:
    """Segment ids [B, T] of every partition of a batch, in the order of PARTITIONS: those of `fixed`, which look at no
    reward; adaptive ones of the noisy rewards, b being their mean and the offset delta * c; change points of the noisy
    rewards, with a penalty of 2 c^2 ln T (ours; c^2 alone would take noise for changes); and the optimal one.

    ValueError unless c is above 0 and delta is 0 or more."""
    if not c > 0:
        raise ValueError(f"noise is {c!r}; give a deviation above 0: without noise single tokens are exact")
    if not delta >= 0:
        raise ValueError(f"delta is {delta!r}; give an offset of 0 or more, in units of the noise")
    mask = mask.cpu()
    baseline, lengths = noisy[mask.bool()].mean(), mask.sum(1).double()
    found = {name: ids.cpu() for name, ids in fixed.items()}
    for decision in DECISIONS:
        found[decision] = crossings(noisy, mask, baseline, decision, 0.0 if decision == "threshold" else delta * c)
    found["search"] = change_points(noisy, mask, 2 * c**2 * lengths.clamp(min=2).log())
    found["optimal"] = change_points(truth, mask, torch.full_like(lengths, c**2))
    return {name: found[name] for name in PARTITIONS if name in found}


def measure(truth, noisy, mask, fixed: dict[str, torch.Tensor], c: float, delta: float = 1.0) -> pd.DataFrame:
    """`decompose` of one batch under every partition of `cuts` and both READS; a row per answer: answer, partition,
    reads, PARTS, tokens, segments, and `cost`, Eq. 12's c^2 K."""
    frames = []
    for name, ids in cuts(truth, noisy, mask, fixed, c, delta).items():
        for reads in READS:
            found = {k: v.numpy() for k, v in decompose(truth, noisy, ids, reads).items()}
            frame = pd.DataFrame({"answer": np.arange(len(ids)), "partition": name, "reads": reads, **found})
            frames.append(frame.assign(cost=c**2 * frame.segments))
    return pd.concat(frames, ignore_index=True)


def over_noise(truth, mask, fixed, noises, draw: torch.Generator, draws: int = 8, delta: float = 1.0) -> pd.DataFrame:
    """`measure` at every deviation of `noises` (credit), averaged over `draws` of independent Gaussian noise, with a
    column `c`. Tidy: a row per answer, noise, partition, and what is read. Random: `draw`; all noises and partitions
    share its draws."""
    frames = []
    for _ in range(draws):
        noise = torch.randn(truth.shape, generator=draw, dtype=torch.float64)
        frames += [measure(truth, truth + c * noise, mask, fixed, c, delta).assign(c=c) for c in noises]
    keys = ["c", "partition", "reads", "answer"]
    return pd.concat(frames).groupby(keys, sort=False, as_index=False).mean()


def calibrated(truth, scores, mask) -> tuple[torch.Tensor, dict[str, float]]:
    """(a score + b, fitted to the truth by least squares over tokens, [B, T]; what it leaves): the deviation `c` of its
    error, `r2`, `correlation` of the errors of neighbouring tokens, which is 0 for the noise that Eq. 11 assumes, and
    the squared error `constant` of one number for all tokens."""
    real = mask.bool().cpu()
    x, y = scores.double().cpu(), truth.double()
    line = LinearRegression().fit(x[real].numpy()[:, None], y[real].numpy())
    noisy = (line.coef_[0] * x + line.intercept_).masked_fill(~real, 0)
    error, both = noisy - y, real[:, 1:] & real[:, :-1]
    c, constant = float(error[real].std(correction=0)), float(y[real].var(correction=0))
    near = float(np.corrcoef(error[:, 1:][both].numpy(), error[:, :-1][both].numpy())[0, 1])
    return noisy, {"c": c, "r2": 1 - c**2 / constant, "correlation": near, "constant": constant}
