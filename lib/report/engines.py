"""What `make engines` compared: each trainer on two processes under an engine, with itself on one process."""

import pandas as pd

from study.records import latest

ENGINES = {"ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}  # files of `configs/`, and how they are called
MOST = 1e-4  # what a loss may differ by
NAMES = {
    "sft": "SFT",
    "reward_model": "reward model",
    "discriminator": "discriminator",
    "process": "process model",
    "figa": "FIGA",
    "dpo": "DPO",
    "masked": "masked DPO",
    "kto": "KTO",
    "ppo": "PPO",
    "appo": "APPO",
    "macro": "PPO on macro actions",
    "implicit": "PPO paid by a DPO policy",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "gtpo": "GTPO",
    "masked-grpo": "masked GRPO",
    "remax": "ReMax",
    "vine": "VinePPO",
    "dense-grpo": "GRPO per segment",
    "dense-rloo": "RLOO per segment",
}


def newest(records: list[dict]) -> dict[tuple[str, str], dict]:
    """{(trainer, engine): record}, the newest of each."""
    return {(r["trainer"], r["engine"]): r for r in latest(records, ("trainer", "engine"))}


def table(records: list[dict]) -> pd.DataFrame:
    """A row for each trainer: the largest difference of a loss under each engine, and of a weight under any."""
    found, rows = newest(records), []
    for trainer, name in NAMES.items():
        of = [found[trainer, engine] for engine in ENGINES]
        row = {"trainer": name, "updates": of[0]["updates"]}
        row |= {label: f"{r['loss']:.1e}" for label, r in zip(ENGINES.values(), of)}
        rows.append(row | {"a weight, under any": f"{max(r['weight'] for r in of):.1e}"})
    return pd.DataFrame(rows)


def verdict(records: list[dict]) -> str:
    """How many trainers and engines were compared, and the largest difference of a loss among all."""
    found = newest(records)
    trainers, engines = ({key[i] for key in found} for i in (0, 1))
    (trainer, engine), worst = max(found.items(), key=lambda item: item[1]["loss"])
    where = f"{NAMES[trainer]} under {ENGINES[engine]}"
    return (
        f"{len(trainers)} trainers, {len(engines)} engines: no loss differs from that on one process by more than "
        f"{worst['loss']:.1e} ({where}), where {MOST:.0e} was allowed."
    )
