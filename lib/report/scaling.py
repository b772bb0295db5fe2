"""The papers' backbones as tables: settings, GPU-hours and memory by formula. No number here was measured on a GPU.

Operations: 2 N a token for a pass forward, 6 N for one forward and back, 8 N where checkpointing repeats the pass
forward (N parameters; attention over positions is not counted). What part of a GPU's peak comes of it is the reader's
to say. Bytes are those of DeepSpeed's estimators: weights, gradients and Adam's states in mixed precision.
"""

import pandas as pd

from study.backbones import BACKBONES, FROZEN, MAIN_TABLES, TRAINED
from study.profiles import PROFILES

FORWARD, LEARNT = 2, 8  # operations a parameter and token; every backbone checkpoints
GPUS = (8, 1, 64)  # eight, as the papers had, first
UNIT = "(GPU-hours)"


def parameters(config: dict) -> int:
    """Parameters of a causal LM of the families here, by its config: embeddings on both ends, attention with shared
    keys and values (Qwen2's with biases), a gated MLP, two norms a layer and one at the end."""
    width, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    keys = width * config["num_key_value_heads"] // config["num_attention_heads"]
    biases = width + 2 * keys if config["model_type"] == "qwen2" else 0
    layer = 2 * width * (width + keys) + 3 * width * inner + 2 * width + biases
    return 2 * config["vocab_size"] * width + layers * layer + width


def gpus(n: int) -> str:
    return f"{n} GPU{'s' * (n > 1)}"


def settings() -> pd.DataFrame:
    """A row for each backbone: what it starts from, and what a stage trains with."""
    rows = []
    for name, backbone in BACKBONES.items():
        p = PROFILES[name]
        rows.append(
            {
                "profile": name,
                "paper": backbone.paper,
                "model": backbone.model,
                "billions": parameters(backbone.config) / 1e9,
                "prompt + answer": f"{p.max_prompt_length} + {p.max_completion_length}",
                "scorer: batch, rate": f"{p.rm_batch} pairs, {p.rm_learning_rate:g}",
                "PPO: answers, updates": f"{p.rollouts} a batch, {p.minibatches * p.ppo_epochs} updates",
                "actor, critic": f"{p.actor_learning_rate:g}, {p.critic_learning_rate:g}",
                "KL": p.kl_coef,
                "schedule": p.trl["policy"]["lr_scheduler_type"],
                "engines": ", ".join(f"{stage} {engine}" for stage, engine in backbone.engines.items()),
                "paper ran on": backbone.ran_on,
            }
        )
    return pd.DataFrame(rows)


def hours(peak: float, training: float, sampling: float, filled: float) -> pd.DataFrame:
    """GPU-hours of each stage of each backbone, for one seed of one row with a scorer and PPO. `peak` is a GPU's
    operations a second, `training` and `sampling` the parts of it that come of training or scoring, and of sampling;
    `filled` is the part of the limits that prompts and answers take. ValueError for a share that is none."""
    from densereward.text.data import SHARES  # which needs datasets, as no other table here does

    for name, share in {"training": training, "sampling": sampling, "filled": filled}.items():
        if not 0 < share <= 1:
            raise ValueError(f"{name} is {share}; give a share, above 0 and at most 1")
    rows = []
    for name, backbone in BACKBONES.items():
        p, size = PROFILES[name], parameters(backbone.config)
        length = filled * (p.max_prompt_length + p.max_completion_length)
        pairs, answers = int(SHARES["preference"] * p.pairs), p.rounds * p.rollouts
        epochs = p.trl["scorer"].get("num_train_epochs", 1)
        fine_tuned = int(SHARES["sft"] * p.sft_rows) * p.sft_epochs if "sft" in p.trl else 0
        spent = {
            "SFT": fine_tuned * LEARNT / training,
            "scorer": 2 * pairs * epochs * LEARNT / training,
            "sampling": answers * FORWARD / sampling,
            "scoring": answers * 4 * FORWARD / training,  # by policy, critic, reference, scorer
            "PPO": answers * 2 * p.ppo_epochs * LEARNT / training,  # policy and critic
        }
        spent = {stage: size * length * x / peak / 3600 for stage, x in spent.items()}
        told = {"all": sum(spent.values()), **spent}
        told = {f"{stage} {UNIT}": x for stage, x in told.items()}
        rows.append({"profile": name, **told, "pairs": pairs, "answers": answers})
    return pd.DataFrame(rows)


def main_tables(cost: pd.DataFrame) -> pd.DataFrame:
    """GPU-hours of each paper's main table on each backbone, from those of `hours`, and days on several GPUs if nothing
    is lost between them. A policy that samples counts as PPO, with its critic; one on pairs as a scorer whose reference
    is read too; SFT once."""
    rows = []
    for one in cost.rename(columns=lambda name: name.removesuffix(f" {UNIT}")).set_index("profile").itertuples():
        of, told = MAIN_TABLES[one.Index], {"profile": one.Index}
        on_pairs = one.scorer * (LEARNT + FORWARD) / LEARNT
        seed = of.scorers * one.scorer + of.sampling * (one.sampling + one.scoring + one.PPO) + of.on_pairs * on_pairs
        hours = one.SFT + of.seeds * seed
        told |= {"table": of.name, "GPU-hours": hours} | {f"days on {gpus(n)}": hours / n / 24 for n in GPUS}
        rows.append(told | {"scorers": of.scorers, "policies": of.sampling + of.on_pairs, "seeds": of.seeds})
    return pd.DataFrame(rows)


def memory() -> pd.DataFrame:
    """GiB that each stage of each backbone holds on each of several GPUs: what is trained by its engine, and frozen
    models whole, in bfloat16. Left out: activations and caches, the CPU's memory of what is offloaded."""
    rows = []
    for name, backbone in BACKBONES.items():
        size = parameters(backbone.config)
        largest = backbone.config["vocab_size"] * backbone.config["hidden_size"]
        for stage, engine in backbone.engines.items():
            trained, frozen = TRAINED[stage] * size, 2 * FROZEN.get(stage, 0) * size
            whole = 4 * largest if engine.startswith("zero3") else 2 * trained
            shared = 0 if engine.endswith("-offload") else 18 * trained  # between all GPUs
            held = {f"on {gpus(n)} (GiB)": (whole + shared / n + frozen) / 2**30 for n in GPUS}
            rows.append({"profile": name, "stage": stage, "engine": engine, **held})
    return pd.DataFrame(rows)
