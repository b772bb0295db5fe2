"""How true are the labels that a reviser's edits give? tlcr's labels on the testbed's rejected answers, beside the true
credit of their spans; nothing is trained.

Left out: the labels of the revised answers, whose added tokens are right by construction unless the reviser errs.
"""

import numpy as np
import pandas as pd

from densereward.labels.labeling import labelled
from densereward.labels.revision import conversations, revise_rows
from densereward.seeding import derive, rng
from study.measures.constants import estimate, resamples
from study.run import Run
from testbed import revise, truth


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
