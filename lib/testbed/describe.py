"""The testbed in numbers: what its answers, pairs and prompts are made of. Looked at by readers, never trained on."""

import pandas as pd

from densereward.reward.recipe import Recipe
from densereward.seeding import rng as stream
from testbed import oracle, truth
from testbed import world as w
from testbed.world import World

KINDS = {
    "correct": "an item of the kind that was asked for, new, within the number asked for",
    "wrong": "an item of another kind",
    "not_asked": "a right item beyond the number asked for",
    "repetition": "what was said before",
    "off_topic": "a remark that answers nothing; a greeting or a closing out of its place",
    "greeting": "at the start",
    "closing": "at the end",
    "junk": "anything else, per clause or per 24 characters",
}


def credits() -> pd.DataFrame:
    """Kinds of spans with their credits, and what is added on top."""
    rows = [(kind.replace("_", " "), w.CREDITS[kind], text) for kind, text in KINDS.items()]
    rows += [
        ("+ misspelt", w.MISSPELT, "on top: an item with one letter wrong"),
        ("+ unfinished", w.UNFINISHED, "on top of the last span: the answer does not end with a full stop"),
        ("empty", w.EMPTY, "an answer without a single character"),
    ]
    return pd.DataFrame(rows, columns=["span", "credit", "what it is"])


def answers(world: World, n: int, seed: int, split: str = "sft") -> pd.DataFrame:
    """n answers of the mixture that SFT and preference pairs draw from: prompt, text, latent quality, characters, and
    `oracle.summary`. Random: `seed`."""
    pool, rng, rows = w.prompts(world, split), stream(seed, "describe"), []
    for _ in range(n):
        prompt, quality = pool[int(rng.integers(len(pool)))], float(rng.choice(w.QUALITIES))
        text = w.answer(oracle.ask(prompt), quality, world, rng)
        rows.append(
            {
                "prompt": prompt,
                "text": text,
                "quality": quality,
                "characters": len(text),
                **oracle.summary(prompt, text),
            }
        )
    return pd.DataFrame(rows)


def shares(mixture: pd.DataFrame) -> pd.DataFrame:
    """Share of each kind among the spans of `answers`, and its credit."""
    total = mixture[list(w.CREDITS)].sum()
    rows = {"kind": list(total.index), "share": (total / total.sum()).values, "credit": list(w.CREDITS.values())}
    return pd.DataFrame(rows)


def pairs(rows, returns: str = "additive") -> pd.DataFrame:
    """gap of true returns and of lengths (characters), chosen minus rejected, of preference rows."""
    out = []
    for row in rows:
        prompt, texts = row["prompt"][-1]["content"], [row[side][0]["content"] for side in ("chosen", "rejected")]
        chosen, rejected = (oracle.true_return(prompt, text, returns) for text in texts)
        out.append({"gap": chosen - rejected, "characters": len(texts[0]) - len(texts[1])})
    return pd.DataFrame(out)


def splits(world: World) -> pd.DataFrame:
    """Prompts and (kind, number) combinations of each split, and how many prompts another split has too."""
    found = {name: w.prompts(world, name) for name in w.SPLITS}
    rows = []
    for name, prompts in found.items():
        others = {p for other, pool in found.items() if other != name for p in pool}
        asked = {part for p in prompts for part in oracle.ask(p).items()}
        kept = [part for part in asked if w.held_out(*part)]
        rows.append({"split": name, "prompts": len(prompts), "combinations": len(asked), "of these held out": len(kept),
                     "prompts in another split": len(others & set(prompts))})  # fmt: skip
    return pd.DataFrame(rows)


def held_out(world: World) -> str:
    """The combinations that only the test split asks for."""
    parts = [(word, kind) for kind in world.asked for word, n in w.NUMBERS.items() if w.held_out(kind, n)]
    return ", ".join(f"{word} {kind}" for word, kind in parts)


def boundaries(tokenizer, pairs, batch: dict, methods: list[Recipe], seed: int) -> pd.DataFrame:
    """How each method's boundaries meet those of true spans in the chosen answers of tokenised `pairs` and their
    `batch`: mean segment length (tokens), precision and recall; the last row is the true spans themselves.

    Columns are those of `truth.boundaries`, without their prefix."""
    prompts = [truth.text_of(tokenizer, ids) for ids in pairs["prompt_ids"]]
    spans = truth.spans_of(tokenizer, prompts, pairs["chosen_completion_ids"][:])[0]
    rows = []
    for m in methods:
        found = truth.boundaries(m, batch, spans, tokenizer, seed)
        rows.append({"method": m.label, **m.segmentation, **{k.removeprefix("boundary_"): v for k, v in found.items()}})
    length = float((spans >= 0).sum() / (spans.max(1).values + 1).sum())
    perfect = dict.fromkeys(("precision", "recall", "exact_precision", "exact_recall"), 1.0)
    return pd.DataFrame([*rows, {"method": "true spans", "segment_length": length, **perfect}])
