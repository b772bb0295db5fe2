"""What a row of `methods.py` is: the parts that the one pipeline plugs together, by name. No code of a method."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

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

CONTROL = "a control of this study, in no paper"


def entropy(cutoff: float, **options) -> dict:
    return {"kind": "entropy", "cutoff": cutoff, **options}


TRAINERS = (
    *("ppo", "dpo", "kto", "rloo", "grpo", "dense-grpo", "dense-rloo", "remax", "figa", "online-dpo", "rs"),
    "none",
)
RANGES = {  # of numbers in a row's parts, by their names there
    "cutoff": type_of("entropy_cutoff", Asked),
    "n": Count,
    "length": Positive,
    "error": Share,
    "delta": NotNegative,
    "generations": Several,
}


def _one_of(*names: str) -> Any:
    return Annotated[Literal[names], Field(description=f"one of {', '.join(names)}")]


Part = Annotated[dict[str, Any], Field(description="a dict of the part's arguments")]
Maybe = Annotated[Part | None, Field(description="a dict of the part's arguments, or None")]


@checked
class Method:
    """One row. Any dict is keyword arguments of the function that does the part.

    `segmentation`: of `segments.segment`; "matched" in place of a random one's rate, and a mean `length` in place of an
    entropy cut-off, are resolved on the preference data. `scores`: what a segment's is, of `dense.segment_scores`.
    `scorer`: "none" (nothing to train a policy with), "bradley-terry" (a reward model trained on preference pairs),
    "discriminator" (trained on the tokens that a reviser changed), or "oracle" (a control that reads the testbed's
    truth; `noise` is the standard deviation, in units of credit, added to each span's credit). `revisions`: who revises
    the rejected answers, of `revised.reviser`, and for a discriminator whether `eos` is labelled (yes, unless False);
    with a Bradley-Terry scorer the revised answer is the chosen one. `shaping`: "rto", "attention" or "pool", of
    `shaping.py`, made of what the other parts pay. `trainer`: "ppo", "dpo", "kto", "rloo", "grpo", "dense-grpo",
    "dense-rloo", "remax", "figa" (`baselines.py`), "online-dpo", "rs" (`adaptive.py`), or "none" (the SFT model as it
    is); `options` are the trainer's. `mask`: which tokens it learns from, of `masking.Decider`; None is all of
    them. ValueError for a value of another type or out of range."""

    name: Words
    label: Words  # as figures and tables print it
    source: Words  # paper and place
    scorer: _one_of("none", "bradley-terry", "discriminator", "oracle") = "bradley-terry"
    segmentation: Part = field(default_factory=lambda: {"kind": "bandit"})
    revisions: Maybe = None
    trained_with: Maybe = None  # the segmentation that the scorer was trained with, where it is another one
    aggregate: _one_of("mean", "sum") = "mean"  # of segment scores into a response's score (segment-ppo Eq. 4)
    scores: _one_of("head", "evaluator") = "head"  # the head at a segment's last token (segment-ppo Section 2.2)
    normaliser: Part = field(
        default_factory=lambda: {"kind": "regression", "estimator": "huber"}
    )  # segment-ppo Eq. 6, Appendix F
    correction: Part = field(default_factory=lambda: {"kind": "none"})  # of the constant per segment; ours
    interpolation: _one_of("none", "repeat", "even", "next", "decided") = "even"  # segment-ppo Section 2.3
    # of the rewards: "totals" divides them by the deviation of calibration answers' totals; ours
    scale: _one_of("none", "totals") = "none"
    shaping: Part = field(default_factory=lambda: {"kind": "none"})  # RTO, ABC
    trainer: _one_of(*TRAINERS) = "ppo"
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
    def trained_on(self) -> dict:
        """The segmentation that the scorer is trained with."""
        return self.trained_with or self.segmentation
