"""What an adaptive mask keeps, and whether it should: masks of answers whose credit is known.

adaptive-mask argues that a chosen answer holds tokens that should not be learnt, a rejected one tokens that should, and
that a mask tells them apart. It shows no measurement of that. On the testbed a token lies in a span that is worth
something or costs something (`truth.spans_of`): a kept token is *right* where the credit of its span has the sign that
its side stands for, above 0 in a chosen answer, below 0 in a rejected one, and *wrong* where it has the other sign.
Spans worth nothing are neither. A scorer reads from left to right, so before the item of a span it cannot know; at the
last token of a span it can, and what is kept there is told apart.

Intervals are 95% percentile bootstraps over answers, of one scorer. Left out: credit inside a span, which the testbed
does not define.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from densereward.reward.masks import DECISIONS, Masked, adaptive_mask, flips
from densereward.text.tokens import pad_batch
from densereward.training.reward_model import SIDES
from study import words
from study.measures import answer_rewards
from study.measures.constants import estimate, resamples
from study.summary import interval_text
from testbed import truth


class Read(NamedTuple):
    """Answers as masks see them: `rewards`, scorer -> [B, T]; `mask`, bool [B, T]; `chosen`, bool [B]; `segments`, ids
    [B, T] of the row `segment` where that is among the scorers; `credit` [B, T], that of each token's span, and `ends`,
    bool [B, T], the last tokens of spans, or None."""

    rewards: dict[str, torch.Tensor]
    mask: torch.Tensor
    chosen: torch.Tensor
    segments: torch.Tensor | None
    credit: torch.Tensor | None
    ends: torch.Tensor | None


def read(payers: dict[str, answer_rewards.Payer], model, tokenizer, answers: pd.DataFrame) -> Read:
    """What `payers` pay each token of `answer_rewards.answers`, chosen ones first, and its credit where answers have
    a text."""
    prompts, ids = list(answers.prompt_ids), list(answers.completion_ids)
    mask = pad_batch(ids, tokenizer.pad_token_id)[1].bool()
    rewards = {name: torch.zeros(mask.shape) for name in payers}
    segments = torch.full(mask.shape, -1) if "segment" in payers else None
    for index, batch in answer_rewards.batches(model, tokenizer, answers):
        rows, width = torch.tensor(index), batch["completion_mask"].size(1)
        paid, cut = answer_rewards.pay(payers, batch, tokenizer)
        for name, values in paid.items():
            rewards[name][rows, :width] = values.float().cpu()
        if segments is not None:
            segments[rows, :width] = cut["segment"].cpu()
    credit = ends = None
    if "text" in answers:
        texts = [truth.text_of(tokenizer, x) for x in prompts]
        spans, credits, *_ = truth.spans_of(tokenizer, texts, ids)
        credit = credits.gather(1, spans.clamp(min=0)).masked_fill(spans < 0, 0)
        ends = (spans >= 0) & (spans != F.pad(spans[:, 1:], (0, 1), value=-1))
    return Read(rewards, mask, torch.arange(len(ids)) < len(ids) // 2, segments, credit, ends)


def counts(found: Masked, mask, chosen, credit=None, at=None) -> pd.DataFrame:
    """A row per answer: side, tokens, kept, emptied, flips between good and bad, changes of any two classes; with
    credit [B, T] also how many tokens, and how many kept ones, are right and wrong. `at`, bool [B, T], are the tokens
    that are counted, else all."""
    real = mask.bool() if at is None else at & mask.bool()
    kept = found.mask.bool() & real
    columns = {"tokens": real, "kept": kept}
    if credit is not None:
        sign = credit.sign() * torch.where(chosen, 1, -1)[:, None]  # [B, T], of a side's own direction
        for name, where in (("right", real & (sign > 0)), ("wrong", real & (sign < 0))):
            columns |= {name: where, f"kept_{name}": where & kept}
    frame = pd.DataFrame({name: where.sum(1).numpy() for name, where in columns.items()})
    side = np.where(chosen.numpy(), *SIDES)
    moves = {
        name: flips(found.states, mask, neutral).numpy() for name, neutral in (("flips", False), ("changes", True))
    }
    return frame.assign(side=side, emptied=found.emptied.numpy(), **moves)


def shares(counted: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """`counts` summed up, a row per side: `kept` of all tokens; of kept tokens, `right` and `wrong`, and of all tokens,
    `right_all` and `wrong_all`; `found`, the right tokens that are kept; `left`, the wrong ones that are; `emptied`,
    `flips` and `changes` per answer. Those of tokens have _low and _high, nan for fewer than ten answers; all
    nan where nothing is kept. Random: `draw`."""
    ratios = {"kept": ("kept", "tokens")}
    if "right" in counted:
        for name in ("right", "wrong"):
            ratios |= {name: (f"kept_{name}", "kept"), f"{name}_all": (name, "tokens")}
        ratios |= {"found": ("kept_right", "right"), "left": ("kept_wrong", "wrong")}
    rows = []
    for side in SIDES:
        part = counted[counted.side == side]
        weights = resamples(len(part), draw)  # [1 + draws, answers]
        sums = {name: weights @ part[name].to_numpy(float) for name in {x for pair in ratios.values() for x in pair}}
        row = {"side": side, "answers": len(part)} | dict(part[["emptied", "flips", "changes"]].astype(float).mean())
        for name, (over, under) in ratios.items():
            values = np.divide(sums[over], sums[under], out=np.full(len(weights), np.nan), where=sums[under] > 0)
            bounds = (np.nan, np.nan) if len(part) < 10 or np.isnan(values).all() else estimate(values)[1:]
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), (values[0], *bounds)))
        rows.append(row)
    return pd.DataFrame(rows)


def sweep(told: Read, settings: list[dict], draw: np.random.Generator) -> pd.DataFrame:
    """`shares` of masks: each of `settings` has `by`, a scorer of `told`, `baseline` (a number, or None for the mean
    reward of all these tokens), `per` ("token" or "segment", decided as one) and `at` ("all" tokens are counted, or
    the "ends" of spans); the rest are arguments of `masks.adaptive_mask`. Two rows each, with the setting and the
    `baseline` that it came to. Random: `draw`."""
    frames = []
    for setting in settings:
        rest = dict(setting)
        rewards, baseline, per = told.rewards[rest.pop("by")], rest.pop("baseline", None), rest.pop("per", "token")
        at = rest.pop("at", "all")
        baseline = float(rewards[told.mask].double().mean()) if baseline is None else baseline
        ids = told.segments if per == "segment" else None
        found = adaptive_mask(rewards, told.mask, told.chosen, baseline, segment_ids=ids, **rest)
        where = told.ends if at == "ends" else None
        summed = shares(counts(found, told.mask, told.chosen, told.credit, where), draw)
        full = {"decision": "threshold", "delta": 0.0, "per": per, "at": at} | setting | {"baseline": baseline}
        frames.append(summed.assign(**full))
    return pd.concat(frames, ignore_index=True)


def over_offsets(told: Read, deltas, draw: np.random.Generator) -> pd.DataFrame:
    """`sweep` over offsets (deviations of a scorer's rewards) of both decisions that have one, for every scorer."""
    decisions = [name for name in DECISIONS if name != "threshold"]
    return sweep(
        told, [{"by": b, "decision": d, "delta": x} for b in told.rewards for d in decisions for x in deltas], draw
    )


def over_baselines(told: Read, baselines, draw: np.random.Generator) -> pd.DataFrame:
    """`sweep` of Eq. 13 over fixed baselines (deviations of a scorer's rewards), for every scorer."""
    return sweep(told, [{"by": by, "baseline": x} for by in told.rewards for x in baselines], draw)


def table(numbers: pd.DataFrame) -> pd.DataFrame:
    """`sweep` as text, a line per mask and side; with intervals where there are any of what is right."""
    rows = []
    for x in numbers.to_dict("records"):
        by = f"{x['by']} rewards" + (", per segment" if x["per"] == "segment" else "")
        row = {
            "decided by": by,
            "decision": words.DECISIONS[x["decision"]] + (f", δ = {x['delta']:g}" if x["delta"] else ""),
        }
        row["tokens"] = f"{x['side']}, {'last of spans' if x['at'] == 'ends' else 'all'}"
        row["kept"] = x["kept"]
        if "right" in x:
            row["right, of kept"] = interval_text(x["right"], x["right_low"], x["right_high"])
            row |= {"right, of all": x["right_all"], "wrong, of kept": x["wrong"], "wrong, of all": x["wrong_all"]}
        rows.append(row | {"good-bad changes": x["flips"], "emptied": x["emptied"]})
    return pd.DataFrame(rows)


def steadied(offsets: pd.DataFrame, by: str, delta: float) -> str:
    """What an offset does to changes of class, neutral being one, in words, from `over_offsets` that has 0, too."""
    means = offsets[offsets.by == by].groupby(["decision", "delta"])[["changes", "emptied"]].mean()
    plain, free, held = (means.changes[at] for at in (("three-way", 0), ("three-way", delta), ("schmitt", delta)))
    return (
        f"Decided by {by} rewards, an answer's tokens change class {plain:.1f} times without an offset. With δ = "
        f"{delta:g} it is {free:.1f} times where neutral is a class (Eq. 17), and {held:.1f} times with memory; of "
        f"{means.emptied['three-way', delta]:.0%} of answers nothing is kept."
    )


def sentence(numbers: pd.DataFrame) -> str:
    """How often what one mask keeps (two rows of `sweep`, with credit) is right, in words; the table has the rest."""
    what, parts = "last tokens of spans" if numbers["at"].iloc[0] == "ends" else "tokens", []
    for x in numbers.itertuples():
        often = "more" if x.right_low > x.right_all else "less" if x.right_high < x.right_all else "not clearly more"
        parts.append(f"of {x.side} answers {often} often right, by {100 * (x.right - x.right_all):+.0f} points")
    x = numbers.iloc[0]
    by = f"Decided by {x.by} rewards, {words.DECISIONS[x.decision]}"
    return f"{by}: against {what} kept at random, those kept are {', and '.join(parts)}."
