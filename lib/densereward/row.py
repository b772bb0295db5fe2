"""What a row of `methods.py` is: the parts that the one pipeline plugs together, by name. No code of a method."""

from dataclasses import dataclass, field

CONTROL = "a control of this study, in no paper"


def entropy(cutoff: float, **options) -> dict:
    return {"kind": "entropy", "cutoff": cutoff, **options}


@dataclass(frozen=True)
class Method:
    """One row. Any dict is keyword arguments of the function that does the part.

    `segmentation`: of `segments.segment`; "matched" in place of a random one's rate, and a mean `length` in place of an
    entropy cut-off, are resolved on the preference data. `scores`: what a segment's score is, of `dense.SCORES`.
    `scorer`: "none" (nothing to train a policy with), "bradley-terry" (a reward model trained on preference pairs),
    "discriminator" (trained on the tokens that a reviser changed), or "oracle" (a control that reads the testbed's
    truth; `noise` is the standard deviation, in units of credit, added to each span's credit). `revisions`: who revises
    the rejected answers, of `revised.reviser`, and for a discriminator whether `eos` is labelled (yes, unless False);
    with a Bradley-Terry scorer the revised answer is the chosen one. `shaping`: "rto", "attention" or "pool", of
    `shaping.py`, made of what the other parts pay. `trainer`: "ppo", "dpo", "kto", "rloo", "grpo", "dense-grpo",
    "dense-rloo", "remax", "figa" (`baselines.py`), "online-dpo", "rs" (`adaptive.py`), or "none" (the SFT model as it
    is); `options` are the trainer's. `mask`: which tokens it learns from, of `masking.Decider`; None is all of
    them."""

    name: str
    label: str  # as figures and tables print it
    source: str  # paper and place
    scorer: str = "bradley-terry"
    segmentation: dict = field(default_factory=lambda: {"kind": "bandit"})
    revisions: dict | None = None
    trained_with: dict | None = None  # the segmentation that the scorer was trained with, where it is another one
    aggregate: str = "mean"  # of segment scores into the score of a response (segment-ppo Eq. 4), or "sum"
    scores: str = "head"  # the scorer's head at a segment's last token (segment-ppo Section 2.2), or "evaluator"
    normaliser: dict = field(
        default_factory=lambda: {"kind": "regression", "estimator": "huber"}
    )  # segment-ppo Eq. 6, Appendix F
    correction: dict = field(default_factory=lambda: {"kind": "none"})  # of the constant per segment; ours
    interpolation: str = "even"  # segment-ppo Section 2.3
    scale: str = "none"  # of the rewards: "totals" divides them by the deviation of calibration answers' totals; ours
    shaping: dict = field(default_factory=lambda: {"kind": "none"})  # RTO, ABC
    trainer: str = "ppo"
    options: dict = field(default_factory=dict)
    value_clip: float = 0.25  # segment-ppo Appendix D: .25 for segments and tokens, .2 for bandit
    noise: float = 0.0
    mask: dict | None = None  # adaptive-mask Eq. 13

    @property
    def trained_on(self) -> dict:
        """The segmentation that the scorer is trained with."""
        return self.trained_with or self.segmentation
