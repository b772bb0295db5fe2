"""The testbed's datasets: dialogues for fine-tuning, preference pairs, prompts - in the schema that `data.py` gives
real text.

What a method may see is in these rows: texts and a preference label. True returns are not in them; whoever measures
asks the oracle.
"""

from dataclasses import replace

import numpy as np
from datasets import Dataset
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from densereward.progress import progress
from densereward.seeding import rng as stream
from densereward.text.data import Report, check_sizes, check_splits
from testbed import oracle
from testbed import world as w
from testbed.world import World

SIZES = {"sft": 1_000, "preference": 1_000, "ppo": 1_000, "validation": 200, "test": 200}  # rows, to look at


def build(world: World, seed: int, contrast: float = 0.0, **sizes: int) -> dict[str, list[dict]]:
    """The splits named in `sizes` (all of `SIZES` without any): `sft` dialogues, drawn from seed 0 always, as one SFT
    model serves every seed; `preference`, `validation`, `test` pairs and `ppo` prompts (at most as many as there are),
    drawn by `seed`. `contrast` is the share of contrast pairs in `preference`; held-out pairs are always independent
    answers."""
    splits: dict[str, list[dict]] = {}
    for name, n in (sizes or SIZES).items():
        if name == "sft":
            splits[name] = dialogues(world, "sft", n, stream(0, "testbed", "sft"))
        elif name == "ppo":
            pool = w.prompts(world, "ppo")
            order = stream(seed, "testbed", "ppo").permutation(len(pool))
            splits[name] = [{"prompt": messages(pool[i])} for i in order[:n]]
        else:
            share = contrast if name == "preference" else 0.0
            splits[name] = preference_pairs(world, name, n, stream(seed, "testbed", name), share)
    return splits


def load(world: World, seed: int, contrast: float = 0.0, **sizes: int) -> tuple[dict[str, Dataset], Report]:
    """`build`, as `data.load` gives the splits of a file: checked, as tables, with a report. Raises ValueError for a
    bad size."""
    check_sizes(sizes)
    return check_splits(build(world, seed, contrast, **sizes))


def messages(prompt: str) -> list[dict]:
    """A prompt as a conversation of one user turn."""
    return [{"role": "user", "content": prompt}]


def _reply(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def _draw(pool: list[str], rng: np.random.Generator) -> tuple[str, dict[str, int]]:
    prompt = pool[int(rng.integers(len(pool)))]
    return prompt, oracle.ask(prompt)


def dialogues(world: World, split: str, n: int, rng: np.random.Generator) -> list[dict]:
    """n dialogues {"prompt", "completion"}, answers of mixed quality that repeat themselves at `world.sft_repeats`
    (random: prompts, qualities, answers)."""
    world = replace(world, repeats=world.sft_repeats)
    pool, rows = w.prompts(world, split), []
    for _ in progress("dialogues", range(n)):
        prompt, asked = _draw(pool, rng)
        text = w.answer(asked, float(rng.choice(w.QUALITIES)), world, rng)
        rows.append({"prompt": messages(prompt), "completion": _reply(text)})
    return rows


def preference_pairs(world: World, split: str, n: int, rng: np.random.Generator, contrast: float = 0.0) -> list[dict]:
    """n pairs {"prompt", "chosen", "rejected"}; the label is a Bradley-Terry draw on the true return (in units of
    `world.temperature`), so it is noisy. A share `contrast` of the pairs differ in one or two items only, which hands
    credit over; the others are two independent answers.

    Length says next to nothing: repetitions make answers longer and worse, and poor answers also name too few items
    (`world.SHORT`), which makes longer ones better; the two balance. No pair is left out for its length, so labels are
    exact draws and repetitions keep their weight. Random: everything; identical pairs are redrawn."""
    pool, rows = w.prompts(world, split), []

    def answer(asked: dict[str, int]) -> str:
        quality = w.pick(w.QUALITIES, rng)
        aims = {kind: max(2, number - w.pick(w.SHORT[quality], rng)) for kind, number in asked.items()}
        return w.answer(aims, quality, world, rng)

    drawn = progress("pairs", total=n)
    while len(rows) < n:
        prompt, asked = _draw(pool, rng)
        first = answer(asked)
        second = swap_items(prompt, first, int(rng.integers(1, 3)), rng) if rng.random() < contrast else answer(asked)
        if first == second:
            continue
        worth = [oracle.true_return(prompt, x, world.returns) for x in (first, second)]
        wins = expit((worth[0] - worth[1]) / world.temperature)
        chosen, rejected = (first, second) if rng.random() < wins else (second, first)
        rows.append({"prompt": messages(prompt), "chosen": _reply(chosen), "rejected": _reply(rejected)})
        drawn.update()
    drawn.close()
    return rows


def swap_items(
    prompt: str, text: str, n: int, rng: np.random.Generator, only: tuple[str, ...] = ("correct", "wrong")
) -> str:
    """The same answer with up to n items (of spans of the kinds `only`) exchanged, right for wrong and wrong for right;
    nothing else changes. A right one is of a kind that is short of its number, if any is. Comes back unchanged when
    there is nothing to exchange."""
    asked = oracle.ask(prompt)
    spans = [s for s in oracle.parse(prompt, text) if s.kind in only and not s.misspelt]
    named = {s.item for s in oracle.parse(prompt, text)}
    for i in sorted(rng.permutation(len(spans))[:n], reverse=True):
        span = spans[i]
        right = [s.item for s in oracle.parse(prompt, text) if s.kind == "correct"]
        short = [kind for kind, number in oracle.lacking(prompt, right).items() if number] or asked
        items = w.others(asked) if span.kind == "correct" else [x for x in w.KIND_OF if w.KIND_OF[x] in short]
        pool = [x for x in items if x not in named]
        if pool:
            new = str(rng.choice(pool))
            named.add(new)
            text = text[: span.start] + text[span.start : span.end].replace(span.item, new, 1) + text[span.end :]
    return text


def ceiling(world: World, pairs: list[dict]) -> float:
    """How often the label agrees with the true return: what a perfect reward model would score (a tie counts one
    half)."""
    gaps = [
        oracle.true_return(p, r["chosen"][0]["content"], world.returns)
        - oracle.true_return(p, r["rejected"][0]["content"], world.returns)
        for r in pairs
        for p in [r["prompt"][0]["content"]]
    ]
    return float(np.mean((np.sign(gaps) + 1) / 2))


def style_features(prompt: str, text: str) -> list[int]:
    """Counts that say nothing about which items are right: items, items named before (right or wrong), misspellings,
    and each kind of span without an item."""
    spans, named, again = oracle.parse(prompt, text), set(), 0
    for span in spans:
        again += span.item is not None and span.item in named
        named.add(span.item)
    kinds = [span.kind for span in spans if span.item is None]
    style = ("repetition", "off_topic", "greeting", "closing", "junk")
    return [len(spans) - len(kinds), again, sum(s.misspelt for s in spans), *map(kinds.count, style)]


def style_level(train: list[dict], test: list[dict]) -> float:
    """Held-out label accuracy of a logistic regression on style alone: what a reward model gets that never reads the
    items."""

    def differences(rows):
        return np.array(
            [
                np.subtract(
                    style_features(p, r["chosen"][0]["content"]), style_features(p, r["rejected"][0]["content"])
                )
                for r in rows
                for p in [r["prompt"][0]["content"]]
            ]
        )

    x = differences(train)
    signs = np.where(np.arange(len(x)) % 2, 1, -1)  # half of the pairs the other way round; no intercept
    fit = LogisticRegression(fit_intercept=False).fit(x * signs[:, None], signs)
    score = differences(test) @ fit.coef_[0]
    return float(np.mean((np.sign(score) + 1) / 2))
