"""What a row of `methods.py` is: the parts that the one pipeline plugs together, by name. No code of a method."""

from dataclasses import field

from densereward.checked import (
    Asked,
    Count,
    NotNegative,
    Number,
    Positive,
    Several,
    Share,
    Words,
    check,
    checked,
    type_of,
)
from densereward.reward.recipe import Maybe, Part, Recipe, one_of

CONTROL = "a control of this study, in no paper"


def entropy(cutoff: float, **options) -> dict:
    return {"kind": "entropy", "cutoff": cutoff, **options}


TRAINERS = (
    *("ppo", "dpo", "kto", "rloo", "grpo", "gtpo", "dense-grpo", "dense-rloo", "remax", "vine", "figa"),
    *("online-dpo", "rs"),
    "none",
)
RANGES = {  # of numbers in a row's parts, by their names there
    "cutoff": type_of("entropy_cutoff", Asked),
    "n": Count,
    "length": Positive,
    "error": Share,
    "delta": NotNegative,
    "generations": Several,
    "continuations": Count,
    "own": Count,
    "answers": Share,  # of the profile's answers per round
    "lam": Share,
    "gamma": Share,
    "top_entropy_quantile": Share,
}


@checked
class Method(Recipe):
    """One row: the recipe of its reward, who scores, and who trains. Any dict is keyword arguments of the function that
    does the part.

    In `segmentation`, "matched" in place of a random one's rate, and a mean `length` in place of an entropy cut-off,
    are resolved on the preference data. `scorer`: "none" (nothing is paid but what `shaping` adds), "random" (a draw
    per token, whatever it is), "bradley-terry" (a reward model trained on preference pairs), "discriminator" (trained
    on the tokens that a reviser changed), "dpo" (the log-ratios of row `dpo`'s policy, of `implicit.py`), or "oracle"
    (a control that reads the testbed's truth; `noise` is the standard deviation, in units of credit, added to each
    span's credit). `revisions`: who revises the rejected answers, of `revisions.reviser`, and for a discriminator
    whether `eos` is labelled (yes, unless False); with a Bradley-Terry scorer the revised answer is the chosen one.
    `shaping`, made of what the other parts pay: "rto", "attention" or "pool", of `shaping.py`, or "teacher", the
    log-ratios of the policy of the row `by`. `trainer`: "ppo", "dpo", "kto", "rloo", "grpo", "gtpo", "dense-grpo",
    "dense-rloo", "remax", "vine", "figa", "online-dpo", "rs", or "none" (the SFT model as it is); `options` are the
    trainer's. `mask`: which tokens it learns from, of `mask.Decider`; None is all of them. ValueError for a value of
    another type or out of range."""

    name: Words
    label: Words  # as figures and tables print it
    source: Words  # paper and place
    scorer: one_of("none", "random", "bradley-terry", "discriminator", "dpo", "oracle") = "bradley-terry"
    revisions: Maybe = None
    shaping: Part = field(default_factory=lambda: {"kind": "none"})  # RTO, ABC
    trainer: one_of(*TRAINERS) = "ppo"
    options: Part = field(default_factory=dict)
    value_clip: Positive = 0.25  # segment-ppo Appendix D: .25 for segments and tokens, .2 for bandit
    noise: NotNegative = 0.0
    mask: Maybe = None  # adaptive-mask Eq. 13

    def __post_init__(self):
        parts = {name: part for name, part in vars(self).items() if isinstance(part, dict)}
        for part, numbers in parts.items():
            for name, value in numbers.items():
                if name in RANGES or isinstance(value, float):
                    check(f"{part} {name}", value, RANGES.get(name, Number))

    @property
    def advised_by(self) -> str | None:
        """The row whose policy's log-ratios to the SFT model its rewards hold, or None."""
        if self.shaping["kind"] == "teacher":
            return self.shaping["by"]
        return "dpo" if self.scorer == "dpo" or self.shaping["kind"] == "rto" else None
