"""What the papers' backbones need: memory, weights and data; and a dry run of them, narrow, on a CPU.

    python -m study.runner --profile llama3-8b --methods segment --dry-run

A dry run has the architecture (its config class) 16 numbers a head wide and two layers deep, with a tokenizer made of
the data, and the profile's schedule, checkpointing and optimiser; it makes one update of every stage. Left out: what
activations, caches and longer answers take, which no formula here knows; the models' own tokenizers.
"""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from densereward.seeding import seed_everything
from densereward.text import models, tokens
from study.backbones import BACKBONES, FROZEN, TRAINED, Backbone
from study.run import Run

GPUS = (1, 2, 4, 8, 64)  # more than 8: machines of 8
ONE_UPDATE = {
    "sft_rows": 8,
    "sft_epochs": 1.0,
    "sft_batch": 8,
    "pairs": 8,
    "heldout_pairs": 8,
    "rm_batch": 4,
    "rounds": 1,
    "rollouts": 8,
    "minibatches": 1,
    "micro_batch": 4,
    "ppo_epochs": 1,
    "critic_warmup": 0,
    "max_prompt_length": 128,
    "max_completion_length": 48,
    "eval_prompts": 8,
    "credit_responses": 4,
    "credit_samples": 2,
    "heldout_proxy": False,
    "dtype": "float32",
    "committed_models": None,
}


def size(backbone: Backbone) -> tuple[int, int]:
    """(parameters, parameters of the largest layer) of the full-size causal LM, without its weights."""
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(AutoConfig.for_model(**backbone.config))
    layers = (sum(p.numel() for p in part.parameters(recurse=False)) for part in net.modules())
    return sum(p.numel() for p in net.parameters()), max(layers)


def memory(name: str) -> list[str]:
    """What each stage of a backbone holds per GPU, by DeepSpeed's estimators of weights, gradients and Adam's states, a
    line each; or one line where DeepSpeed is not installed."""
    try:
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2
    except ImportError:
        return ["memory: no estimate, DeepSpeed is not installed (pip install '.[train]')"]
    backbone, gib = BACKBONES[name], 2**30
    total, largest = size(backbone)
    lines = [f"{name}: {total / 1e9:.2f} billion parameters; GiB by number of GPUs, activations and caches not counted"]
    for stage, engine in backbone.engines.items():
        trained, offload = TRAINED[stage] * total, engine.endswith("-offload")
        found = []
        for gpus in GPUS:
            machines = max(1, gpus // 8), offload
            if engine.startswith("zero2"):
                cpu, gpu = zero2(trained, min(gpus, 8), *machines)
            else:
                cpu, gpu = zero3(trained, largest, min(gpus, 8), *machines, cpu_offload_params=offload)[:2]
            frozen = FROZEN.get(stage, 0) * 2 * total  # bfloat16
            found.append(f"{gpus}: {(gpu + frozen) / gib:.0f} (CPU {cpu / gib:.0f})")
        lines.append(f"  {stage}, {engine}: {', '.join(found)}")
    return lines


def provided(run: Run) -> Run:
    """The run of a backbone with its model, where none was given. ValueError that says what to provide, where weights
    or data are missing; other profiles pass."""
    name = run.profile.name
    if name not in BACKBONES:
        return run
    backbone = BACKBONES[name]
    if run.testbed:
        told = "; ".join(f"{what}: {data}" for what, data in backbone.data.items())
        raise ValueError(f"profile {name!r} learns from text: give dataset, a path to preference pairs ({told})")
    model = run.model or backbone.model
    try:
        AutoConfig.from_pretrained(model, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError):
        raise ValueError(
            f"profile {name!r} starts from {model}, which is neither here nor to be had from the hub: give model, the "
            "folder of its weights and tokenizer (hf download fetches it where there is network)"
        ) from None
    if tokenizer.chat_template and (how := written_otherwise(tokenizer, backbone.chat_template)):
        print(f"the chat template of {model} is not the one that {backbone.paper} prints: {how}", flush=True)
    return replace(run, model=model)


def written_otherwise(tokenizer, template: str) -> str | None:
    """How a tokenizer's chat template writes a dialogue up to the next reply, where a paper's `template` writes it
    otherwise; None where not, or where the paper prints none."""
    dialogue = [*tokens.PROBE, tokens.PROBE[0]]
    own = tokens.rendered(tokenizer, dialogue, True)
    theirs = tokens.rendered(tokenizer, dialogue, True, chat_template=template) if template else own
    return None if own == theirs else f"{own!r}, where the paper has {theirs!r}"


def toy(run: Run) -> Run:
    """The dry run of a run: one update of every stage, on the backbone's architecture at toy width, in a folder `dry`
    of its own. Random: the weights, by the run's seed."""
    p = run.profile
    stages = {name: {k: x for k, x in of.items() if k != "per_device_train_batch_size"} for name, of in p.trl.items()}
    if p.name in BACKBONES:
        stages = {"sft": stages["policy"]} | stages
    small = replace(run, profile=replace(p, **ONE_UPDATE, trl=stages), root=run.root / "dry", model=None)
    if p.name not in BACKBONES:
        return replace(small, model=run.model)
    backbone, folder = BACKBONES[p.name], small.root / "models" / p.name
    rows = small.splits(seed=0, sft=64)["sft"]
    tokenizer = models.build_tokenizer([m["content"] for row in rows for m in row["prompt"] + row["completion"]], 512)
    if "sft" in p.trl:
        tokenizer.chat_template = None  # a base model has none
    seed_everything(run.seed)
    AutoModelForCausalLM.from_config(narrow(backbone, tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return replace(small, model=str(folder))


def narrow(backbone: Backbone, tokenizer):
    """The architecture's config with two layers, heads 16 wide, as many of them per key and value as at full size, and
    room for tokens that its tokenizer class adds."""
    shared = backbone.config["num_attention_heads"] // backbone.config["num_key_value_heads"]
    heads = {"num_key_value_heads": 1 if shared > 1 else 4, "num_attention_heads": shared if shared > 1 else 4}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    sizes = {"hidden_size": 16 * heads["num_attention_heads"], "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"vocab_size": len(tokenizer) + 8, "max_position_embeddings": 256}
    return AutoConfig.for_model(**backbone.config | heads | sizes | ids)


def dry_run(run: Run) -> Path:
    """One update of every stage of a run's row; says each, and returns the root where they lie."""
    small = toy(run)
    for stage in ("sft", "preferences", "scorer", "policy"):
        getattr(small, stage)
        print(f"dry run of {run.profile.name}, {run.row.name}: {stage} ran", flush=True)
    return small.root
