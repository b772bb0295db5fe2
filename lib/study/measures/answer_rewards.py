"""What answers are paid: rows of `methods.py` with their scorers and normalisers, applied to any answers, as PPO would.

Left out: the KL term; segmentations that draw at random.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from datasets import Dataset

from densereward.canonical import canonical
from densereward.progress import progress
from densereward.reward import dense, rewards
from densereward.text import sampling
from densereward.text.models import TokenScorer, to_device
from study.measures.credit import pool
from study.methods import Method, method
from study.run import Run
from study.stages.scorer import calibration_scores, committed
from testbed import oracle, truth


class Payer(NamedTuple):
    """What turns answers into rewards: a row; its scorer, and where that lies; the normaliser, and the calibration
    answers' `scores` [B, S] with `mask` that it was fitted on."""

    row: Method
    folder: Path
    net: TokenScorer
    normaliser: rewards.Normaliser
    scores: torch.Tensor
    mask: torch.Tensor


def rows(names, entropy_cutoff: float, raw: bool = False) -> list[Method]:
    """Rows of `methods.py` at an entropy cut-off (nats); `raw`: each once more, unnormalised, named "NAME, raw"."""
    found = [method(name, entropy_cutoff=entropy_cutoff) for name in names]
    return found + [replace(r, name=f"{r.name}, raw", normaliser={"kind": "none"}) for r in found if raw]


def payers(run: Run, rows: list[Method]) -> dict[str, Payer]:
    """A payer for each row, by name. Rows that share a scorer share it here; it reads the calibration answers once. A
    row whose scorer is not trained on a mean is left out where a run uses committed scorers and that one is not there.
    """
    found, seen = {}, {}
    for row in rows:
        trained = replace(row, segmentation=row.trained_on)
        if run.committed and row.aggregate != "mean" and committed(run, trained) is None:
            continue
        key = canonical([row.scorer, row.revisions, row.trained_on, row.segmentation, row.aggregate, row.scores])
        if key not in seen:
            own = run.of(row)
            net = to_device(TokenScorer.from_pretrained(own.scorer, dtype=torch.float32)).eval()
            seen[key] = own.scorer, net, *calibration_scores(own)
        folder, net, scores, lengths = seen[key]
        found[row.name] = Payer(row, folder, net, dense.fitted(row, scores, lengths), scores, lengths > 0)
    return found


def answers(pairs: Dataset, tokenizer, testbed: bool, returns: str) -> pd.DataFrame:
    """Both answers of tokenised pairs, the chosen ones first: prompt_ids, completion_ids; on the testbed also prompt,
    text, true_return."""
    sides = [pairs["chosen_completion_ids"][:], pairs["rejected_completion_ids"][:]]
    frame = pd.DataFrame({"prompt_ids": pairs["prompt_ids"][:] * 2, "completion_ids": sum(sides, [])})
    if not testbed:
        return frame
    prompts, texts = ([truth.text_of(tokenizer, ids) for ids in frame[c]] for c in ("prompt_ids", "completion_ids"))
    worth = [oracle.true_return(p, t, returns) for p, t in zip(prompts, texts)]
    return frame.assign(prompt=prompts, text=texts, true_return=worth)


@torch.no_grad()
def pay(payers: dict[str, Payer], batch: dict, tokenizer=None) -> tuple[dict, dict]:
    """({row: rewards [B, T]}, {row: segment ids [B, T]}) of a batch, exactly what PPO would be given."""
    read, paid, cut = {}, {}, {}
    for name, (row, _, net, normaliser, *_) in payers.items():
        if id(net) not in read:
            read[id(net)] = dense.token_scores(net, batch)
        cut[name] = dense.segment_ids(row.segmentation, batch, tokenizer)
        scores, mask = dense.segment_scores(row, net, batch, cut[name], read[id(net)], tokenizer)
        paid[name] = dense.dense_rewards(row, scores, mask, cut[name], normaliser)
    return paid, cut


def batches(model, tokenizer, answers: pd.DataFrame, size: int = 64) -> Iterator[tuple[pd.Index, dict]]:
    """(index of the rows, their batch with the entropies of `model`); answers of like length come together."""
    order = answers.completion_ids.map(len).sort_values(kind="stable").index
    for start in progress("scores, batches", range(0, len(order), size)):
        part = answers.loc[order[start : start + size]]
        yield part.index, sampling.batch_of(model, tokenizer, list(part.prompt_ids), list(part.completion_ids))


def totals(payers: dict[str, Payer], model, tokenizer, answers: pd.DataFrame) -> pd.DataFrame:
    """The sum of each answer's rewards under each payer (columns), and into how many `segments` the row `segment` cuts
    it, where that is among them. One row per answer, in the order and under the index of `answers`."""
    parts = []
    for index, batch in batches(model, tokenizer, answers):
        paid, cut = pay(payers, batch, tokenizer)
        sums = {name: reward.double().sum(1).cpu().numpy() for name, reward in paid.items()}
        counted = {"segments": cut["segment"].max(1).values.cpu().numpy() + 1} if "segment" in cut else {}
        parts.append(pd.DataFrame(sums | counted, index=index))
    return pd.concat(parts).loc[answers.index]


def spans(payers: dict[str, Payer], model, tokenizer, answers: pd.DataFrame) -> pd.DataFrame:
    """What the tokens of each true span are paid in all: a row per span with answer, span, credit, and each payer."""
    parts = []
    for index, batch in batches(model, tokenizer, answers):
        prompts, completions = list(answers.prompt[index]), list(answers.completion_ids[index])
        ids, credits, *_ = truth.spans_of(tokenizer, prompts, completions)
        held = torch.arange(credits.size(1)) <= ids.max(1, keepdim=True).values
        answer, span = held.nonzero(as_tuple=True)
        columns = {"answer": index.to_numpy()[answer.numpy()], "span": span.numpy(), "credit": credits[held].numpy()}
        for name, reward in pay(payers, batch, tokenizer)[0].items():
            columns[name] = pool(reward.cpu(), ids, "sum")[held].double().numpy()
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)
