"""The one abstraction: tokens to dense rewards, by the parts that a recipe (`recipe.py`) names.

    tokens [B, T] -> boundaries -> segment ids [B, T] -> scores [B, S] -> normalise -> correct -> interpolate
    -> rewards [B, T]

The same function serves PPO, the credit figures and the notebooks' strips; nothing else turns scores into rewards.

Book: ppo.md
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from densereward.reward import rewards as R
from densereward.reward import segments as S
from densereward.reward.recipe import Recipe
from densereward.text.logprobs import moved_left
from densereward.text.models import TokenScorer
from densereward.text.tokens import joined


def segment_ids(segmentation: dict, batch: dict, tokenizer=None, generator: torch.Generator | None = None):
    """Segment ids [B, T] of a batch with completion_ids, completion_mask and ref_entropies, all [B, T] (nats), by a
    row's `segmentation`."""
    return S.segment(
        **segmentation,
        mask=batch["completion_mask"],
        completion_ids=batch["completion_ids"],
        entropies=batch.get("ref_entropies"),
        tokenizer=tokenizer,
        generator=generator,
    )


@torch.no_grad()
def token_scores(scorer: TokenScorer, batch: dict) -> torch.Tensor:
    """The scorer's head at every completion token, [B, T], zero on padding; batch holds prompt_ids, prompt_mask,
    completion_ids, completion_mask. Rows of like length go through it together, without padding before them, which
    would cost a mask."""
    (ids, mask), real = joined(batch), batch["completion_mask"].bool()
    columns = batch["prompt_mask"].sum(1, keepdim=True) + torch.arange(real.size(1), device=ids.device)  # [B, T]
    made: list[torch.Tensor] = []
    order = mask.sum(1).argsort(stable=True)
    for rows in order.split(16 if ids.device.type == "cpu" else 128):  # small passes leave a GPU idle
        moved = moved_left(ids[rows], mask[rows], real.size(1))[0]
        made.append(scorer.token_scores(moved).gather(1, columns[rows].clamp(max=moved.size(1) - 1)))
    return torch.cat(made)[order.argsort()].masked_fill(~real, 0)


def segment_scores(
    method: Recipe,
    scorer: TokenScorer,
    batch: dict,
    ids: torch.Tensor,
    read: torch.Tensor | None = None,
    tokenizer=None,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores [B, S] of the segments `ids` [B, T], their mask), as `method.scores` says; `read` [B, T] are the scorer's
    `token_scores`, computed here where they are not given.

    "head": the head at a segment's last token (segment-ppo Section 2.2), whatever segments the scorer was trained with
    (its "Bandit as Segment", Section 4.2). "evaluator": e(x, y) of segment-ppo Eq. 4, with its factor, over those
    segments that the scorer was trained with which end inside this one: all of them in a bandit's one ("Segment as
    Bandit"), and one, hence the factor times the head, where both cut alike. ValueError, naming the row, for a segment
    in which none ends."""
    read = token_scores(scorer, batch) if read is None else read
    scores, mask = S.at_ends(read, ids)
    if method.scores == "head":
        return scores, mask
    own = method.trained_with
    ends = S.segment_ends(segment_ids(own, batch, tokenizer, generator) if own else ids)
    inside = ends[:, None] & (ids[:, None] == torch.arange(mask.size(1), device=ids.device)[:, None])  # [B, S, T]
    if (bad := (mask & ~inside.any(2)).any(1)).any():
        raise ValueError(
            f"row {int(bad.nonzero()[0])}: no segment of the scorer of method {method.name!r} ends in one of its own; "
            "pay segments that are coarser than the scorer's, or set scores to 'head'"
        )
    spread = read[:, None].expand(inside.shape)
    return scorer.aggregate(spread.flatten(0, 1), inside.flatten(0, 1)).view(mask.shape).masked_fill(~mask, 0), mask


def dense_rewards(
    method: Recipe, scores: torch.Tensor, segment_mask: torch.Tensor, ids: torch.Tensor, normaliser: R.Normaliser
) -> torch.Tensor:
    """Normalised, interpolated rewards [B, T] of segment scores [B, S] (segment-ppo Eq. 12 and Section 2.3)."""
    z = R.correct(R.normalise(scores, segment_mask, normaliser), segment_mask, **method.correction)
    return R.interpolate(z, ids, method.interpolation) / normaliser.unit


def fitted(method: Recipe, scores: torch.Tensor, lengths: torch.Tensor) -> R.Normaliser:
    """The row's normaliser, fitted on calibration answers' segment scores [N, S]; `lengths` [N, S] are the segments' in
    tokens, 0 beyond the last.

    Its unit, what rewards are divided by, is 1, or with `scale` "totals" the deviation of the totals that these answers
    are paid: in it KL coefficient and value clip mean the same for every granularity. A bandit's z-scores deviate by 1
    as they are; summed over segments they deviate by several. Ours; the papers pay the sums. ValueError for
    totals that do not vary."""
    mask = lengths > 0
    normaliser = R.fit_normaliser(scores=scores, segment_mask=mask, **method.normaliser)
    if method.scale == "none":
        return normaliser
    z = R.correct(R.normalise(scores, mask, normaliser), mask, **method.correction)
    later = torch.nn.functional.pad(mask[:, 1:], (0, 1))  # what "next" pays at all
    counted = {"repeat": lengths, "next": later}.get(method.interpolation, mask)
    unit = float((z * counted).sum(1).double().std())
    if not unit > 0:
        raise ValueError(f"the totals that {method.name!r} pays calibration answers do not vary; look at its scorer")
    return replace(normaliser, unit=unit)


def reward_function(
    method: Recipe,
    scorer: TokenScorer,
    normaliser: R.Normaliser,
    tokenizer=None,
    generator: torch.Generator | None = None,
) -> Callable[[dict], torch.Tensor]:
    """What a trainer calls on each batch of rollouts: batch -> rewards [B, T]. Random only with a random
    segmentation."""
    scorer.eval()

    def rewards(batch: dict) -> torch.Tensor:
        ids = segment_ids(method.segmentation, batch, tokenizer, generator)
        scores, segment_mask = segment_scores(method, scorer, batch, ids, None, tokenizer, generator)
        return dense_rewards(method, scores, segment_mask, ids, normaliser)

    return rewards
