"""Answers as steps: what a process reward model is trained on, and read at.

Follows adaptive-mask Appendix A, whose annotators score an answer sentence by sentence; a step here is a span, and the
annotator is the oracle. A span is read at its last token; the full stop and EOS behind the last one are a step of their
own, the end, worth 0, or `world.UNFINISHED` where the full stop is missing. So the credits of all steps add up to the
(additive) true return, and ending an answer has a worth to be compared with that of going on.

Where steps lie depends on the text's form alone; only their credits are the truth. Left out: the paper's five
dimensions of a score (helpfulness, correctness, ...), as a span has one credit.
"""

from typing import NamedTuple

import numpy as np
import torch

from densereward.text.offsets import token_offsets
from testbed import oracle
from testbed import world as w


class Steps(NamedTuple):
    """Of answers [B, T]: the tokens at which `spans` are read, those at which any step is read (`ends`: the last token
    of each answer, too), both bool, and the `credit` there, zero elsewhere."""

    spans: torch.Tensor
    ends: torch.Tensor
    credit: torch.Tensor


def steps(tokenizer, prompts: list[str], completions: list[list[int]]) -> Steps:
    """The steps of answers given as token ids, padded on the right to the longest. Where two steps share a token (an
    answer that was cut at its length limit), their credits add up there. ValueError for an answer without a token."""
    size = (len(completions), max(map(len, completions), default=0))
    spans, ends, credit = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool), torch.zeros(size)
    for row, (prompt, ids) in enumerate(zip(prompts, completions, strict=True)):
        if not ids:
            raise ValueError(f"row {row}: the answer has no token; leave it out, or give it an EOS")
        text, offsets = token_offsets(tokenizer, ids)
        parsed = oracle.parse(prompt, text)
        last = [s.end for s in parsed]
        last[-1] -= text.endswith(".") and len(text) > 1  # that full stop is the end's
        where = torch.from_numpy(np.searchsorted([end for _, end in offsets], last))  # the token of the last character
        worth = torch.tensor([s.credit for s in parsed])
        missing = w.UNFINISHED if text and not text.rstrip().endswith(".") else 0.0
        worth[-1] -= missing
        spans[row, where] = ends[row, where] = ends[row, len(ids) - 1] = True
        credit[row].index_add_(0, where, worth)
        credit[row, len(ids) - 1] += missing
    return Steps(spans, ends, credit)
