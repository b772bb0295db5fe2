"""The oracle: reads any text as spans of the testbed's world, and credits them.

It sees only the plain text of a prompt and an answer, never how the answer was made: sampled, truncated, empty and
nonsensical answers are all covered, character by character. A span begins with the joint before it (", and ") and the
final full stop belongs to the last span, so spans partition the text.

Where a prompt asks for several kinds, each kind's number is counted for itself, and the order of the kinds does not
matter.

Each span says which character decides it (`Span.decided`): that of its item, of the word that tells a remark from all
other phrases, and for a closing what comes behind it, since only the last one counts as a closing. A reward that is
paid before the token of that character is no part of its reward to go.

Left out: partial worth inside a span.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from testbed import world as w

_BEFORE, _AFTER = ("|".join(map(re.escape, words)) for words in (w.BEFORE, w.AFTER))
_ITEM = re.compile(f"(?:{_BEFORE})?(?P<item>[a-z]+)(?:{_AFTER})?")
_JOINT = re.compile("|".join(re.escape(j) for j in sorted(set(w.JOINTS), key=len, reverse=True)))
_GREETING = re.compile("|".join(re.escape(g) for g in w.GREETINGS))
_ASKED = re.compile(rf"\b({'|'.join(w.NUMBERS)}) ({'|'.join(w.ITEMS)})\b")
JUNK_CHARACTERS = 24


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of an answer, what they are, and what they are worth (in units of return)."""

    kind: str
    start: int
    end: int
    credit: float
    item: str | None = None  # the item meant, spelt right
    misspelt: bool = False
    decided: int = 0  # the credit rests on the answer's characters before this one, and on none behind
    ending: float = 0.0  # the part of the credit that the answer's end decides (`world.UNFINISHED`)


def ask(prompt: str) -> dict[str, int]:
    """What a prompt asks for, number by kind, in its order; ValueError if it is not a prompt of this world."""
    return dict(_ask(prompt))


@lru_cache(1 << 14)
def _ask(prompt: str) -> dict[str, int]:
    found = {kind: w.NUMBERS[number] for number, kind in _ASKED.findall(prompt)}
    if not found:
        raise ValueError(f"not a testbed prompt: {prompt!r} names no number and kind, such as 'four fruits'")
    return found


def lacking(prompt: str, items: Iterable[str]) -> dict[str, int]:
    """How many of each kind that a prompt asks for are missing where `items` are there."""
    there = Counter(w.KIND_OF[item] for item in items)
    return {kind: max(0, number - there[kind]) for kind, number in ask(prompt).items()}


def parse(prompt: str, response: str) -> list[Span]:
    """The spans of an answer, in order, covering every character; an empty answer is one empty junk span.

    Kinds and credits are those of `world.CREDITS`; the last span of an answer without a final full stop carries
    `world.UNFINISHED` on top."""
    left = ask(prompt)  # how many of each kind are still to come
    if not response:
        return [Span("junk", 0, 0, w.EMPTY, ending=w.EMPTY)]
    spans, seen, pieces = [], set(), _pieces(response)
    finished = response.rstrip().endswith(".")
    for i, (start, body, end) in enumerate(pieces):
        first, last = i == 0, i == len(pieces) - 1
        text = response[body:end].strip()
        text = text[:-1] if last and text.endswith(".") else text
        what, item, misspelt, telling = _classify(text)
        decided = end if what == "junk" else body + response[body:end].index(text) + telling
        if what == "closing" and text not in seen:  # what stands behind it says whether it closes
            decided = end if last else end + len(response[end : pieces[i + 1][1]].rstrip())
        if what == "item":
            kind = w.KIND_OF[item]
            if kind not in left:
                what = "wrong"
            else:
                what = "repetition" if item in seen else "correct" if left[kind] else "not_asked"
                left[kind] -= what == "correct"
        elif what != "junk":
            out_of_place = (what == "greeting" and not first) or (what == "closing" and not last)
            what = "repetition" if text in seen else "off_topic" if out_of_place else what
        seen.add(item or text)
        ending = 0.0 if finished or not last else w.UNFINISHED
        credit = w.CREDITS[what] + (w.MISSPELT if misspelt else 0.0) + ending
        spans.append(Span(what, start, end, credit, item, misspelt, decided, ending))
    return spans


def _pieces(response: str) -> list[tuple[int, int, int]]:
    """Cuts a text at joints and after a leading greeting: (start, start of the words, end) of each piece. Pieces
    without a joint that are longer than any clause are cut every `JUNK_CHARACTERS` characters, so that endless junk
    costs without end."""
    cuts = [(0, 0)]
    if greeting := _GREETING.match(response):
        cuts += [(greeting.end(), greeting.end())] if greeting.end() < len(response) else []
    cuts += [(m.start(), m.end()) for m in _JOINT.finditer(response) if m.start() > cuts[-1][0]]
    pieces = []
    for (start, body), (end, _) in zip(cuts, cuts[1:] + [(len(response), 0)], strict=True):
        while end - body > 2 * JUNK_CHARACTERS:
            pieces.append((start, body, body + JUNK_CHARACTERS))
            start = body = body + JUNK_CHARACTERS
        pieces.append((start, body, end))
    return pieces


@lru_cache(1 << 14)
def _classify(text: str) -> tuple[str, str | None, bool, int]:
    """(kind of span, item, misspelt, how many of its characters tell) of one piece of text by itself: "item" for any
    item, and a greeting or a closing wherever it is."""
    for what, words in (("greeting", w.GREETINGS), ("closing", w.CLOSINGS), ("off_topic", w.REMARKS)):
        if text in words:
            return what, None, False, _TELLING[text]
    found = _ITEM.fullmatch(text)
    item = found and (found["item"] if found["item"] in w.KIND_OF else _NEAR.get(found["item"]))
    return ("item", item, item != found["item"], found.end("item")) if item else ("junk", None, False, len(text))


def _neighbours() -> dict[str, str]:
    """Every word that is one replaced letter (not the first) away from an item; a word near two items means the first
    of them."""
    near = {}
    for item in w.KIND_OF:
        for i in range(1, len(item)):
            for letter in "abcdefghijklmnopqrstuvwxyz":
                near.setdefault(item[:i] + letter + item[i + 1 :], item)
    return {word: item for word, item in near.items() if word not in w.KIND_OF}


_NEAR = _neighbours()


def _telling() -> dict[str, int]:
    """Of each phrase without an item, how many of its characters tell it from everything else a clause may start
    with."""
    phrases = [*w.GREETINGS, *w.CLOSINGS, *w.REMARKS]
    starts = [x.split() for x in (*phrases, *w.BEFORE, *w.KIND_OF)]
    found = {}
    for phrase in phrases:
        words = phrase.split()
        others = [start for start in starts if start != words]
        n = next(n for n in range(1, len(words) + 1) if all(start[:n] != words[:n] for start in others))
        found[phrase] = len(" ".join(words[:n]))
    return found


_TELLING = _telling()


def additive(spans: list[Span], number: int) -> float:
    """The sum of the credits; `number` is of all items that were asked for, here and below."""
    return sum(s.credit for s in spans)


def coverage(spans: list[Span], number: int) -> float:
    """The sum of the credits, and 2 more if everything that was asked for is there and nothing is wrong: not a sum over
    spans."""
    return additive(spans, number) + 2.0 * _clean(spans, number)


def whole(spans: list[Span], number: int) -> float:
    """Only the whole counts: 3 for a complete answer without a fault, 0 for any other finished one, -1 otherwise. Dense
    rewards have nothing to point at here, and can lose."""
    broken = any(s.kind == "junk" for s in spans) or spans[-1].credit < w.CREDITS[spans[-1].kind] + w.MISSPELT
    return 3.0 if _clean(spans, number) else -1.0 if broken else 0.0


def _clean(spans: list[Span], number: int) -> bool:
    correct = sum(s.kind == "correct" for s in spans)
    return correct == number and all(s.kind in ("correct", "greeting", "closing") and not s.misspelt for s in spans)


def priced(spans: list[Span], number: int, price: float) -> float:
    """The sum of the credits where each item beyond what was asked for, said before or not, is worth `price`."""
    return sum(credit(s, price) for s in spans)


def credit(span: Span, price: float | None) -> float:
    """A span's credit; that of an item beyond what was asked for is `price`, if there is one."""
    excess = price is not None and span.item and span.kind in ("not_asked", "repetition")
    return span.credit - w.CREDITS[span.kind] + price if excess else span.credit


PRICES = {f"excess{price:+.1f}": price for price in (-1.0, -0.2, 0.0, 0.2)}  # for the map: is more worse, or better?
RETURNS = {"additive": additive, "coverage": coverage, "whole": whole}
RETURNS |= {name: partial(priced, price=price) for name, price in PRICES.items()}


def true_return(prompt: str, response: str, returns: str = "additive") -> float:
    """The true return of an answer under one of `RETURNS` (in units of credit)."""
    return RETURNS[returns](parse(prompt, response), sum(ask(prompt).values()))


def perfect(prompt: str, returns: str = "additive") -> float:
    """The return of a perfect answer to a prompt: everything that was asked for, nothing else, and a closing."""
    number = sum(ask(prompt).values())
    spans = [Span("correct", 0, 0, w.CREDITS["correct"])] * number + [Span("closing", 0, 0, w.CREDITS["closing"])]
    return RETURNS[returns](spans, number)


def token_spans(spans: list[Span], offsets: list[tuple[int, int]]) -> np.ndarray:
    """The index of the span that holds each token, [T] int64, from the tokens' character offsets: the span of a token's
    last character. A token without characters (the end-of-sequence token) belongs to the last span."""
    ends = np.array([s.end for s in spans])
    last = np.array([end - 1 if end > start else ends[-1] for start, end in offsets])
    return np.minimum(np.searchsorted(ends, last, side="right"), len(spans) - 1)


def deciding_tokens(spans: list[Span], offsets: list[tuple[int, int]]) -> np.ndarray:
    """The index of the token that decides each span, [N] int64: the one with the last character that its credit rests
    on. What rests on the answer's end is decided by the last token, which is EOS where the answer has one."""
    ends = np.array([end for _, end in offsets])
    found = np.searchsorted(ends, [s.decided for s in spans])  # the first to reach so far
    at_end = [s.decided == spans[-1].end and s.item is None for s in spans]
    return np.where(at_end, len(offsets) - 1, np.minimum(found, len(offsets) - 1))


def summary(prompt: str, response: str) -> dict[str, float]:
    """What an evaluation reports of one answer: true return, spans of each kind, fact accuracy (nan without any
    item)."""
    spans = parse(prompt, response)
    number = sum(ask(prompt).values())
    counts = {kind: sum(s.kind == kind for s in spans) for kind in w.CREDITS}
    facts = [s.item is not None and s.kind != "wrong" for s in spans if s.item is not None]
    return {
        **{f"return_{name}": f(spans, number) for name, f in RETURNS.items()},
        **counts,
        "misspelt": sum(s.misspelt for s in spans),
        "spans": len(spans),
        "covered": counts["correct"] / number,
        "fact_accuracy": float(np.mean(facts)) if facts else float("nan"),
        "finished": float(response.rstrip().endswith(".")),
    }
