"""A real pretrained model's records (`study/measures/smollm2.py`): what they must show, written before they were made,
and figures and tables of what they show."""

import numpy as np
import pandas as pd

from report import lines
from report.look import canvas, style
from report.strips import card, segments, values
from study.summary import interval_text, label

ROWS = ("bandit", "segment", "token")
PAIRS = (("segment", "bandit"), ("token", "bandit"), ("segment", "token"))
KEYS = tuple(
    f"smollm2_{name}" for name in "checks lengths cuts labels scorers gaps agreement ppo seconds".split()
)  # in the notebook
OF_THOUSAND = tuple(f"smollm2_thousand_{name}" for name in "checks scorers gaps".split())
INSTRUMENT, EXPECTED = "the instrument is right", "expected"


def one(records: list[dict], kind: str, **fields) -> dict:
    """The record of a kind, with these fields. ValueError where there is none."""
    for record in records:
        if record["kind"] == kind and all(record.get(name) == x for name, x in fields.items()):
            return record
    raise ValueError(f"no record of kind {kind!r} with {fields}: run study.measures.smollm2")


def _cuts(records: list[dict], of: str = "HH-RLHF answers") -> dict:
    return one(records, "cuts", of=of)["cuts"]


def _levels(records: list[dict]) -> dict[str, dict]:
    return {r["row"]: r for r in records if r["kind"] == "reward model"}


def _rises(records):
    lengths = [of["length"][0] for cutoff, of in _cuts(records).items() if cutoff != "random"]
    return ", ".join(f"{x:.2f}" for x in lengths), lengths == sorted(lengths)


def _random_cuts(records):
    of = _cuts(records)["random"]
    texts = [f"{what} {interval_text(*of[f'{what}_gain'], 3)}" for what in ("word", "sentence")]
    return "; ".join(texts), all(of[f"{what}_gain"][1] <= 0 <= of[f"{what}_gain"][2] for what in ("word", "sentence"))


def _whole(records):
    gap = max(one(records, "whole model")["gap"].values())
    return f"{gap:.1e}", gap < 1e-3


def _shuffled(records):
    found = _levels(records)["shuffled"]["accuracy"]
    return interval_text(*found, 3), found[1] <= 0.5 <= found[2]


def _first_round(records):
    kl = one(records, "ppo")["curves"][0]["kl"]
    return f"{kl:.1e} nats", abs(kl) < 1e-2


def _short(records):
    found = _cuts(records)["1.75"]["length"]
    return interval_text(*found, 2), found[2] < 10


def _words(records):
    found = {c: of["word_gain"] for c, of in _cuts(records).items() if c != "random"}
    return interval_text(*found["1.75"], 3) + " at 1.75", all(low > 0 for _, low, _ in found.values())


def _sentences(records):
    found = {c: of["sentence_gain"] for c, of in _cuts(records).items() if c != "random"}
    return interval_text(*found["1.75"], 3) + " at 1.75", all(low > 0 for _, low, _ in found.values())


def _own(records):
    ours, theirs = (_cuts(records, of)["1.75"]["length"] for of in ("its own answers", "HH-RLHF answers"))
    return f"{interval_text(*ours, 2)} against {interval_text(*theirs, 2)}", ours[1] > theirs[2]


def _edits(records):
    of = one(records, "edit labels")["labels"]["clauses"]
    share = of["rejected_negative"] / of["rejected_tokens"]
    return f"{share:.3f}", share > 0.5


def _learnt(records):
    found = {row: _levels(records)[row]["accuracy"] for row in ROWS}
    return "; ".join(f"{row} {interval_text(*x, 3)}" for row, x in found.items()), any(
        x[1] > 0.5 for x in found.values()
    )


def _all_learnt(records):
    found = {row: _levels(records)[row]["accuracy"] for row in ROWS}
    return "; ".join(f"{row} {interval_text(*x, 3)}" for row, x in found.items()), all(
        x[1] > 0.5 for x in found.values()
    )


def _enough(records):
    found = one(records, "read")["pairs"]
    return f"{found['train']:,} and {found['heldout']}", found == {"train": 1000, "heldout": 240}


def _tokens_first(records):
    found = {row: _levels(records)[row]["accuracy"][0] for row in ROWS}
    return ", ".join(f"{row} {x:.3f}" for row, x in found.items()), found["token"] == max(found.values())


def _tokens_above(other: str, said: bool = True):
    """Whether tokens are right more often than `other` on the same pairs, beyond 95%, is as `said`."""

    def check(records):
        (r,) = gaps(records, (("token", other),)).itertuples()
        return interval_text(r.gap, r.low, r.high, 3), bool(r.low > 0) == said

    return check


def _apart(records):
    found = gaps(records)
    return "; ".join(f"{r.pair} {interval_text(r.gap, r.low, r.high, 3)}" for r in found.itertuples()), bool(
        ((found.low <= 0) & (found.high >= 0)).all()
    )


def _agree(records):
    found = agreement(records)
    return "; ".join(f"{r.pair} {r.share:.2f}" for r in found.itertuples()), bool((found.share > found.chance).all())


def _moved(records):
    kl = [row["kl"] for row in one(records, "ppo")["curves"]]
    return f"{np.mean(kl[-3:]):.3f} nats in the last three", len(kl) == 10 and 0 < np.mean(kl[-3:]) < 1


CHECKS = (  # (of what kind, prediction, records -> (what was measured, whether it holds)); committed before any record
    (INSTRUMENT, "mean segment length rises with the cut-off", _rises),
    (
        INSTRUMENT,
        "random cuts, as many as 1.75 nats make, begin words and sentences as often as any token",
        _random_cuts,
    ),
    (INSTRUMENT, "a scorer over cached states gives the margins of the whole model, to a thousandth", _whole),
    (INSTRUMENT, "trained on labels by a coin, a reward model is at one half on held-out pairs", _shuffled),
    (
        INSTRUMENT,
        "in the first round of PPO the policy is the reference: no KL beyond a hundredth of a nat",
        _first_round,
    ),
    (EXPECTED, "at 1.75 nats, segments of HH-RLHF's answers are shorter than Figure 3's 10 to 22 tokens", _short),
    (EXPECTED, "cuts lie at starts of words more often than tokens do, at every cut-off", _words),
    (EXPECTED, "cuts lie at starts of sentences more often than tokens do, at every cut-off", _sentences),
    (EXPECTED, "the model's own answers have longer segments than people's pairs, at 1.75 nats", _own),
    (EXPECTED, "edits by the chosen answer's clauses take out more than half of the rejected tokens", _edits),
    (EXPECTED, "at least one granularity predicts held-out labels better than a coin", _learnt),
    (EXPECTED, "so few pairs tell no two granularities apart", _apart),
    (EXPECTED, "any two granularities pick the same answer of a prompt more often than by chance", _agree),
    (EXPECTED, "ten rounds of PPO at this learning rate move the policy, by less than a nat", _moved),
)

THOUSAND = (  # as CHECKS, of the reward models on a thousand pairs; committed before these records
    (INSTRUMENT, "a thousand pairs are learnt from, 240 held out", _enough),
    (INSTRUMENT, "trained on labels by a coin, a reward model is at one half on held-out pairs", _shuffled),
    (EXPECTED, "every granularity predicts held-out labels better than a coin", _all_learnt),
    (EXPECTED, "of the three, tokens are right most often, as on 559 pairs", _tokens_first),
    (EXPECTED, "on the same pairs tokens are right more often than one of labels by a coin", _tokens_above("shuffled")),
    (EXPECTED, "on the same pairs tokens are not above the longer answer", _tokens_above("longer", False)),
    (EXPECTED, "no two granularities are told apart", _apart),
)


def checks(records: list[dict], told=CHECKS) -> pd.DataFrame:
    """CHECKS, or others `told` like them, against records: what must hold, what was measured, and whether it does."""
    rows = []
    for kind, text, check in told:
        measured, holds = check(records)
        rows.append({"kind": kind, "prediction": text, "measured": measured, "holds": "yes" if holds else "no"})
    return pd.DataFrame(rows)


def gaps(records: list[dict], of=PAIRS) -> pd.DataFrame:
    """Held-out accuracy of two scorers, one less the other on the same pairs: gap, low, high (95%, normal)."""
    right = {row: np.array(x["right"]) for row, x in _levels(records).items()}
    rows = []
    for a, b in of:
        each = right[a] - right[b]
        half = 1.96 * each.std(ddof=1) / len(each) ** 0.5
        gap = each.mean()
        rows.append({"pair": f"{a} less {b}", "gap": gap, "low": gap - half, "high": gap + half})
    return pd.DataFrame(rows)


def agreement(records: list[dict]) -> pd.DataFrame:
    """How often two granularities pick the same answer, beside chance, over prompts; and how much longer the picks are
    than all answers, in tokens."""
    found = one(records, "best of n")
    picked = {row: np.array(found["picked"][row]) for row in ROWS}
    rows = []
    for a, b in PAIRS:
        share = float((picked[a] == picked[b]).mean())
        rows.append({"pair": f"{a}, {b}", "share": share, "chance": 1 / found["answers"], "prompts": len(picked[a])})
    return pd.DataFrame(rows)


def cut_table(records: list[dict]) -> pd.DataFrame:
    """Segment lengths and where cuts lie, at each cut-off, of both kinds of answers."""
    rows = []
    for record in (r for r in records if r["kind"] == "cuts"):
        for name, of in record["cuts"].items():
            texts = {"tokens per segment": interval_text(*of["length"], 2)}
            for what in ("word", "sentence"):
                texts[f"cuts at {what} starts"] = interval_text(*of[what], 3)
                texts[f"tokens at {what} starts"] = f"{of[f'{what}_base'][0]:.3f}"
            rows.append({"answers": record["of"], "cut-off (nats)": name, "cuts": of["cuts"], **texts})
    return pd.DataFrame(rows)


def lengths(records: list[dict]):
    """(figure, frame): tokens per segment over cut-offs, with segment-ppo Figure 3's range."""
    rows = [
        {"answers": r["of"], "cutoff": float(name), **dict(zip(("length", "low", "high"), of["length"]))}
        for r in records
        if r["kind"] == "cuts"
        for name, of in r["cuts"].items()
        if name != "random"
    ]
    frame = pd.DataFrame(rows)
    figure, axes = canvas(1, 1, 2.8)
    ax = axes[0, 0]
    ax.fill_between([1.75, 2.25], 10, 22, color="#e4e4e4", linewidth=0)
    ax.text(1.77, 20, "segment-ppo Figure 3, at 1.75 to 2.25 nats", va="center", fontsize=9)
    for (name, of), row in zip(frame.groupby("answers", sort=False), ("segment", "bandit")):
        look = style(row) | {"label": name}
        ax.plot(of.cutoff, of.length, **look)
        ax.vlines(of.cutoff, of.low, of.high, color=look["color"], linewidth=2, alpha=0.6)
    ax.set_ylim(0)
    ax.set_xlabel("entropy cut-off (nats)")
    ax.set_ylabel("tokens per segment")
    lines.ends(ax)
    return figure, frame


def scorer_table(records: list[dict]) -> pd.DataFrame:
    """Accuracy of every scorer on held-out pairs, and on those it was trained on."""
    names = {"shuffled": "bandit, labels by a coin", "longer": "the longer answer"}
    rows = []
    for name, of in _levels(records).items():
        own = interval_text(*of["train"], 3) if "train" in of else None
        held = {"held-out pairs": len(of["right"]), "held-out accuracy": interval_text(*of["accuracy"], 3)}
        rows.append({"scorer": names.get(name) or label(name), **held, "on its own pairs": own})
        rows[-1]["seconds"] = round(of["provenance"]["seconds"])
    return pd.DataFrame(rows)


def label_table(records: list[dict]) -> pd.DataFrame:
    """Counts of TLCR's edit labels under each reviser."""
    names = {"clauses": "the chosen answer's clauses", "chosen": "the chosen answer"}
    rows = []
    for reviser, of in one(records, "edit labels")["labels"].items():
        row = {"revision": names[reviser]} | {name: of[name] for name in ("read", "kept", "identical", "too_long")}
        row |= {f"{name} tokens": of[name] for name in ("negative", "neutral", "positive")}
        rows.append(row | {"of rejected tokens, negative": of["rejected_negative"] / of["rejected_tokens"]})
    return pd.DataFrame(rows)


def ppo_table(records: list[dict]) -> pd.DataFrame:
    """Rounds of segment PPO: what they cost and did."""
    names = ("rollout", "seconds_generate", "seconds_score", "seconds_update", "proxy_reward", "kl", "length", "warm")
    return pd.DataFrame([{name: row[name] for name in names} for row in one(records, "ppo")["curves"]])


STAGES = {
    "read": "the lower layers' states of all pairs",
    "cuts": "where entropy cuts, both kinds of answers",
    "edit labels": "edit labels",
    "reward model": "four scorers, one on labels by a coin",
    "whole model": "scorers against the whole model",
    "best of n": "best of eight",
    "ppo": "rounds of segment PPO",
}


def seconds(records: list[dict]) -> pd.DataFrame:
    """What each stage took: the seconds of its records, each from the record before it on."""
    rows = [
        {"stage": name, "seconds": sum(r["provenance"]["seconds"] for r in records if r["kind"] == kind)}
        for kind, name in STAGES.items()
    ]
    return pd.DataFrame([*rows, {"stage": "all", "seconds": sum(row["seconds"] for row in rows)}])


def strip(record: dict):
    """A few tokens' rewards under each granularity, above them the entropies that decide the segments."""
    rows = [values("Entropy before each token (nats)", record["pieces"], record["entropies"])]
    rows.append(segments("Segments at 1.75 nats", record["pieces"], record["paid"]["segment"]["segments"]))
    for row, paid in record["paid"].items():
        rows.append(values(f"Paid by {label(row)}", record["pieces"], paid["rewards"], paid["segments"]))
    return card(*rows)
