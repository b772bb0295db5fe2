"""Where a segmentation cuts real text: how long segments are, and how often a cut lies at the start of a word or of a
sentence, beside how often any token does. A cut is a segment's start after the answer's first token."""

import re

import numpy as np
import torch

from densereward.text.offsets import token_offsets
from study.measures.constants import estimate, resamples

SENTENCE_END = re.compile(r"[.!?…]['\")\]]*\s|\n")


def starts(tokenizer, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each token [T] begins a word, and whether it begins a sentence: it holds the first character of one.

    A word is a run of letters and digits, an apostrophe amid it included; a sentence begins with the first word behind
    a full stop, exclamation or question mark and a space, or behind a line break."""
    text, offsets = token_offsets(tokenizer, ids)
    words = [found.start() for found in re.finditer(r"\w(?:[\w'’]*\w)?", text)]
    ends = [0, *words]
    first = [i == 0 or SENTENCE_END.search(text[ends[i] : w]) is not None for i, w in enumerate(words)]
    owner = np.repeat(np.arange(len(ids)), [end - start for start, end in offsets])  # of each character
    word, sentence = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
    word[owner[words]] = True
    sentence[owner[[w for w, is_first in zip(words, first) if is_first]]] = True
    return word, sentence


def statistics(segments: list, word: list, sentence: list, draw: np.random.Generator) -> dict:
    """Of answers' segment ids and `starts` (lists of [T]): counts, and (value, low, high) with a 95% bootstrap over
    answers of `length` (tokens per segment), and for words and sentences of the share of cuts at their starts, of the
    `base` share of all tokens after the first, and of `gain`, the former less the latter. Random: `draw`."""
    counts = []
    for ids, w, s in zip(segments, word, sentence, strict=True):
        cut = np.diff(np.asarray(ids)) > 0
        w, s = w[1:], s[1:]
        counts.append(
            [len(ids), cut.sum() + 1, cut.sum(), len(cut), (w & cut).sum(), w.sum(), (s & cut).sum(), s.sum()]
        )
    counts = np.array(counts)
    tokens, segments, cuts, later, *at = (resamples(len(counts), draw) @ counts).T  # [1 + R] each
    found = {
        "answers": len(counts),
        "tokens": int(tokens[0]),
        "cuts": int(cuts[0]),
        "length": estimate(tokens / segments),
    }
    for name, cut_there, there in (("word", *at[:2]), ("sentence", *at[2:])):
        share, base = cut_there / cuts, there / later
        found |= {name: estimate(share), f"{name}_base": estimate(base), f"{name}_gain": estimate(share - base)}
    return found


def padded(rows: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Entropies (lists of T nats) as [B, T] in float32, and their mask."""
    values = [torch.tensor(row, dtype=torch.float32) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(values, batch_first=True), pad(
        [torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True
    )
