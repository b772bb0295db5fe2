"""Every method as data: a row names the parts that the one pipeline plugs together, and what it is called in its paper.

    tokens [B, T] -> boundaries -> segment ids [B, T] -> scores [B, S] -> normalise -> correct -> interpolate
    -> shaping -> rewards [B, T] -> trainer

A row (`row.py`) holds no code. To try your own: `replace(METHODS["segment"], name=..., ...)`. Which row of which
published table a method reproduces is the key of its `source`; the book's page of methods is made from here.
adaptive-mask's rows are in `mask_rows.py`, those from beyond the three papers in `credit_rows.py`.
"""

from dataclasses import replace

from study import credit_rows, mask_rows
from study.row import CONTROL, Method, entropy

# Rewards of all rows are on one scale; rows of `_LITERAL` are paid sums of z-scores, as in the papers.
_TOTALS = {"scale": "totals"}
_AT_ENDS = "this study: where an even split harms"
_SEGMENT = Method("segment", "Segment (entropy)", "segment-ppo Table 1", segmentation=entropy(1.75), **_TOTALS)
_TOKEN = Method("token", "Token", "segment-ppo Table 1", segmentation={"kind": "token"}, **_TOTALS)
_BANDIT = Method("bandit", "Bandit (sequence)", "segment-ppo Table 1", interpolation="none", value_clip=0.2, **_TOTALS)
_ORACLE = {"scorer": "oracle", "normaliser": {"kind": "none"}, "source": CONTROL}
# A span begins with its joint: split evenly, part of its credit would be paid before the token that decides it.
_CAUSAL = Method("oracle-dense", "", segmentation={"kind": "spans"}, interpolation="decided", **_ORACLE)
_SEQUENCE = {"segmentation": {"kind": "bandit"}, "interpolation": "none", "value_clip": 0.2}


def _variant(name: str, label: str, source: str, **changes) -> Method:
    """The segment method with something changed."""
    return replace(_SEGMENT, name=name, label=label, source=source, **changes)


_LOG_RATIO = "Implicit process rewards (arXiv 2412.01981), of DPO's policy"
_IMPLICIT = Method(
    "implicit",
    "Implicit reward",
    _LOG_RATIO,
    scorer="dpo",
    segmentation={"kind": "token"},
    normaliser={"kind": "none"},
    **_TOTALS,
)
_PURE, _MIN_FORM = "PURE (arXiv 2504.15275), on segment-ppo's scorers", {"kind": "min", "temperature": 0.1}

_CORE = (
    Method("sft", "SFT (no RL)", "segment-ppo Table 1", scorer="none", trainer="none"),
    _BANDIT,
    Method("sentence", "Sentence", "segment-ppo Table 1", segmentation={"kind": "sentence"}, **_TOTALS),
    _TOKEN,
    replace(
        _SEGMENT, name="bandit-as-segment", label="Bandit as segment", trained_with={"kind": "bandit"}
    ),  # the bandit's scorer, read at the ends of segments
    replace(
        _BANDIT,
        name="segment-as-bandit",
        label="Segment as bandit",
        trained_with=entropy(1.75),
        scores="evaluator",
    ),  # the mean of the segment scorer's segments (Eq. 4), paid at the end of the response
    _SEGMENT,
    Method("dpo", "DPO", "segment-ppo Table 3", scorer="none", trainer="dpo"),
)
_CONTROLS = (
    Method(
        "random",
        "Random segments",
        "a control of this study: as many segments as `segment`, cut anywhere",
        segmentation={"kind": "random", "rate": "matched"},
        **_TOTALS,
    ),
    Method("oracle-sequence", "Oracle, sequence", **_SEQUENCE, **_ORACLE),
    replace(_CAUSAL, name="oracle-dense", label="Oracle, per span"),
    replace(_CAUSAL, name="oracle-dense-even", label="Oracle, span's even split", interpolation="even"),
    Method("oracle-sequence-noisy", "Noisy oracle, sequence", noise=1.0, **_SEQUENCE, **_ORACLE),
    replace(_CAUSAL, name="oracle-dense-noisy", label="Noisy oracle, per span", noise=1.0),
)
_ABLATIONS = (
    *(
        _variant(f"ngram-{n}", f"n-gram, n = {n}", "segment-ppo Table 4", segmentation={"kind": "ngram", "n": n})
        for n in (2, 5, 10, 20)
    ),
    *(
        _variant(f"normaliser-{kind}", f"Normaliser: {kind}", "segment-ppo Table 5", normaliser={"kind": kind})
        for kind in ("global", "last")
    ),
    _variant(
        "normaliser-none", "Normaliser: none", "segment-ppo Table 5", normaliser={"kind": "none"}, scores="evaluator"
    ),  # the score that the Bradley-Terry loss saw, as in segment-ppo; at one scale our factor on it drops out
    _variant(
        "normaliser-none-literal",
        "Normaliser: none, unscaled",
        "this study: the score that the loss saw, on its own scale",
        normaliser={"kind": "none"},
        scores="evaluator",
        scale="none",
    ),
    _variant(
        "normaliser-none-head",
        "Normaliser: none, unscaled head",
        "this study: the same without our factor on it",
        normaliser={"kind": "none"},
        scale="none",
    ),
    *(
        _variant(f"interpolation-{how}", f"Interpolation: {how}", "segment-ppo Table 6", interpolation=how)
        for how in ("none", "repeat")
    ),
    *(
        _variant(f"cutoff-{c:g}", f"Cut-off {c:g} nats", "segment-ppo Figure 3", segmentation=entropy(c))
        for c in (1.5, 2.0, 2.25)
    ),
    *(
        _variant(
            f"length-{n}",
            f"Cut-off for {n} tokens",  # Figure 3's mean segment lengths run from 10 to 22 tokens
            "segment-ppo Figure 3, its segment lengths in place of its nats",
            segmentation={"kind": "entropy", "length": n},
        )
        for n in (10, 13, 17, 22)
    ),
    _variant(
        "ols",
        "Normaliser: OLS fit",
        "segment-ppo Section 2.3 (its Appendix F has Huber)",
        normaliser={"kind": "regression", "estimator": "ols"},
    ),
    _variant(
        "unfloored",
        "Normaliser: no floor",
        "segment-ppo Eq. 6, which has no floor",
        normaliser={"kind": "regression", "estimator": "huber", "floor": None},
    ),
    _variant(
        "fit-released",
        "Normaliser: fit as released",
        "segment-ppo's released code",
        normaliser={"kind": "released", "estimator": "huber", "floor": None},
    ),
    _variant(
        "loss-released", "Loss per response", "segment-ppo's released code", options={"loss_type": "grpo"}
    ),  # policy and value loss: means over responses of means over tokens
    _variant(
        "eos-released", "EOS in no segment", "segment-ppo's released code", segmentation=entropy(1.75, eos="released")
    ),
    _variant("sum", "Sum over segments", "this study: the constant per segment", aggregate="sum"),
    _variant("centred", "Total = mean score", "this study: the constant per segment", correction={"kind": "centre"}),
    _variant(
        "cost", "Cost per segment", "this study: the constant per segment", correction={"kind": "cost", "cost": 0.5}
    ),
    _variant("segment-min", "Segment, min form", _PURE, correction=_MIN_FORM),
    replace(_TOKEN, name="token-min", label="Token, min form", source=_PURE, correction=_MIN_FORM),
    _IMPLICIT,
    replace(
        _IMPLICIT,
        name="implicit-pooled",
        label="Implicit reward, pooled",
        shaping={"kind": "pool", "segmentation": entropy(1.75)},
    ),
)

_SUMS = "this study: sums of z-scores, as the papers pay them"
_ENDS = tuple(  # whether an even split harms where segments do not begin at decisions; segment's: `interpolation-none`
    replace(row, name=f"{row.name}-end", label=f"{row.label}, paid at its end", interpolation="none", source=_AT_ENDS)
    for row in (*_CORE, *_CONTROLS, *_ABLATIONS)
    if row.name in ("sentence", "random", "ngram-5", "ngram-20")
)
_CHANCE = Method(  # the zero of fidelity and of what PPO does by itself
    "random-rewards",
    "Random rewards",
    CONTROL,
    scorer="random",
    segmentation={"kind": "token"},
    normaliser={"kind": "none"},
)
_LITERAL = tuple(
    replace(row, name=f"{row.name}-literal", label=f"{row.label}, unscaled", source=_SUMS, scale="none")
    for row in (_CORE[2], _TOKEN, _SEGMENT, _CORE[4])  # sentence, bandit-as-segment
)

_REVISED = {"kind": "oracle", "error": 0.1}
_TLCR = Method(
    "tlcr",
    "TLCR",
    "tlcr Table 1",
    scorer="discriminator",
    revisions=_REVISED,
    segmentation={"kind": "token"},
    normaliser={"kind": "continuous"},
    **_TOTALS,
)
_TLCR_ROWS = (
    replace(
        _BANDIT, name="bandit-synthetic", label="Bandit, synthetic pairs", source="tlcr Table 1", revisions=_REVISED
    ),
    replace(_TLCR, name="tlcr-fixed", label="TLCR, fixed rewards", normaliser={"kind": "fixed"}),
    _TLCR,
)


def _tlcr(name: str, label: str, source: str, **changes) -> Method:
    """TLCR with something changed."""
    return replace(_TLCR, name=f"tlcr-{name}", label=f"TLCR, {label}", source=source, **changes)


_INFORMATION = "this study: what the reviser knows"
_RELEASED = "tlcr's released code"


def _synthetic(row: Method, name: str, label: str, revisions: dict) -> Method:
    """A row whose reward model learns from (revised, rejected) pairs."""
    name, label = f"{row.name}-{name}", f"{row.label}, {label}"
    return replace(row, name=name, label=label, source=_INFORMATION, revisions=revisions)


_TLCR_ABLATIONS = (
    _tlcr("without-negative", "no negative rewards", "tlcr Figure 7", normaliser={"kind": "without-negative"}),
    _tlcr("without-positive", "no positive rewards", "tlcr Figure 7", normaliser={"kind": "without-positive"}),
    _tlcr("double-softmax", "second softmax", _RELEASED, normaliser={"kind": "double-softmax"}),
    _tlcr("fixed-double-softmax", "fixed, second softmax", _RELEASED, normaliser={"kind": "fixed-double-softmax"}),
    _tlcr("shifted", "paid a token late", _RELEASED, interpolation="next"),
    _tlcr(
        "released",
        "as released",
        _RELEASED,
        normaliser={"kind": "double-softmax"},
        interpolation="next",  # so that EOS, or the last token of an answer cut off, is paid nothing for itself
        revisions=_REVISED | {"eos": False},
    ),
    *(
        _tlcr(f"error-{e:g}", f"reviser's error {e:g}", _INFORMATION, revisions={"kind": "oracle", "error": e})
        for e in (0.0, 0.3, 0.5)
    ),
    _tlcr("clauses", "reviser without truth", _INFORMATION, revisions={"kind": "clauses"}),
    *(_synthetic(row, "synthetic", "synthetic pairs", _REVISED) for row in (_TOKEN, _SEGMENT)),
    *(
        _synthetic(row, "clauses", "pairs of a reviser without truth", {"kind": "clauses"})
        for row in (_BANDIT, _TOKEN, _SEGMENT)
    ),
)


def _baseline(name: str, label: str, source: str, **changes) -> Method:
    """The bandit's reward model and normaliser with another trainer or shaping."""
    return replace(_BANDIT, name=name, label=label, source=source, **changes)


_FIGA = Method(
    "figa",
    "FIGA",
    "tlcr Table 1",
    scorer="none",
    revisions=_REVISED,
    trainer="figa",
    options={"alpha": 1.0, "beta": 0.5, "gamma": 0.0},  # its released code's defaults
)
_GROUP = {"options": {"generations": 4}}
_BASELINES = (
    _baseline("rloo", "RLOO", "a baseline of this study, in no paper", trainer="rloo", **_GROUP),
    _baseline("grpo", "GRPO", "a baseline of this study, named in adaptive-mask", trainer="grpo", **_GROUP),
    _baseline("remax", "ReMax", "tlcr Table 1", trainer="remax"),
    _baseline(
        "gtpo",
        "GTPO",
        "GTPO (arXiv 2508.04349), on a learned score; sides normalised together",
        trainer="gtpo",
        **_GROUP,
    ),
    _FIGA,
    replace(
        _FIGA,
        name="figa-window",
        label="FIGA, loss window",
        source="FIGA's released code",
        options=_FIGA.options | {"window": [0.6, 1.0]},
    ),
    _baseline("rto", "RTO", "a baseline of this study, named in segment-ppo", shaping={"kind": "rto", "beta": 0.05}),
    _baseline("abc", "ABC", "a baseline of this study, named in tlcr", shaping={"kind": "attention", "beta": 0.8}),
)

_CROSSED = "this study: parts of different papers"
_STEPS = {"source": _CROSSED, "interpolation": "none", "trainer": "dense-grpo", **_GROUP}
_LEFT_OUT = _STEPS | {"trainer": "dense-rloo"}
_CROSS = (
    _tlcr("pooled", "pooled over entropy segments", _CROSSED, shaping={"kind": "pool", "segmentation": entropy(1.75)}),
    replace(_SEGMENT, name="segment-grpo", label="Segment, GRPO", **_STEPS),
    replace(_TOKEN, name="token-grpo", label="Token, GRPO", **_STEPS),
    replace(_TLCR, name="tlcr-grpo", label="TLCR, GRPO", **_STEPS),
    replace(_SEGMENT, name="segment-rloo", label="Segment, RLOO", **_LEFT_OUT),
    replace(_TOKEN, name="token-rloo", label="Token, RLOO", **_LEFT_OUT),
    replace(_TLCR, name="tlcr-rloo", label="TLCR, RLOO", **_LEFT_OUT),
)

LEARNED = ("bradley-terry", "discriminator")  # scorers that are trained
_CREDIT = credit_rows.rows(_BANDIT, _TOKEN)
_ADAPTIVE, _ADAPTIVE_ABLATIONS = mask_rows.rows(_BANDIT, _TOKEN, _BASELINES[1])
_EVERY = (
    *_CORE,
    *_TLCR_ROWS,
    *_ADAPTIVE,
    *_BASELINES,
    *_CONTROLS,
    *_ENDS,
    _CHANCE,
    *_LITERAL,
    *_ABLATIONS,
    *_TLCR_ABLATIONS,
    *_CROSS,
    *_CREDIT,
    *_ADAPTIVE_ABLATIONS,
)
METHODS = {row.name: row for row in _EVERY}
_BESIDE = {"tlcr", "appo", "normaliser-none"}
CORE = tuple(row.name for row in _EVERY if row in (*_CORE, *_CONTROLS) or row.name in _BESIDE)  # the comparison
TLCR = tuple(row.name for row in _TLCR_ROWS)
BASELINES = tuple(row.name for row in _BASELINES)
ADAPTIVE = tuple(row.name for row in _ADAPTIVE)
CROSS = tuple(row.name for row in _CROSS)
CREDIT = tuple(row.name for row in _CREDIT)


def method(name: str, **changes) -> Method:
    """The row called `name`, with fields replaced: `entropy_cutoff` sets the cut-off of an entropy segmentation, any
    other name is a field of `Method`. Raises ValueError for an unknown method, a cut-off where there is none, or a
    negative one."""
    if name not in METHODS:
        first, more = ", ".join(list(METHODS)[:9]), len(METHODS) - 9
        raise ValueError(f"unknown method {name!r:.80}; choose one of {first}, or of {more} more in study/methods.py")
    row, cutoff = METHODS[name], changes.pop("entropy_cutoff", None)
    if cutoff is not None and "cutoff" in row.segmentation:
        if not cutoff >= 0:
            raise ValueError(f"entropy_cutoff is {cutoff!r}; give nats, 0 or more")
        changes["segmentation"] = {**row.segmentation, "cutoff": float(cutoff)}
    return replace(row, **changes)
