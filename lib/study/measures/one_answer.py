"""One rejected answer of the testbed seen in every way at once: what each row pays its tokens, what PPO makes of that,
what a mask decided by it would keep, what an edit takes out, and the true credit.

Masks are Eq. 13's of adaptive-mask, as `appo` has them, with the mean reward over the test pairs as baseline: of a
rejected answer the bad tokens are kept. Left out: the KL term, whitening, and masks with memory."""

from dataclasses import replace
from typing import NamedTuple

import torch
from datasets import load_from_disk

from densereward.labels import labeling, revision
from densereward.reward.masks import Masked, adaptive_mask
from densereward.text.models import load_causal_lm, to_device
from study import deciding
from study.measures import answer_rewards, decomposition, mask_quality, measure, signals
from study.methods import METHODS
from study.run import Run
from study.stages.revisions import reviser


class Seen(NamedTuple):
    """An answer as a batch of one, [1, T]: `rewards`, `advantages` and `masks` by row, the bandit's keeping all;
    `labels` of TLCR's reviser (0 taken out, .5 left), the `credit` of each token's span."""

    batch: dict
    tokenizer: object
    rewards: dict[str, torch.Tensor]
    advantages: dict[str, torch.Tensor]
    masks: dict[str, Masked]
    labels: torch.Tensor
    credit: torch.Tensor


def seen(run: Run, names: list[str], shortest: int = 24, longest: int = 40) -> Seen:
    """The first rejected answer of the run's test pairs with `shortest` to `longest` tokens that TLCR's reviser edits,
    under rows of `methods.py` that PPO trains. Advantages are by each row's critic after its warm-up.
    ValueError where there is no such answer."""
    reference, tokenizer = load_causal_lm(run.sft)
    pairs = load_from_disk(run.preferences.path / "test")
    i, labels = _edited(run, pairs, tokenizer, shortest, longest)
    one = {"prompt_ids": [pairs[i]["prompt_ids"]], "completion_ids": [pairs[i]["rejected_completion_ids"]]}
    told = {name: measure.paid(run.of(name), one) for name in names}
    batch = next(iter(told.values())).batch
    return Seen(
        batch,
        tokenizer,
        {name: paid.batch["rewards"].cpu() for name, paid in told.items()},
        {name: signals.by_critic(run.of(name), paid)[0].cpu() for name, paid in told.items()},
        _masks(run, names, to_device(reference).eval(), tokenizer, pairs, i),
        labels,
        decomposition.token_truth(tokenizer, batch)[0],
    )


def _edited(run: Run, pairs, tokenizer, shortest: int, longest: int) -> tuple[int, torch.Tensor]:
    """(its number among the pairs, the labels [1, T] of its tokens) of the answer that `seen` is about."""
    fits = [i for i, ids in enumerate(pairs["rejected_completion_ids"]) if shortest <= len(ids) <= longest]
    rows = pairs.select(fits)
    made = revision.revise_rows(reviser(run, **METHODS["tlcr"].revisions), revision.conversations(rows, tokenizer))
    found, _ = labeling.labelled(rows, made, tokenizer, run.profile.max_completion_length)
    whole = (x for x in found if x["side"] == "rejected")
    x = next(x for x in whole if x["completion_ids"] == rows[x["pair"]]["rejected_completion_ids"])
    return fits[x["pair"]], torch.tensor([x["labels"]])


def _masks(run: Run, names: list[str], reference, tokenizer, pairs, i: int) -> dict[str, Masked]:
    """The mask of rejected answer i by each row; one without rewards of parts decides none, and all tokens teach."""
    dense = [name for name in names if METHODS[name].segmentation["kind"] != "bandit"]
    appo = METHODS["appo"]
    rows = [deciding.row_of(replace(appo, mask=appo.mask | {"by": name})) for name in dense]
    answers = answer_rewards.answers(pairs, tokenizer, False, run.profile.world.returns)
    read = mask_quality.read(answer_rewards.payers(run, rows), reference, tokenizer, answers)
    at = [len(pairs) + i]  # chosen answers come first
    found = {name: Masked(read.mask[at], torch.zeros(read.mask[at].shape), torch.tensor([False])) for name in names}
    for name in dense:
        paid, baseline = read.rewards[name], read.rewards[name][read.mask].double().mean()
        found[name] = adaptive_mask(paid[at], read.mask[at], read.chosen[at], baseline)
    return found
