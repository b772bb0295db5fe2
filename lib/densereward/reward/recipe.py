"""What a dense reward is made of, as data: the parts that `dense.py` plugs together, by name. No code.

Book: library.md
"""

from dataclasses import field
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from densereward.checked import Words, checked


def one_of(*names: str) -> Any:
    """The annotation of a field that holds one of these words."""
    return Annotated[Literal[names], Field(description=f"one of {', '.join(names)}")]


Part = Annotated[dict[str, Any], Field(description="a dict of the part's arguments")]
Maybe = Annotated[Part | None, Field(description="a dict of the part's arguments, or None")]


@partial(checked, kw_only=True)
class Recipe:
    """One dense reward. Any dict is keyword arguments of the function that does the part.

    `segmentation`: of `segments.segment`; `scores`: what a segment's score is, of `dense.SCORES`; `normaliser` and
    `correction`: of `rewards.fit_normaliser` and `rewards.correct`; `interpolation`: of `rewards.interpolate`. `name`
    is for error messages, and seeds a random segmentation. ValueError for a value of another type, or another word."""

    name: Words
    segmentation: Part = field(default_factory=lambda: {"kind": "bandit"})
    trained_with: Maybe = None  # the segmentation that the scorer was trained with, where it is another one
    aggregate: one_of("mean", "sum") = "mean"  # of segment scores into a response's score (segment-ppo Eq. 4)
    scores: one_of("head", "evaluator") = "head"  # the head at a segment's last token (segment-ppo Section 2.2)
    normaliser: Part = field(
        default_factory=lambda: {"kind": "regression", "estimator": "huber"}
    )  # segment-ppo Eq. 6, Appendix F
    correction: Part = field(default_factory=lambda: {"kind": "none"})  # of the constant per segment; ours
    interpolation: one_of("none", "repeat", "even", "next", "decided") = "even"  # segment-ppo Section 2.3
    # of the rewards: "totals" divides them by the deviation of calibration answers' totals; ours
    scale: one_of("none", "totals") = "none"

    @property
    def trained_on(self) -> dict:
        """The segmentation that the scorer is trained with."""
        return self.trained_with or self.segmentation
