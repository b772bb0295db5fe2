"""Answers of the testbed with something more in them, whose worth the oracle knows: one further clause of each kind, or
the same clause again and again. What a reward gives for it is measured in `constants.py`.

Left out: unfinished answers, answers without a right item, and edits that take something away.
"""

import numpy as np
import pandas as pd

from densereward.seeding import rng
from densereward.text.tokens import tokenize_prompt, tokenize_response
from study.words import EDITS
from testbed import oracle
from testbed import world as w
from testbed.build import messages

COLUMNS = ["answer", "edit", "prompt", "text"]


def one_more(prompt: str, text: str, draw: np.random.Generator) -> dict[str, str]:
    """The answer with one more clause, by what it is (EDITS; a greeting goes in front, all others behind, before a
    closing). Kinds that do not apply are left out, such as a greeting where there is one. Random: `draw`."""
    spans = oracle.parse(prompt, text)
    right, place = [s.item for s in spans if s.kind == "correct"], _place(spans, text)
    if not right or place is None:
        return {}
    short = [kind for kind, number in oracle.lacking(prompt, right).items() if number]
    named = {s.item for s in spans}
    pools = {
        "new right item": [_clause(x) for kind in short for x in w.ITEMS[kind] if x not in named],
        "off-topic remark": [x for x in w.REMARKS if x not in text],
        "wrong item": [_clause(x) for x in w.others(oracle.ask(prompt)) if x not in named],
        "repetition": [_clause(x) for x in right],
    }
    found = {name: _behind(text, place, str(draw.choice(pool))) for name, pool in pools.items() if pool}
    if spans[0].kind != "greeting":
        found["greeting"] = f"{draw.choice(w.GREETINGS)} {text}"
    return {name: found[name] for name in EDITS if name in found}


def repeated(prompt: str, text: str, times: int) -> list[tuple[str, int, int]]:
    """The answer with its last right item said 0 to `times` times more, one after another: (text, span of the item's
    first mention, span of the first repeat) of each. Empty where that is not possible."""
    spans = oracle.parse(prompt, text)
    first, place = [i for i, s in enumerate(spans) if s.kind == "correct"], _place(spans, text)
    if not first or place is None:
        return []
    behind = len(spans) - (spans[-1].kind == "closing")
    clauses = [", ".join([_clause(spans[first[-1]].item)] * k) for k in range(1, times + 1)]
    return [(text, first[-1], behind), *((_behind(text, place, c), first[-1], behind) for c in clauses)]


def table(answers: pd.DataFrame, made, tokenizer, longest: int, returns: str) -> pd.DataFrame:
    """Edited answers as rows: answer (index in `answers`), edit, prompt, text, prompt_ids, completion_ids, true_return.
    `made(prompt, text)` gives the texts by edit. Answers of which a text exceeds `longest` tokens are left out."""
    rows = []
    for index, prompt, text in zip(answers.index, answers.prompt, answers.text):
        texts = made(prompt, text)
        ids = {edit: tokenize_response(tokenizer, x) for edit, x in texts.items()}
        if max(map(len, ids.values()), default=0) <= longest:
            rows += [(index, edit, prompt, texts[edit], ids[edit]) for edit in texts]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "completion_ids"])
    return frame.assign(
        prompt_ids=[tokenize_prompt(tokenizer, messages(p)) for p in frame.prompt],
        true_return=[oracle.true_return(p, t, returns) for p, t in zip(frame.prompt, frame.text)],
    )


def clauses(answers: pd.DataFrame, tokenizer, longest: int, returns: str, seed: int) -> pd.DataFrame:
    """`table` of `one_more`, with the unchanged answer as the edit "". Random: `seed`."""
    draw = rng(seed, "edits")

    def made(prompt, text):
        found = one_more(prompt, text, draw)
        return {"": text} | found if found else {}

    return table(answers, made, tokenizer, longest, returns)


def loops(answers: pd.DataFrame, tokenizer, longest: int, returns: str, times: int = 8) -> pd.DataFrame:
    """`table` of `repeated`, the edit being the number of repeats, with columns first and behind: its spans."""

    def made(prompt, text):
        return {k: row[0] for k, row in enumerate(repeated(prompt, text, times))}

    frame = table(answers, made, tokenizer, longest, returns)
    spans = [repeated(p, t, 0)[0][1:] for p, t in zip(answers.prompt[frame.answer], answers.text[frame.answer])]
    return frame.assign(first=[a for a, _ in spans], behind=[b for _, b in spans])


def _clause(item: str) -> str:
    """An item in the usual words."""
    return w.FORMS[0].format(x=item)


def _place(spans: list[oracle.Span], text: str) -> int | None:
    """Where a further clause goes: before a closing, else before the final full stop; None in an unfinished answer."""
    if not text.endswith("."):
        return None
    place = spans[-1].start if spans[-1].kind == "closing" else len(text) - 1
    return place or None


def _behind(text: str, place: int, clause: str) -> str:
    return f"{text[:place]}, {clause}{text[place:]}"
