"""The ledger of what the papers claim: `data/claims.yml`, read and checked.

A claim is a difference between two rows of `methods.py`, or between a row and a number, in one metric. Left out: claims
about benchmarks, judges, models and sizes that are not here, and a correction for making three comparisons.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, Field, StringConstraints

from densereward.checked import Number, Positive, Text, checked
from report.outcomes import outcomes
from report.published import PAPERS
from study.methods import METHODS
from study.records import ROOT

FILE = ROOT / "data" / "claims.yml"
OUTCOMES = (*outcomes({"final": {}}), "at_length", "win_rate", "win_rate_over_sft")


def _known(name: str, among) -> str:
    if name not in among:
        raise ValueError("unknown")
    return name


def _measured(name: str) -> str:
    return name if name.startswith(("final.", "credit.", "reward_model.", "measured.")) else _known(name, OUTCOMES)


_METRIC = f"a dotted name in final, credit, reward_model or measured, or one of {', '.join(OUTCOMES)}"
Row = Annotated[str, AfterValidator(partial(_known, among=METHODS)), Field(description="a row of study/methods.py")]
Place = Annotated[
    str,
    StringConstraints(pattern=r"^(Abstract|Section \d|Table \d|Figure \d|Eq\. \d|Appendix [A-Z])"),
    Field(description="where the paper says it, such as 'Table 1', 'Section 4.2', 'Appendix H'"),
]
Paper = Annotated[str, AfterValidator(partial(_known, among=PAPERS)), Field(description=f"one of {', '.join(PAPERS)}")]


@checked
class Metric:
    """What a claim is about: words and unit for tables, and the least difference that `matters`, in that unit."""

    name: Annotated[str, AfterValidator(_measured), Field(description=_METRIC)]
    words: Text
    unit: Text
    matters: Positive


@checked
class Claim:
    """The metric of row `better`, less that of `worse` or less `level`, is what the paper `predicts`."""

    paper: Paper
    place: Place
    says: Text
    better: Row | None = Field(None, description="a row of study/methods.py")
    worse: Row | None = Field(None, description="a row of study/methods.py")
    level: Number | None = Field(None, description="a number")
    metric: Text = "at_end"
    predicts: Literal["above", "below", "alike", "not above"] = Field(
        "above", description="above, below, alike or not above"
    )
    threshold: Positive | None = Field(None, description="a number above 0")
    lacks: Literal["row", "measure"] | None = Field(None, description="row or measure")
    why: Text | None = Field(None, description="text")

    def __post_init__(self):
        if self.lacks and (self.better or not self.why):
            raise ValueError("it lacks what would test it; say why, and name no row")
        if not self.lacks and (self.better is None or (self.worse is None and self.level is None)):
            raise ValueError("it compares nothing; give better, and worse or level, or say what it lacks")


def load(path: Path | str = FILE) -> tuple[dict[str, Metric], tuple[Claim, ...]]:
    """(metrics by name, claims in their order). Raises ValueError, one line that names file, entry, field and mend, for
    an entry that is none, a row that `methods.py` has not, or a metric that the file does not describe."""
    try:
        told = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        metrics, papers = told["metrics"], told["claims"]
        entries = [(paper, i, entry) for paper in papers for i, entry in enumerate(papers[paper], 1)]
    except (OSError, ValueError, yaml.YAMLError, RecursionError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read ({reason}); it holds metrics, and claims by paper") from None
    metrics = {name: _entry(Metric, path, f"metric {name}", told, name=name) for name, told in metrics.items()}
    found = []
    for paper, i, told in entries:
        claim = _entry(Claim, path, f"{paper}, claim {i}", told, paper=paper)
        if claim.metric not in metrics:
            raise ValueError(
                f"{path}: {paper}, claim {i}: metric is {claim.metric!r}; give one of {', '.join(metrics)}"
            )
        found.append(claim if claim.threshold else replace(claim, threshold=metrics[claim.metric].matters))
    return metrics, tuple(found)


def _entry(kind: type, path, place: str, told: object, **given):
    if not isinstance(told, dict):
        raise ValueError(f"{path}: {place}: {told!r:.60} is no entry; give fields in braces")
    try:
        return kind(**told, **given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {place}: {error}") from None


METRICS, CLAIMS = load()
