"""What a discriminator tells apart on held-out revisions, beyond its `discriminator_metrics`: ranking, and how the
neutral label is decided.

Follows tlcr Section 7.2, which reports one accuracy and not how neutral tokens count in it: the confidence below which
a token is called neutral (Section 5 has .6, for rewards) decides it, so `bands` shows all of them. Left out: intervals,
as the tokens of an answer are no independent draws; other seeds are in the records.
"""

import pandas as pd
import torch
from datasets import load_from_disk
from sklearn.metrics import roc_auc_score

from densereward.text.models import TokenScorer, load_causal_lm, to_device
from densereward.training import discriminator as D
from study.run import Run

CONFIDENCES = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def told(run: Run, split: str = "test") -> tuple[torch.Tensor, torch.Tensor]:
    """(D(a_t | x, a_<t), label) of every token of the split's revisions under the run's discriminator, both [N]."""
    net = to_device(TokenScorer.from_pretrained(run.scorer, dtype=torch.float32))
    tokenizer = load_causal_lm(run.sft)[1]
    return D.probabilities(net, load_from_disk(run.revisions.path / "labelled" / split), tokenizer.pad_token_id)


def areas(p: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Areas under two ROC curves, .5 where nothing is told apart: positive against negative tokens by p, and edited
    against neutral ones by |p - 1/2|. nan where one side has no token."""
    edited = labels != 0.5
    cases = {
        "positive against negative": (labels[edited] > 0.5, p[edited]),
        "edited against neutral": (edited, (p - 0.5).abs()),
    }
    return {
        name: float(roc_auc_score(y.numpy(), score.numpy())) if y.any() and not y.all() else float("nan")
        for name, (y, score) in cases.items()
    }


def measures(metrics: dict, p: torch.Tensor, labels: torch.Tensor) -> pd.DataFrame:
    """Accuracies of a discriminator's metrics beside what saying the largest label gets, calibration and `areas`."""
    edited = {
        "edited tokens: accuracy": metrics.get("edited_accuracy_test", float("nan")),
        "edited tokens: share of the larger label": metrics.get("edited_majority_test", float("nan")),
        "edited tokens: expected calibration error": metrics.get("ece_test", float("nan")),
    }
    found = {
        "three labels: accuracy": metrics["token_accuracy_test"],
        "three labels: share of the largest": metrics["token_majority_test"],
        **edited,
        **{f"area under the curve: {name}": area for name, area in areas(p, labels).items()},
    }
    return pd.DataFrame({"on held-out revisions": found.keys(), "share": map(float, found.values())})


def bands(p: torch.Tensor, labels: torch.Tensor, confidences=CONFIDENCES) -> pd.DataFrame:
    """A row for each confidence below which a token is called neutral: accuracy over the three labels, the share of the
    largest label (what always saying that would get), the share called neutral, and, of edited tokens that are not
    called neutral, those called right (nan where there are none)."""
    edited = labels != 0.5
    rows = []
    for confidence in confidences:
        sure = torch.maximum(p, 1 - p) >= confidence
        called = torch.where(sure, (p > 0.5).to(labels.dtype), 0.5)
        decided = (called == labels)[sure & edited]
        rows.append(
            {
                "confidence": confidence,
                "accuracy": float((called == labels).double().mean()),
                "majority": max(float((labels == x).double().mean()) for x in (0.0, 0.5, 1.0)),
                "called_neutral": float((~sure).double().mean()),
                "decided": float(decided.double().mean()),
            }
        )
    return pd.DataFrame(rows)
