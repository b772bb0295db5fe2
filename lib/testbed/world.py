"""A closed world in which every word of an answer has a known worth.

A prompt asks for a number of things of one kind ("please name four fruits for a picnic."), or of several at once
(`World.parts`: "please name four fruits, three tools and six clothes for a picnic."), which makes answers of more
spans. An answer is a row of spans, each of a documented kind with a documented credit (`CREDITS`); how good an answer
is, is decided by its spans alone. Nothing here is learnt and nothing is hidden: `oracle.py` recovers every span from
the plain text of prompt and answer, so a policy that was never near this generator is scored by the same rules.

What makes it a fair place to compare rewards:
- an answer has a latent quality (the chance that an item is right), drawn apart from its style and its length;
- preference labels are Bradley-Terry draws on the true return, and which answer is longer hardly tells anything of it
  (`build.preference_pairs`);
- clauses are joined by commas, conjunctions and full stops at random, lead to their item in one to three words, and go
  on behind it at times, so that neither punctuation nor a fixed number of tokens marks the spans;
- repetitions, long loops among them, are frequent enough to be learnt from preferences;
- prompts of all splits are disjoint, and one (kind, number) combination per kind occurs in the test split only.

Left out: anything a reader could not check by eye - grammar, dialogue; an order among the parts of an answer.
"""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from densereward.checked import Integer, Positive, Share, checked

ITEMS = {
    "fruits": "apple pear plum lemon mango cherry grape peach",
    "tools": "hammer saw drill chisel wrench pliers file axe",
    "animals": "horse goat otter rabbit tiger zebra camel donkey",
    "clothes": "scarf coat glove sock jacket skirt boot vest",
    "instruments": "drum flute violin harp guitar piano trumpet cello",
    "vehicles": "truck tram ferry bike scooter canoe train plane",
}
ITEMS = {kind: tuple(words.split()) for kind, words in ITEMS.items()}
KIND_OF = {item: kind for kind, items in ITEMS.items() for item in items}
NUMBERS = {"three": 3, "four": 4, "five": 5, "six": 6}

CREDITS = {  # per span; the true return of an answer is their sum (see oracle.RETURNS for the returns that are not)
    "correct": 1.0,  # an item of a kind that was asked for, not named before, within that kind's number
    "wrong": -1.0,  # an item of a kind that was not asked for
    "not_asked": -0.2,  # a right item beyond its kind's number
    "repetition": -1.0,  # a right item, a remark, a greeting or a closing that was there before
    "off_topic": -0.3,  # a remark that answers nothing; a greeting or a closing out of its place
    "greeting": 0.0,  # at the start
    "closing": 0.2,  # at the end
    "junk": -1.0,  # anything else, per clause or per 24 characters
}
MISSPELT = -0.5  # added to the credit of an item with one letter wrong
UNFINISHED = -0.7  # added to the last span of an answer that does not end with a full stop
EMPTY = -1.0  # the return of an answer without a single character

OPENERS = ("", "hello. ", "hi, ", "good morning. ", "good evening. ", "excuse me, ", "quick question: ", "thanks. ")
REQUESTS = (
    "please name {k} {c}{o}.", "list {k} {c}{o}.", "can you give me {k} {c}{o}?", "i need {k} {c}{o}.",
    "which {k} {c} would you choose{o}?", "tell me {k} {c}{o}.",
)  # fmt: skip
OCCASIONS = (
    "", " for a picnic", " for my sister", " for a quiz", " for the school", " for a story", " for a game",
    " for tomorrow", " for a list", " for the market", " for my son", " for a poster", " for a song", " for the club",
    " for a friend", " for a trip",
)  # fmt: skip
GREETINGS = ("sure:", "of course!", "happy to help!", "here you go:")
CLOSINGS = ("hope that helps", "have a nice day", "let me know if you need more", "good luck with it")
REMARKS = (
    "the weather is lovely today", "my neighbour has a new house", "it is almost noon", "i have been very busy",
    "the river is quiet at night", "people often talk about money",
)  # fmt: skip
BEFORE = ("maybe ", "maybe ", "maybe ", "how about ", "i would say ")  # what stands twice is twice as frequent
AFTER = (" would do", " is a good choice")
FORMS = tuple(f"{before}{{x}}{after}" for before in BEFORE for after in ("",) * 5 + AFTER)
JOINTS = (", ", ", ", ", ", " and ", ". ", "; ")
QUALITIES = (0.4, 0.7, 0.95)
SHORT = {0.4: (2, 3, 4), 0.7: (1, 2), 0.95: (0,)}  # by how many items per part an answer of a pair aims too low
SPLITS = {"sft": 0.35, "preference": 0.30, "ppo": 0.20, "validation": 0.05, "test": 0.10}  # shares of the prompts


_RETURNS = ("additive", "coverage", "whole", "excess-1.0", "excess-0.2", "excess+0.0", "excess+0.2")
Returns = Annotated[Literal[_RETURNS], Field(description=f"one of {', '.join(_RETURNS)}")]  # keys of oracle.RETURNS


@checked
class World:
    """What can be asked, and how label noise and length are set. `kinds` is how many of the six kinds are ever asked
    for: 3 give 144 (item, kind) facts and 6 give 288; the other kinds only supply wrong items. `parts` is how many of
    these a prompt asks for at once; where it is all of them, the same items are right for every prompt. ValueError
    unless 1 <= parts <= kinds, and some kind is left to be wrong."""

    kinds: Integer = 3
    parts: Integer = 1
    temperature: Positive = 0.5  # of the Bradley-Terry label, in units of return
    repeats: Share = 0.5  # share of answers that repeat something, per part: one to three items, or a clause in a loop
    sft_repeats: Share = 0.5  # the same of the dialogues for fine-tuning; at .5 a model learns to forget what it named
    returns: Returns = "additive"  # how credits add up

    def __post_init__(self):
        if not (1 <= self.parts <= self.kinds <= len(ITEMS) and self.parts < len(ITEMS)):
            limits = f"1 <= parts <= kinds <= {len(ITEMS)} and parts < {len(ITEMS)}"
            raise ValueError(f"parts is {self.parts} and kinds is {self.kinds}; choose them so that {limits}")

    @property
    def asked(self) -> tuple[str, ...]:
        return tuple(ITEMS)[: self.kinds]


def held_out(kind: str, number: int) -> bool:
    """Whether a (kind, number) combination is kept for the test split: one number per kind."""
    return tuple(NUMBERS.values())[tuple(ITEMS).index(kind) % len(NUMBERS)] == number


def others(asked: dict[str, int]) -> list[str]:
    """Every item that is wrong where `asked` is asked for."""
    return [item for item, kind in KIND_OF.items() if kind not in asked]


def prompts(world: World, split: str) -> list[str]:
    """All prompts of a split, in a fixed shuffled order. Which split a prompt is in depends on its text alone, so no
    seed can move a test prompt into training. The test split holds its share of the ordinary prompts and a like share
    of the held-out ones. Only the first part of a prompt may be held out: the first alone decides the split and what
    the others are, so there are as many prompts whatever `world.parts` is."""
    edges = dict(zip(SPLITS, itertools.accumulate(SPLITS.values()), strict=True))
    low, high = edges[split] - SPLITS[split], edges[split]
    chosen = []
    for opener, request, k, c, o in itertools.product(OPENERS, REQUESTS, NUMBERS, world.asked, OCCASIONS):
        text = opener + request.format(k=k, c=c, o=o)
        draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        if low <= draw < high and (split == "test" or not held_out(c, NUMBERS[k])):
            more = _more(text, c, world) if world.parts > 1 else ""
            chosen.append((draw, opener + request.format(k=k, c=c + more, o=o)))
    return [text for _, text in sorted(chosen)]


def few_prompts(world: World, split: str, n: int) -> list[str]:
    """n prompts of a split, evenly taken from all of them; the same for every seed and method."""
    pool = prompts(world, split)
    return [pool[i * len(pool) // n] for i in range(min(n, len(pool)))] if n < len(pool) else pool


def _more(text: str, first: str, world: World) -> str:
    """The further parts of a prompt that asks for the kind `first` alone, in words: ", three tools and six clothes".
    Drawn from its text; kinds differ, none is held out, and a world of more parts goes on where one of fewer ends."""
    draw, parts = np.random.default_rng(list(hashlib.sha256(text.encode()).digest())), []
    for kind in draw.permutation([kind for kind in world.asked if kind != first])[: world.parts - 1]:
        numbers = [word for word, number in NUMBERS.items() if not held_out(kind, number)]
        parts.append(f"{draw.choice(numbers)} {kind}")
    return "".join(f", {part}" for part in parts[:-1]) + f" and {parts[-1]}"


def pick(options: Sequence, rng: np.random.Generator):
    """One of the options: the draw of `rng.choice`, which takes five times as long to make an array of them first."""
    return options[int(rng.integers(len(options)))]


def answer(asked: dict[str, int], quality: float, world: World, rng: np.random.Generator) -> str:
    """One answer of the given latent quality to what is `asked` (see `oracle.ask`): for each part in turn K - 1 to
    K + 2 item clauses, and a style drawn apart from the quality. Repetitions, a misspelling and a remark are drawn once
    per part, anywhere in the answer."""
    clauses, named, wrong = [], [], others(asked)
    for kind, number in asked.items():
        right = list(rng.permutation(ITEMS[kind]))
        for _ in range(number + int(rng.integers(-1, 3))):
            item = right.pop() if rng.random() < quality and right else pick(wrong, rng)
            named.append(item)
            clauses.append(_clause(item, rng))
    for _ in asked:
        if rng.random() < world.repeats:
            _repeat(clauses, named, rng)
        if rng.random() < 0.10:
            spoil = int(rng.integers(len(clauses)))
            clauses[spoil] = _misspell(clauses[spoil], rng)
        if rng.random() < 0.20:
            clauses.insert(int(rng.integers(len(clauses) + 1)), pick(REMARKS, rng))
    if rng.random() < 0.5:
        clauses.append(pick(CLOSINGS, rng))
    text = clauses[0] + "".join(pick(JOINTS, rng) + clause for clause in clauses[1:]) + "."
    return f"{pick(GREETINGS, rng)} {text}" if rng.random() < 0.6 else text


def _repeat(clauses: list[str], named: list[str], rng: np.random.Generator) -> None:
    """Say something again: a clause in a loop, or one to three of the items `named`, some clauses further on. Where a
    part before has repeated something, a number counts other clauses than items: a loop may be of a remark."""
    again = int(rng.integers(len(named)))
    if rng.random() < 0.3:
        clauses[again + 1 : again + 1] = [clauses[again]] * int(rng.integers(2, 6))
        return
    for _ in range(int(rng.integers(1, 4))):
        again = int(rng.integers(len(named)))
        where = int(rng.integers(again + 1, len(clauses) + 1))
        clauses.insert(where, _clause(named[again], rng))


def _clause(item: str, rng: np.random.Generator) -> str:
    return pick(FORMS, rng).format(x=item)


def _misspell(clause: str, rng: np.random.Generator) -> str:
    """Replace one letter of the item in a clause by another one; a clause without an item stays as it is."""
    item = next((word for word in clause.split() if word in KIND_OF), None)
    if item is None:
        return clause
    i = int(rng.integers(1, len(item)))
    letter = pick([c for c in "abcdefghijklmnopqrstuvwxyz" if item[:i] + c + item[i + 1 :] not in KIND_OF], rng)
    return clause.replace(item, item[:i] + letter + item[i + 1 :], 1)
