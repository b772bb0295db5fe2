"""Beyond the papers: does the gain of dense rewards grow with the length of a response, shrink with a weak reward
model, and survive a poor reviser, or a return that no span has a share of? Which runs answer that, and the lines that
make them.

Length, in two ways, the limit on length growing with it. Tokens: the same world, answers and returns in more and more
tokens, as a smaller vocabulary cuts the same words into more pieces, down to a token per letter (`LENGTHS`): over how
many actions a reward is spread, nothing else. Spans: prompts that ask for more kinds at once (`SPANS`), so that there
is more to get right, and returns are on a larger scale. Reward-model data: fewer preference pairs (`PAIRS`). Reviser:
TLCR's rows by error rate (`ERRORS`). Return: only the complete, clean answer counts (`WHOLE`).

A run belongs to a cell if its parameters are those that the cell's command would give it (`identity.same`), so a
missing one is named by a line that makes it. Left out: settings tuned for each cell; a label noise that grows with the
returns of longer answers.
"""

import json
from dataclasses import dataclass, field

from study.identity import of_testbed, same
from study.methods import METHODS
from study.profiles import profile as profile_row
from study.records import latest

SEEDS = (0, 1, 2, 3, 4)
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
PAIRS = (1_000, 4_000)
WHOLE = {"world": {"returns": "whole"}}  # nothing but the complete, clean answer counts
ROOM = {"kl_coef": 0.02, "actor_learning_rate": 5e-4, "lam": 0.8}  # the truth in time ends four fifths of the way
UNWHITENED = {"trl": {"policy": {"whiten_advantages": False}}}
ERRORS = {"tlcr-error-0": 0.0, "tlcr": 0.1, "tlcr-error-0.3": 0.3, "tlcr-error-0.5": 0.5}
LEARNED = ("bandit", "segment", "token")
EDITED = ("bandit-synthetic", "tlcr-clauses")  # TLCR's edits in one number an answer; edits that know no truth
ORACLE = ("oracle-sequence", "oracle-dense", "oracle-dense-even")


@dataclass(frozen=True)
class Cell:
    """Runs that share their settings: `at` is where they stand on the sweep's axis, `changes` what the study is given
    beside the profile."""

    sweep: str
    at: float
    methods: tuple[str, ...]
    changes: dict = field(default_factory=dict)


def cells(profile: str) -> list[Cell]:
    """Every cell of the five sweeps at a profile. A length stands by its number, as its tokens are measured."""
    full = profile_row(profile).pairs
    of_length = ("sft", *LEARNED, "tlcr", *ORACLE)
    rows = {"length": of_length, "spans": (*of_length, *EDITED)}
    lengths = [Cell(sweep, i, rows[sweep], x) for sweep, found in OF_LENGTH.items() for i, x in enumerate(found)]
    pairs = [Cell("pairs", n, LEARNED, {"pairs": n} if n != full else {}) for n in sorted({*PAIRS, full})]
    whole = Cell("whole", 1, ("sft", "bandit", "segment", "oracle-sequence", "oracle-dense"), WHOLE)
    return [*lengths, *pairs, *(Cell("error", error, (name,)) for name, error in ERRORS.items()), whole]


def found(records: list[dict], cell: Cell, profile: str) -> list[dict]:
    """The records of a cell, the newest of each method and seed."""
    p = profile_row(profile, **cell.changes)
    wanted = {name: of_testbed(p, METHODS[name]) for name in cell.methods}
    runs = [r for r in records if r["kind"] == "run" and r["method"] in wanted]
    return latest([r for r in runs if same(r["params"], wanted[r["method"]])], ("method", "seed"))


def missing(records: list[dict], cell: Cell, profile: str) -> tuple[str, ...]:
    """Methods of a cell that lack a seed of SEEDS."""
    there = {(r["method"], r["seed"]) for r in found(records, cell, profile)}
    return tuple(m for m in cell.methods if any((m, seed) not in there for seed in SEEDS))


def command(cell: Cell, methods: tuple[str, ...], profile: str) -> str:
    """The line that makes the runs of these methods of a cell."""
    seeds = ",".join(map(str, SEEDS))
    if not cell.changes:
        return f"make study PROFILE={profile} METHODS={','.join(methods)} SEEDS={seeds}"
    line = f".venv/bin/python -m study.runner --profile {profile} --methods {','.join(methods)} --seeds {seeds}"
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
