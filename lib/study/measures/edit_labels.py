"""How true are the labels that a reviser's edits give? tlcr's labels on the testbed's rejected answers, beside the true
credit of their spans; nothing is trained.

Left out: the labels of the revised answers, whose added tokens are right by construction unless the reviser errs.
"""

from difflib import SequenceMatcher

import numpy as np
import pandas as pd
from rapidfuzz.distance import Indel, Levenshtein

from densereward.labels.labeling import NEGATIVE, NEUTRAL, POSITIVE, labelled
from densereward.labels.revision import conversations, revise_rows
from densereward.seeding import derive, rng
from study.measures import revisers
from study.measures.constants import estimate, resamples
from study.run import Run
from testbed import revise, truth


def _blocks(one: list[int], other: list[int]) -> list[tuple[int, int, int]]:
    return SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()


# What two lists of ids share, as (begin in one, begin in the other, how many): the rest is edited.
ALIGNMENTS = {
    "edit": lambda one, other: Levenshtein.opcodes(one, other).as_matching_blocks(),  # tlcr's fewest edits
    "indel": lambda one, other: Indel.opcodes(one, other).as_matching_blocks(),  # the fewest without replacement
    "blocks": _blocks,  # difflib: the longest common run first, then what is to its left and right
}


def edited(name: str, one: list[int], other: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Whether a token is none of what an alignment (ALIGNMENTS) finds in both, two bools [T_1] and [T_2]."""
    left = np.ones(len(one), bool), np.ones(len(other), bool)
    for a, b, size in ALIGNMENTS[name](list(one), list(other)):
        left[0][a : a + size] = left[1][b : b + size] = False
    return left


def alignments(run: Run, tokenizer, rows, errors) -> pd.DataFrame:
    """For each reviser error and alignment, columns error, alignment and those of `revisers.agreement`: edit labels of
    tokenised pairs against the truth, where only the way of counting edits differs. Random: the reviser's errors."""
    texts, found = conversations(rows, tokenizer), []
    for error in errors:
        made = revise_rows(revise.oracle_reviser(derive(run.seed, "reviser"), error), texts)
        both, _ = labelled(rows, made, tokenizer, run.profile.max_completion_length)
        sides = {side: both.filter(lambda row, side=side: row["side"] == side)[:] for side in ("rejected", "revised")}
        prompts = [truth.text_of(tokenizer, ids) for ids in sides["rejected"]["prompt_ids"]]
        ids = [sides[side]["completion_ids"] for side in sides]
        for name in ALIGNMENTS:
            masks = zip(*(edited(name, *pair) for pair in zip(*ids)))
            given = [[np.where(x, label, NEUTRAL) for x in side] for side, label in zip(masks, (NEGATIVE, POSITIVE))]
            shares = revisers.agreement(tokenizer, *((prompts, x, labels) for x, labels in zip(ids, given)))
            found.append({"error": error, "alignment": name} | shares)
    return pd.DataFrame(found)


def auc(run: Run, tokenizer, rows, errors) -> pd.DataFrame:
    """For each reviser error, columns error, auc, low, high, edited: over the tokens of the rejected answers of
    tokenised pairs, the area under the ROC curve with which "the edit takes it out" (a label of 0) tells tokens of
    spans that cost credit from the others, 95% bootstrap over answers; and the share of tokens taken out. Random: the
    reviser's errors (`run.seed`)."""
    texts, found = conversations(rows, tokenizer), []
    for error in errors:
        reviser = revise.oracle_reviser(derive(run.seed, "reviser"), error)
        made, _ = labelled(rows, revise_rows(reviser, texts), tokenizer, run.profile.max_completion_length)
        made = made.filter(lambda row: row["side"] == "rejected")
        prompts = [truth.text_of(tokenizer, ids) for ids in made["prompt_ids"][:]]
        spans, credits, *_ = truth.spans_of(tokenizer, prompts, made["completion_ids"][:])
        bad = [(c[s[s >= 0]] < 0).numpy() for s, c in zip(spans, credits)]
        out = [np.asarray(labels) == 0 for labels in made["labels"][:]]
        # a label of two values: the area is the mean of the two rates
        counts = np.array([[(b & o).sum(), b.sum(), (~b & ~o).sum(), (~b).sum()] for b, o in zip(bad, out)])
        w = resamples(len(counts), rng(run.seed, "label auc")) @ counts  # [1 + R, 4]
        area = (w[:, 0] / w[:, 1] + w[:, 2] / w[:, 3]) / 2
        row = {"error": error, **dict(zip(("auc", "low", "high"), estimate(area)))}
        found.append(row | {"edited": float(np.concatenate(out).mean()), "answers": len(counts)})
    return pd.DataFrame(found)
