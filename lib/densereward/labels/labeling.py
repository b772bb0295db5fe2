"""Revised responses to training data: a label per token, or synthetic preference pairs.

Follows tlcr Section 4.1 (Eq. 4-5): of the fewest edits that turn the rejected response into the revised one, what they
take out or replace is negative, what they bring in is positive, and what both share is neutral; as targets of Eq. 6
these are 0, 1 and .5. The fewest edits are often not unique (in "a a" to "a" either token may go): the paper does not
say which are taken; here they are rapidfuzz's, which leaves a common beginning and a common end alone.

Labels are of what the reviser saw and wrote, which is text. Tokens that share a character are edited together, or not
at all. Where the ids of a cut response are not those of its text (a cut amid a character, or before the rest of a
word), the text's ids are compared, and the tokens that only the cut response has carry no label.

Left out: labels of a response against itself (a failed or identical revision labels nothing) and weights per label.

Book: tlcr.md
"""

from dataclasses import asdict, dataclass

import numpy as np
from datasets import Dataset
from rapidfuzz.distance import Levenshtein

from densereward.labels.revision import BROKEN, Revision, response
from densereward.text.data import table
from densereward.text.tokens import tokenize_response, tokenize_responses

NEGATIVE, NEUTRAL, POSITIVE = 0.0, 0.5, 1.0  # p_t of tlcr Eq. 6
NO_LABEL = -1.0  # of a token that is in no loss


@dataclass
class Report:
    """What became of preference rows and their revisions; `read` is `kept` plus everything dropped. As text: what
    occurred."""

    read: int = 0
    kept: int = 0
    # dropped, failures of a reviser:
    markers: int = 0  # the reply does not hold one revised response between one pair of markers
    empty: int = 0  # the revised response has no text
    identical: int = 0  # it is the rejected one
    broken: int = 0  # it holds a broken character (U+FFFD) that the rejected one does not
    # dropped, outcomes of an endpoint (`llm.Chat`):
    cut: int = 0  # the reply was cut at the limit of tokens
    filtered: int = 0  # a content filter stopped the question or the reply
    refused: int = 0  # the model refused to answer
    over_context: int = 0  # the question is longer than the model's context
    unanswered: int = 0  # no reply came, however often the endpoint was asked
    same_tokens: int = 0  # dropped: another text, but the rejected response's token ids
    too_long: int = 0  # dropped: more tokens than the limit, EOS included
    negative: int = 0  # tokens of the kept
    neutral: int = 0
    positive: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in asdict(self).items() if n or name == "kept")


def edit_labels(rejected: list[int], revised: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the rejected and of the revised response's tokens, two float32 arrays [T_r] and [T_m] of 0, .5, 1.

    Negatives are the tokens deleted or replaced (tlcr Eq. 4), positives those inserted or replaced (Eq. 5), so there
    are as many neutral ones on either side. ValueError where a side has no token: an answer ends with EOS at least.
    """
    for name, ids in (("rejected", rejected), ("revised", revised)):
        if not len(ids):
            raise ValueError(f"the {name} response has no token; keep its EOS, or leave the pair out")
    of_rejected = np.full(len(rejected), NEUTRAL, np.float32)
    of_revised = np.full(len(revised), NEUTRAL, np.float32)
    for run in Levenshtein.opcodes(rejected, revised):
        if run.tag != "equal":
            of_rejected[run.src_start : run.src_end] = NEGATIVE
            of_revised[run.dest_start : run.dest_end] = POSITIVE
    return of_rejected, of_revised


def labelled(
    rows: Dataset, revisions: list[Revision], tokenizer, max_completion_length: int, eos: bool = True
) -> tuple[Dataset, Report]:
    """Token-labelled responses, two rows per usable pair: columns pair (its number in `rows`), side ("rejected",
    "revised"), prompt_ids, completion_ids, labels (0, .5 or 1 per completion token). tlcr Eq. 4-6. Without `eos` a
    response's last token, which is EOS, is not labelled (NO_LABEL), as in tlcr's released code.

    `rows` holds prompt_ids and rejected_completion_ids, `revisions` one Revision per row. What is dropped is counted.
    ValueError where the two differ in number or nothing is left.
    """
    usable, report = _usable(rows, revisions, tokenizer, max_completion_length)
    rows, found = rows.select_columns(["prompt_ids", "rejected_completion_ids"]), []
    for pair, (shown, revised) in usable.items():
        row = rows[pair]
        sides = {"rejected": row["rejected_completion_ids"], "revised": revised}
        of_shown, of_revised = text_labels(shown, revised, tokenizer)
        both = _labels_of_cut(sides["rejected"], shown, of_shown), of_revised
        for (side, ids), labels in zip(sides.items(), both, strict=True):
            if not eos:
                labels[-1] = NO_LABEL
            found.append(
                {"pair": pair, "side": side, "prompt_ids": row["prompt_ids"], "completion_ids": ids, "labels": labels}
            )
            report.negative += int((labels == NEGATIVE).sum())
            report.neutral += int((labels == NEUTRAL).sum())
            report.positive += int((labels == POSITIVE).sum())
    return table(found, f"labelled responses ({report})"), report


def synthetic_pairs(
    rows: Dataset, revisions: list[Revision], tokenizer, max_completion_length: int
) -> tuple[Dataset, Report]:
    """Pairs with the revision as chosen: prompt_ids, chosen_completion_ids, rejected_completion_ids, as the preparation
    of reward models takes them. What tlcr's PPO_synthetic is trained on.

    The same rows are dropped, and the same raised, as in `labelled`.
    """
    usable, report = _usable(rows, revisions, tokenizer, max_completion_length)
    rows = rows.select_columns(["prompt_ids", "rejected_completion_ids"])
    found = [rows[pair] | {"chosen_completion_ids": revised} for pair, (_, revised) in usable.items()]
    return table(found, f"synthetic pairs ({report})"), report


def text_labels(rejected: list[int], revised: list[int], tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """`edit_labels` with the tokens of one character edited together: two float32 arrays [T_r] and [T_m]."""
    units = [characters(ids, tokenizer) for ids in (rejected, revised)]
    number = {unit: i for i, unit in enumerate(dict.fromkeys(units[0] + units[1]))}
    labels = edit_labels(*([number[unit] for unit in side] for side in units))
    return tuple(np.repeat(x, [len(unit) for unit in side]) for x, side in zip(labels, units, strict=True))


def characters(ids: list[int], tokenizer) -> list[tuple[int, ...]]:
    """The ids [T] in groups that spell whole characters: single tokens, but where a character needs several of them."""
    if tokenizer.decode(ids).isascii():
        return [(i,) for i in ids]
    groups, open_group = [], ()
    for i, text in zip(ids, tokenizer.batch_decode([[i] for i in ids]), strict=True):
        if BROKEN not in text:
            groups += [open_group, (i,)]
            open_group = ()
            continue
        open_group += (i,)
        if BROKEN not in tokenizer.decode(list(open_group)):
            groups.append(open_group)
            open_group = ()
    return [group for group in [*groups, open_group] if group]


def _labels_of_cut(rejected: list[int], shown: list[int], of_shown: np.ndarray) -> np.ndarray:
    """The labels [T] of a rejected response, of those of its text's ids: NO_LABEL on tokens that the text lacks."""
    labels = np.full(len(rejected), NO_LABEL, np.float32)
    for run in Levenshtein.opcodes(rejected, shown):
        if run.tag == "equal":
            labels[run.src_start : run.src_end] = of_shown[run.dest_start : run.dest_end]
    return labels


def _usable(rows, revisions, tokenizer, max_completion_length) -> tuple[dict[int, tuple], Report]:
    """Number of each usable row -> token ids of what the reviser saw of the rejected response, and of its revision,
    EOS included."""
    if len(rows) != len(revisions):
        raise ValueError(f"{len(rows)} rows and {len(revisions)} revisions; give one revision per row, in their order")
    usable, report = {}, Report()
    cut = rows["rejected_completion_ids"][:]
    texts = tokenize_responses(tokenizer, [response(ids, tokenizer).strip() for ids in cut])
    for number, (rejected, shown, revision) in enumerate(zip(cut, texts, revisions, strict=True)):
        ids = [] if revision.text is None else tokenize_response(tokenizer, revision.text)
        fate = revision.failure or (
            "too_long" if len(ids) > max_completion_length else "same_tokens" if ids in (rejected, shown) else "kept"
        )
        report.read += 1
        setattr(report, fate, getattr(report, fate) + 1)
        if fate == "kept":
            usable[number] = shown, ids
    return usable, report
