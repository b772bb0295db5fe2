"""How good a reviser is: how often the revised answer is better, and whether the edit labels fall where credit is.

Follows tlcr Section 4.1, where neither is measured: its reviser is trusted. On the testbed both can be: a token that is
taken out should lie in a flawed span, one that comes in should lie in a span that is worth something. Left out:
whether a reviser's words are the best ones.
"""

import pandas as pd
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from densereward.labels import labeling, revision
from densereward.training.discriminator import NO_LABEL
from study.run import Run
from study.stages.revisions import reviser
from testbed import oracle, truth


def compared(run: Run, kinds: dict[str, dict], pairs: Dataset, tokenizer) -> pd.DataFrame:
    """A row for each reviser (`kinds`: name -> settings of `revisions.reviser`) on tokenised preference pairs: share of
    answers revised, share of tokens labelled negative (of rejected answers) and positive (of revised ones); on the
    testbed also shares of revisions with a higher, equal, lower true return, the mean gain (credit) and `agreement`."""
    rows = []
    for name, settings in kinds.items():
        found = revision.revise_rows(reviser(run, **settings), revision.conversations(pairs, tokenizer))
        labelled, report = labeling.labelled(pairs, found, tokenizer, run.profile.max_completion_length)
        frame = labelled.to_pandas()
        each = dict(list(frame.groupby("side")))
        row = {"reviser": name, "pairs": report.read, "revised": report.kept / report.read}
        for side, sign, label in (
            ("rejected", "negative", labeling.NEGATIVE),
            ("revised", "positive", labeling.POSITIVE),
        ):
            tokens = [x for labels in each[side].labels for x in labels]
            row[f"{sign} tokens"] = sum(x == label for x in tokens) / len(tokens)
        rows.append(row | (_worth(each, tokenizer, run.profile.world.returns) if run.testbed else {}))
    return pd.DataFrame(rows)


def _worth(each: dict[str, pd.DataFrame], tokenizer, returns: str) -> dict[str, float]:
    """What only the oracle can tell of rejected and revised answers (`labeling.labelled`'s columns, by side)."""
    texts = {
        side: [[truth.text_of(tokenizer, ids) for ids in part[c]] for c in ("prompt_ids", "completion_ids")]
        for side, part in each.items()
    }
    worth = {side: [oracle.true_return(p, t, returns) for p, t in zip(*texts[side])] for side in each}
    gain = torch.tensor(worth["revised"]) - torch.tensor(worth["rejected"])
    shares = {
        "better": (gain > 1e-9).double().mean(),
        "equal": (gain.abs() <= 1e-9).double().mean(),
        "worse": (gain < -1e-9).double().mean(),
        "gain (credit)": gain.double().mean(),
    }
    return {name: float(x) for name, x in shares.items()} | agreement(
        tokenizer,
        *(
            (texts[side][0], list(each[side].completion_ids), list(each[side].labels))
            for side in ("rejected", "revised")
        ),
    )


def agreement(tokenizer, rejected: tuple, revised: tuple) -> dict[str, float]:
    """Edit labels against the truth, shares; either side is (prompts, completion ids, labels), lists.

    A span is flawed if its credit is below 0 or its item is misspelt. "flawed": of the rejected answers' tokens, those
    in flawed spans; "negatives right": of negative tokens, the same; "flaws found": of flawed spans, those with a
    negative token. "worthy": of the revised answers' tokens, those in spans of credit above 0; "positives right": of
    positive tokens, the same. nan where there is none. "flawed" and "worthy" are what labels by chance would get."""
    flaws = _marks(tokenizer, *rejected, lambda span: span.credit < 0 or span.misspelt)
    worth = _marks(tokenizer, *revised, lambda span: span.credit > 0)
    (flawed, given, inside, found), (worthy, brought, real, _) = flaws, worth
    negative, positive = (given == labeling.NEGATIVE) & inside, (brought == labeling.POSITIVE) & real
    shares = {
        "flawed": flawed[inside],
        "negatives right": flawed[negative],
        "flaws found": found(negative),
        "worthy": worthy[real],
        "positives right": worthy[positive],
    }
    return {name: float(x.double().mean()) for name, x in shares.items()}


def _marks(tokenizer, prompts, completions, labels, marked) -> tuple:
    """(whether each token's span is `marked`, the label, whether it is in a span, all [B, T]; a function that says of
    every marked span [N] whether a token of a mask [B, T] lies in it)."""
    ids, *_, parsed = truth.spans_of(tokenizer, prompts, [list(map(int, ids)) for ids in completions])
    given = [torch.tensor(x, dtype=torch.float32) for x in labels]
    given = pad_sequence(given, batch_first=True, padding_value=NO_LABEL)
    kinds = [torch.tensor([bool(marked(s)) for s in spans]) for spans in parsed]
    kinds = pad_sequence(kinds, batch_first=True, padding_value=False)  # [B, N]
    place = ids.clamp(min=0)

    def found(mask: torch.Tensor) -> torch.Tensor:
        hits = torch.zeros(kinds.shape).scatter_add(1, place, mask.float())  # [B, N]
        return hits[kinds] > 0

    return kinds.gather(1, place), given, ids >= 0, found
