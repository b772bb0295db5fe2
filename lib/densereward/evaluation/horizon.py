"""Beyond the papers: does the gain of dense rewards grow with the length of a response, shrink with a weak reward
model, and survive a poor reviser? Which runs answer that, and what their records say.

Length, in two ways, the limit on length growing with it. Tokens: the same world, answers and returns in more and more
tokens, as a smaller vocabulary cuts the same words into more pieces, down to a token per letter (`LENGTHS`): over how
many actions a reward is spread, nothing else. Spans: prompts that ask for more kinds at once (`SPANS`), so that there
is more to get right, and returns are on a larger scale. Reward-model data: fewer preference pairs (`PAIRS`). Reviser:
TLCR's rows by error rate (`ERRORS`).

A run belongs to a cell if its parameters are those that the cell's command would give it (`identity.same`), so a
missing one is named by a line that makes it. Left out: settings tuned for each cell; a label noise that grows with the
returns of longer answers.
"""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from densereward import models, tokens
from densereward.evaluation import summary
from densereward.evaluation.stats import mean_interval
from densereward.identity import of_0_1, parameters, same, then
from densereward.methods import METHODS
from densereward.pipeline import Run
from densereward.profiles import profile as profile_row
from densereward.records import latest
from densereward.testbed import oracle

RETURN = "final.true_return"
SEEDS = (0, 1, 2)
LENGTHS = (  # tokens per word and less: about 32, 50, 100, 144 tokens per answer; limits of about four times that
    {},
    {"vocab_size": 400, "max_completion_length": 192},
    {"vocab_size": 275, "max_prompt_length": 80, "max_completion_length": 360},
    {"vocab_size": 261, "max_prompt_length": 96, "max_completion_length": 520},
)
FEW = {  # Monte Carlo values of a longer answer cost with the square of its length, and more; a proxy another scorer
    "credit_responses": 12,
    "heldout_proxy": False,
}
SPANS = (  # about 32, 56, 84, 195 tokens; the last also cuts words into pieces. Two kinds are never asked for at once
    {},
    {"world": {"kinds": 4, "parts": 2}, "max_completion_length": 240, **FEW},
    {"world": {"kinds": 5, "parts": 3}, "max_completion_length": 360, **FEW},
    {
        "world": {"kinds": 6, "parts": 4},
        "vocab_size": 315,
        "max_prompt_length": 80,
        "max_completion_length": 640,
        **FEW,
    },
)
OF_LENGTH = {"length": LENGTHS, "spans": SPANS}  # sweeps that stand over the tokens of the SFT model's answers
PAIRS = (4_000, 12_000, 28_000)
ERRORS = {"tlcr-error-0": 0.0, "tlcr": 0.1, "tlcr-error-0.3": 0.3, "tlcr-error-0.5": 0.5}
LEARNED = ("bandit", "segment", "token")
COLUMNS = {
    RETURN: "true return (credit)",
    "final.kl": "KL (nats per response)",
    "final.length": "length (tokens)",
    "credit.segment_length": "tokens per segment",
    "reward_model.accuracy_test": "label accuracy",
}
GAINS = (("segment", "bandit"), ("token", "bandit"), ("oracle-dense", "bandit"), ("oracle-dense", "oracle-sequence"))


@dataclass(frozen=True)
class Cell:
    """Runs that share their settings: `at` is where they stand on the sweep's axis, `changes` what the study is given
    beside the profile."""

    sweep: str
    at: float
    methods: tuple[str, ...]
    changes: dict = field(default_factory=dict)


def cells(profile: str) -> list[Cell]:
    """Every cell of the four sweeps at a profile. A length stands by its number, as its tokens are measured."""
    full = profile_row(profile).pairs
    of_length = ("sft", *LEARNED, "oracle-sequence", "oracle-dense", "oracle-dense-even")
    lengths = [Cell(sweep, i, of_length, x) for sweep, found in OF_LENGTH.items() for i, x in enumerate(found)]
    pairs = [Cell("pairs", n, LEARNED, {"pairs": n} if n != full else {}) for n in sorted({*PAIRS, full})]
    return lengths + pairs + [Cell("error", error, (name,)) for name, error in ERRORS.items()]


def found(records: list[dict], cell: Cell, profile: str) -> list[dict]:
    """The records of a cell, the newest of each method and seed."""
    p, kept = profile_row(profile, **cell.changes), []
    wanted = {name: parameters(Run(p), METHODS[name]) for name in cell.methods}
    before = {name: then(params) for name, params in wanted.items()}
    for r in (r for r in records if r["kind"] == "run" and r["method"] in wanted):
        if same(r["params"], (before if of_0_1(r["params"]) else wanted)[r["method"]]):
            kept.append(r)
    return latest(kept, ("method", "seed"))


def missing(records: list[dict], cell: Cell, profile: str) -> tuple[str, ...]:
    """Methods of a cell that lack a seed of SEEDS."""
    there = {(r["method"], r["seed"]) for r in found(records, cell, profile)}
    return tuple(m for m in cell.methods if any((m, seed) not in there for seed in SEEDS))


def command(cell: Cell, methods: tuple[str, ...], profile: str) -> str:
    """The line that makes the runs of these methods of a cell."""
    seeds = ",".join(map(str, SEEDS))
    if not cell.changes:
        return f"make study PROFILE={profile} METHODS={','.join(methods)} SEEDS={seeds}"
    line = f".venv/bin/python -m densereward.study --profile {profile} --methods {','.join(methods)} --seeds {seeds}"
    return f"{line} --jobs 2 --change '{json.dumps(cell.changes)}'"


def commands(records: list[dict], sweep: str, profile: str) -> list[str]:
    """The lines that make what a sweep lacks, in its order; each run in one of them only."""
    lines: dict[str, tuple[dict, tuple[str, ...]]] = {}
    for cell in cells(profile):
        if cell.sweep == sweep and (lacks := missing(records, cell, profile)):
            key = json.dumps(cell.changes)
            before = lines[key][1] if key in lines else ()
            lines[key] = cell, tuple(dict.fromkeys((*before, *lacks)))
    return [command(cell, methods, profile) for cell, methods in lines.values()]


def to_do(records: list[dict], sweep: str, profile: str) -> str:
    """Markdown: the lines that make what a sweep lacks; empty where it lacks nothing. Version 0.1 gets no more."""
    lines = "\n".join(commands(records, sweep, profile))
    if lines and any(of_0_1(r["params"]) for r in records if r["kind"] == "run"):
        return "*Not all of this was measured with version 0.1.*"
    return f"Not all of this is measured. What is missing is made by:\n\n```bash\n{lines}\n```" if lines else ""


def values(records: list[dict], sweep: str, profile: str, name: str = RETURN) -> pd.DataFrame:
    """Columns at, method, seed, value, parts (kinds that a prompt asks for at once) of the dotted `name` of every
    record of a sweep; `at` of OF_LENGTH is the mean length of the SFT model's answers (tokens), and lengths without an
    SFT record are left out."""
    frames = [pd.DataFrame(columns=["at", "method", "seed", "value", "parts"])]
    for cell in cells(profile):
        if cell.sweep == sweep:
            runs, at = found(records, cell, profile), cell.at
            if sweep in OF_LENGTH:
                tokens = [r["final"]["length"] for r in runs if r["method"] == "sft"]
                at = round(float(np.mean(tokens)), 1) if tokens else np.nan
            parts = profile_row(profile, **cell.changes).world.parts
            frames.append(summary.values(runs, name).assign(at=at, parts=parts))
    return pd.concat([f for f in frames if len(f)] or frames).dropna(subset="at").reset_index(drop=True)


def table(records: list[dict], sweep: str, profile: str) -> pd.DataFrame:
    """`summary.table` of COLUMNS for every cell of a sweep that has records, with the cell's changes in words."""
    frames = []
    for cell in cells(profile):
        if cell.sweep == sweep and (runs := found(records, cell, profile)):
            changes = {**cell.changes.get("world", {}), **{k: v for k, v in cell.changes.items() if k != "world"}}
            setting = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in changes.items()) or "as the comparison"
            part = summary.table(runs, COLUMNS)
            frames.append(part if sweep == "error" else part.assign(setting=setting))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def token_lengths(run: Run, n: int = 1_000, sweep: str = "length") -> pd.DataFrame:
    """How long n of the SFT model's training answers are in tokens at each setting of a sweep of OF_LENGTH, and how
    many the limit cuts; what is asked for and spans of them. Random: none (the SFT data are those of seed 0)."""
    found = []
    for changes in OF_LENGTH[sweep]:
        p = profile_row(run.profile.name, **changes)
        rows = replace(run, profile=p, seed=0).splits(sft=n)["sft"]
        texts = [[m["content"] for m in row["prompt"] + row["completion"]] for row in rows]
        tokenizer = models.build_tokenizer([text for row in texts for text in row], p.vocab_size)
        lengths = [len(tokens.tokenize_response(tokenizer, row[-1])) for row in texts]
        asked = {"items asked for": float(np.mean([sum(oracle.ask(row[0]).values()) for row in texts]))}
        asked |= {"spans per answer": float(np.mean([len(oracle.parse(row[0], row[-1])) for row in texts]))}
        counts = {**asked, "tokens per answer": float(np.mean(lengths)), "longest": max(lengths)}
        limits = {
            "limit": p.max_completion_length,
            "cut (share)": float(np.mean(np.array(lengths) > p.max_completion_length)),
        }
        found.append({"vocabulary": p.vocab_size, **counts, **limits})
    return pd.DataFrame(found)


def gains(frame: pd.DataFrame, pairs=GAINS) -> pd.DataFrame:
    """Columns at, method, against, seed, value: one method's value less the other's at the same setting and seed."""
    rows = []
    for method, against in pairs:
        both = [frame[frame.method == m].set_index(["at", "seed"])["value"].astype(float) for m in (method, against)]
        gap = (both[0] - both[1]).dropna()
        rows += [(at, method, against, seed, value) for (at, seed), value in gap.items()]
    return pd.DataFrame(rows, columns=["at", "method", "against", "seed", "value"])


def slopes(gaps: pd.DataFrame, per: float = 2.0) -> pd.DataFrame:
    """Of each gain: by how much it changes when `at` grows `per`-fold, mean, low, high, seeds: a least-squares line
    over log(at) for each seed, and the t interval over seeds. Seeds with fewer than two settings are left out."""
    rows = []
    for (method, against), part in gaps.groupby(["method", "against"], sort=False):
        lines = [
            np.polyfit(np.log(seed["at"].astype(float)), seed["value"].astype(float), 1)[0] * np.log(per)
            for _, seed in part.groupby("seed")
            if seed["at"].nunique() > 1
        ]
        if lines:
            rows.append((method, against, *mean_interval(lines), len(lines)))
    return pd.DataFrame(rows, columns=["method", "against", "mean", "low", "high", "seeds"])


def sentence(found: pd.DataFrame, what: str, of: str = "the true return's gain") -> str:
    """What `slopes` say of gains, in words: grows, shrinks, or cannot be told apart from no change."""
    if found.empty:
        return f"Whether gains change with {what} cannot be said yet: no seed has two settings."
    parts = []
    for row in found.itertuples():
        verdict = "grows" if row.low > 0 else "shrinks" if row.high < 0 else "does not clearly change"
        verdict = "has one seed and no interval" if np.isnan(row.low) else verdict
        gap = f"{summary.label(row.method)} over {summary.label(row.against)}"
        parts.append(f"{gap} {verdict} ({summary.interval_text(row.mean, row.low, row.high)})")
    return f"Change of {of} per doubling of {what}, t intervals over seeds: {'; '.join(parts)}."
