"""Every method as data: a row names the parts that the one pipeline plugs together, and what it is called in its paper.

    tokens [B, T] -> boundaries -> segment ids [B, T] -> scores [B, S] -> normalise -> interpolate -> rewards [B, T] ->
PPO

A row holds no code. `segmentation` is a row of `segments.BOUNDARIES` with its parameters; `trained_on` is the
segmentation that the scorer was trained with (segment-ppo trains and uses the same one). To try your own:
`replace(METHODS["segment"], name=..., ...)`.
"""

from dataclasses import dataclass, field, replace


def entropy(cutoff: float) -> dict:
    return {"kind": "entropy", "cutoff": cutoff}


@dataclass(frozen=True)
class Method:
    """One row. `scorer`: "none" (no training), "bradley-terry" (a reward model trained on preference pairs), or
    "oracle" (a control that reads the testbed's truth; `noise` is the standard deviation, in units of credit, added to
    each span's credit)."""

    name: str
    label: str  # as figures and tables print it
    source: str  # paper and place
    scorer: str = "bradley-terry"
    segmentation: dict = field(default_factory=lambda: {"kind": "bandit"})
    aggregate: str = "mean"  # of segment scores into the score of a response (segment-ppo Eq. 4), or "sum"
    normaliser: dict = field(
        default_factory=lambda: {"kind": "regression", "estimator": "huber"}
    )  # segment-ppo Eq. 6, Appendix F
    interpolation: str = "even"  # segment-ppo Section 2.3
    value_clip: float = 0.25  # segment-ppo Appendix D: .25 for segments and tokens, .2 for bandit
    noise: float = 0.0

    @property
    def trained_on(self) -> dict:
        return self.segmentation


_ORACLE = {"scorer": "oracle", "normaliser": {"kind": "none"}, "source": "a control of this study, in no paper"}

METHODS = {
    row.name: row
    for row in (
        Method("sft", "SFT (no RL)", "segment-ppo Table 1", scorer="none"),
        Method("bandit", "Bandit (sequence)", "segment-ppo Table 1", interpolation="none", value_clip=0.2),
        Method("token", "Token", "segment-ppo Table 1", segmentation={"kind": "token"}),
        Method("segment", "Segment (entropy)", "segment-ppo Table 1", segmentation=entropy(1.75)),
        Method(
            "random",
            "Random segments",
            "a control of this study: as many segments as `segment`, cut anywhere",
            segmentation={"kind": "random", "rate": "matched"},
        ),
        Method(
            "oracle-sequence",
            "Oracle, sequence",
            segmentation={"kind": "bandit"},
            interpolation="none",
            value_clip=0.2,
            **_ORACLE,
        ),
        Method("oracle-dense", "Oracle, per span", segmentation={"kind": "spans"}, **_ORACLE),
        Method(
            "oracle-sequence-noisy",
            "Noisy oracle, sequence",
            segmentation={"kind": "bandit"},
            interpolation="none",
            value_clip=0.2,
            noise=1.0,
            **_ORACLE,
        ),
        Method("oracle-dense-noisy", "Noisy oracle, per span", segmentation={"kind": "spans"}, noise=1.0, **_ORACLE),
    )
}


def method(name: str, **changes) -> Method:
    """The row called `name`, with fields replaced: `entropy_cutoff` sets the cut-off of an entropy segmentation, any
    other name is a field of `Method`. Raises ValueError for an unknown method, a cut-off where there is none, or a
    negative one."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    row, cutoff = METHODS[name], changes.pop("entropy_cutoff", None)
    if cutoff is not None and row.segmentation["kind"] == "entropy":
        if not cutoff >= 0:
            raise ValueError(f"entropy_cutoff is {cutoff!r}; give nats, 0 or more")
        changes["segmentation"] = {**row.segmentation, "cutoff": float(cutoff)}
    return replace(row, **changes)
