"""Revisions: a rejected response made better, and what a reviser may be.

Follows tlcr Eq. 3. A reviser is a function (prompt messages, rejected text, chosen text) -> Revision. There are three:
an external model (`revision_prompt.llm_reviser`), on the testbed an oracle with a chosen error rate
(`testbed.revise.oracle_reviser`), and one that has nothing but the text of the two responses
(`clauses.clause_reviser`). Each row is revised by itself, so neither order nor company changes a revision.

Left out: several revisions of one response.

Book: tlcr.md
"""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

from datasets import Dataset

from densereward.progress import progress
from densereward.text.data import blank

BROKEN = "\ufffd"  # what decoders write for bytes that spell no character


@dataclass(frozen=True)
class Revision:
    """A revised text, or None and why not (of `labeling.Report`); `counts` says what happened on the way, by name."""

    text: str | None
    failure: str | None = None
    counts: dict[str, int] = field(default_factory=dict)


Reviser = Callable[[list[dict], str, str], Revision]


def checked(text: str, rejected: str, counts: dict[str, int] | None = None) -> Revision:
    """A Revision of this text, a failure where it is empty, the rejected text, or broken; spaces at the ends do not
    count."""
    failure = "empty" if blank(text) else "identical" if text.strip() == rejected.strip() else None
    failure = "broken" if failure is None and BROKEN in text and BROKEN not in rejected else failure
    return Revision(None if failure else text.strip(), failure, counts or {})


def revise_rows(reviser: Reviser, conversations: Iterable[dict], workers: int = 1) -> list[Revision]:
    """One Revision per conversation {"prompt", "chosen", "rejected"}, in their order, `workers` at a time.

    The progress says what a reviser of an endpoint has `spent`. What a reviser raises ends the batch: what is running
    is waited for, what has not begun is not begun.
    """

    def one(row: dict) -> Revision:
        return reviser(row["prompt"], row["rejected"][0]["content"], row["chosen"][0]["content"])

    rows = list(conversations)
    with ThreadPoolExecutor(workers) as pool:  # map cancels what waits when one of its results is an error
        return list(progress("revisions", pool.map(one, rows), len(rows), getattr(reviser, "spent", None)))


def totals(revisions: Iterable[Revision]) -> dict[str, int]:
    """Rows read, revised, failed by kind ("failed: markers"), and the sums of what the revisers counted."""
    total = Counter(read=0, revised=0)
    for revision in revisions:
        total["read"] += 1
        total["revised" if revision.failure is None else f"failed: {revision.failure}"] += 1
        total.update(revision.counts)
    return dict(total)


def response(ids: list[int], tokenizer) -> str:
    """The text of a response's token ids, without the remains of a character that was cut amid its bytes."""
    return tokenizer.decode(ids, skip_special_tokens=True).rstrip(BROKEN)


def conversations(rows: Dataset, tokenizer) -> list[dict]:
    """Preference rows (token ids) as conversations of text: what was cut stays cut, as labels are of these tokens.

    A prompt becomes one user message, one line per turn, as ids do not say in general which turn is whose. Of a
    character that the cut went through nothing is shown.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}

    def prompt(ids: list[int]) -> str:
        turns = [list(run) for is_special, run in groupby(ids, special.__contains__) if not is_special]
        return "\n".join(tokenizer.decode(turn).strip() for turn in turns).lstrip(BROKEN)

    return [
        {"prompt": [{"role": "user", "content": prompt(row["prompt_ids"])}]}
        | {
            side: [{"role": "assistant", "content": response(row[column], tokenizer)}]
            for side, column in (("chosen", "chosen_completion_ids"), ("rejected", "rejected_completion_ids"))
        }
        for row in rows
    ]
