"""What a method's policy cost in labels and samples, beside seconds: the budget that comparisons are made at.

Left out: the SFT data, which all methods share, what evaluation samples, the oracle controls' reading of the truth, and
a teacher's training.
"""

from study.cache import load_json
from study.methods import METHODS


def used(run, curves: list[dict]) -> dict[str, int]:
    """Counts of one run: `preference_labels` (pairs whose label was read; where answers were revised, it says which),
    `revisions` asked for, `responses` and `tokens` sampled in training, whatever for.

    A row of `curves` that does not count (PPO's) stands for the profile's rollouts, of its mean length."""
    rollouts, labels, revised = run.profile.rollouts, run.metrics.get("pairs", 0), 0
    if run.row.trainer in ("dpo", "kto") or run.row.advised_by == "dpo":
        report = load_json(run.preferences.path / "report.json")
        labels = max(labels, report["preference"]["kept"])  # the same pairs
    for part in (run, run.mask):
        if part and part.row.revisions:
            revised = load_json(part.revisions.path / "report.json")["preference"]["labels"]["read"]
            labels = max(labels, revised)
    return {
        "preference_labels": labels,
        "revisions": revised,
        "responses": sum(row.get("responses", rollouts) for row in curves),
        "tokens": round(sum(row.get("tokens", row["length"] * rollouts) for row in curves)),
    }


def recorded(record: dict) -> dict[str, int]:
    """`used` of a record. One that is older than this count says it by other names: the pairs of its reward model (or
    DPO's), the tokens that its provenance counts; nothing was revised then, and responses are left out."""
    if "used" in record:
        return record["used"]
    pairs = record["params"]["profile"]["pairs"] if record["method"] == "dpo" else 0
    labels = record.get("reward_model", {}).get("pairs", pairs)
    return {"preference_labels": labels, "revisions": 0, "tokens": record["provenance"].get("tokens") or 0}


def warming(record: dict) -> int:
    """Rounds of a record in which only the critic learnt. An older record, whose curves do not say, has all of its
    profile's."""
    p, curves = record["params"]["profile"], record.get("curves", [])
    if METHODS[record["method"]].trainer != "ppo":
        return 0
    return sum(not row["warm"] for row in curves) if curves and "warm" in curves[0] else p["critic_warmup"]


def updates(record: dict) -> int:
    """Optimiser steps that changed a record's policy: PPO's but those of the critic's warm-up, each round's of another
    trainer in rounds, or an epoch's over pairs (FIGA's: over all revisions that were asked for, failed ones too)."""
    p, trainer = record["params"]["profile"], METHODS[record["method"]].trainer
    if trainer == "none":
        return 0
    if trainer in ("dpo", "kto", "figa"):
        return (recorded(record)["revisions"] if trainer == "figa" else p["pairs"]) // p["rm_batch"]
    return (p["rounds"] - warming(record)) * p["minibatches"] * p["ppo_epochs"]
