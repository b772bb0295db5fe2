"""The testbed's oracle reviser: it knows what every span is, and errs as often as it is told to.

It stands for tlcr's external model (Eq. 3), which knows more than the preference label does but is not always right; a
perfect one would hand the truth over. It reads rejected answers with the oracle's own parse. Span by span:

| the span | what becomes of it |
| --- | --- |
| wrong item, repeated item | exchanged for a right item that is not there yet while one is missing, else left out |
| right item beyond its kind's number, off-topic, junk, any other repetition | left out |
| right item, misspelt | spelt right |
| right item, greeting at the start, closing at the end | stays |

Right items that are still missing are added behind the last one, a full stop too. New items are those of the chosen
answer first, then any. A span keeps the joint before it, unless it comes to stand first or behind the greeting.

With probability `error` each, independently: a defect (a span of the first three rows, a missing item, the missing full
stop) is missed, which the reviser then takes for right, a wrong item for one of the missing; a good span is, at even
odds, broken (a right item is exchanged for a wrong one, a greeting or closing for a remark) or rewritten without need
(other words around the same item, another greeting or closing).

Left out: reordering, and errors that depend on what the span says.
"""

from collections import Counter

import numpy as np

from densereward.labels.revision import Reviser, Revision, checked
from densereward.seeding import rng
from testbed import oracle
from testbed import world as w

GOOD = ("correct", "greeting", "closing")


def oracle_reviser(seed: int, error: float = 0.1) -> Reviser:
    """A reviser with an error rate per span. `counts`: spans, kept, mended, missed, broken, rewritten (of spans; they
    add up), and added, stops (full stops added), left_out (missing items and full stops that were missed).

    Random: errors and words, by `seed` and the row's texts. ValueError unless 0 <= error <= 1, or for a prompt that is
    none of this world's.
    """
    if not 0 <= error <= 1:
        raise ValueError(f"error is {error!r}; give the probability of an error per span, 0 to 1")

    def revise(prompt: list[dict], rejected: str, chosen: str) -> Revision:
        question = prompt[-1]["content"]
        draw = rng(seed, "revise", question, rejected, chosen)
        text, counts = _revise(question, rejected.strip(), chosen, error, draw)
        return checked(text, rejected, counts)

    return revise


def _revise(prompt: str, rejected: str, chosen: str, error: float, draw: np.random.Generator) -> tuple[str, dict]:
    spans, counts, out = oracle.parse(prompt, rejected), Counter(), []
    errs = draw.random(len(spans)) < error
    taken = [s.kind == "correct" or (err and s.item is not None) for s, err in zip(spans, errs)]  # for right
    fresh = _fresh(prompt, spans, oracle.lacking(prompt, [s.item for s, t in zip(spans, taken) if t]), chosen, draw)
    missing = max(0, len(fresh) - sum(t and s.kind == "wrong" for s, t in zip(spans, taken)))
    for i, (span, (joint, clause), err) in enumerate(zip(spans, _pieces(rejected, spans), errs)):
        good = span.kind in GOOD and not span.misspelt
        if good and err:
            fate, clause = _spoil(span, clause, _wrong(prompt, spans), draw)
        elif good or err:
            fate = "kept" if good else "missed"
        else:
            fate = "mended"
            if span.kind == "correct":
                clause = _exchange(clause, span.item)
            elif span.kind in ("wrong", "repetition") and span.item and missing:
                clause, missing = _exchange(clause, fresh.pop(0)), missing - 1
            else:
                clause = None
        counts.update({"spans": 1, fate: 1})
        if clause is not None:
            out.append((i, span.kind, joint, clause))
    add = [not miss for miss in draw.random(missing) < error]
    where = len(out) - bool(out and out[-1][1] == "closing")
    out[where:where] = [(-2, "added", ", ", str(draw.choice(w.FORMS)).format(x=fresh.pop(0))) for a in add if a]
    stop = rejected.endswith(".")
    stop_too = not stop and draw.random() >= error
    counts.update(added=sum(add), stops=int(stop_too), left_out=len(add) - sum(add) + (not stop and not stop_too))
    return _join(out) + "." * (stop or stop_too), dict(counts)


def _pieces(text: str, spans: list[oracle.Span]) -> list[tuple[str, str]]:
    """(joint, clause) of each span; the final full stop is in neither."""
    pieces = []
    for i, span in enumerate(spans):
        words = text[span.start : span.end]
        words = words.removesuffix(".") if i == len(spans) - 1 else words
        behind_greeting = i == 1 and spans[0].kind == "greeting"  # there the oracle cuts without a joint
        joint = oracle._JOINT.match(words) if i and not behind_greeting else None
        length = joint.end() if joint else len(words) - len(words.lstrip()) if behind_greeting else 0
        pieces.append((words[:length], words[length:]))
    return pieces


def _fresh(prompt: str, spans: list[oracle.Span], lacks: dict, chosen: str, draw: np.random.Generator) -> list[str]:
    """Right items that the answer lacks, of each kind its number: the chosen answer's in their order, then the others,
    kind by kind, shuffled."""
    named, found = {s.item for s in spans}, []
    first = [s.item for s in oracle.parse(prompt, chosen) if s.kind in ("correct", "not_asked")]
    others = [str(x) for kind in lacks for x in draw.permutation(w.ITEMS[kind])]
    for item in dict.fromkeys(first + others):
        if item not in named and sum(w.KIND_OF[x] == w.KIND_OF[item] for x in found) < lacks[w.KIND_OF[item]]:
            found.append(item)
    return found


def _wrong(prompt: str, spans: list[oracle.Span]) -> list[str]:
    """Wrong items that the answer has not named; all of them, if it has named every one."""
    wrong, named = w.others(oracle.ask(prompt)), {s.item for s in spans}
    return [x for x in wrong if x not in named] or wrong


def _exchange(clause: str, item: str) -> str:
    """The clause with another item, or with its own spelt right."""
    at = oracle._ITEM.fullmatch(clause.strip()).span("item")
    shift = len(clause) - len(clause.lstrip())
    return clause[: at[0] + shift] + item + clause[at[1] + shift :]


def _spoil(span: oracle.Span, clause: str, wrong: list[str], draw: np.random.Generator) -> tuple[str, str]:
    """(fate, clause) of a good span that the reviser should have left alone."""
    broken = draw.random() < 0.5
    if span.kind == "correct":
        if broken:
            return "broken", _exchange(clause, str(draw.choice(wrong)))
        pool = [form.format(x=span.item) for form in w.FORMS]
    else:
        pool = w.REMARKS if broken else w.GREETINGS if span.kind == "greeting" else w.CLOSINGS
    clause = str(draw.choice([words for words in pool if words != clause.strip()]))
    return ("broken", clause + "," * (span.kind == "greeting")) if broken else ("rewritten", clause)


def _join(out: list[tuple[int, str, str, str]]) -> str:
    """One text of (number of the span, kind, joint, clause). Neighbours of old keep what was between them; others get
    the second one's joint, or a space behind a greeting."""
    text = out[0][3] if out else ""
    for (before, kind, _, _), (number, _, joint, clause) in zip(out, out[1:]):
        if number != before + 1:
            joint = " " if kind == "greeting" else joint if joint in w.JOINTS else ", "
        text += joint + clause
    return text.rstrip()
