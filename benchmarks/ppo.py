"""Rounds of PPO: what segments cost, ours against the last PPO trainer that TRL had, and how time and memory grow.

A round samples a rollout batch, scores it, and makes two updates of it. Learning rates are 0, so that all sample from
one model for as long as they run; with equal seeds two of ours sample the same answers. Where answers are `full`, none
ends before the limit. TRL's PPOTrainer counts accumulated passes over minibatches, so that both have one minibatch.
Tokens are those of answers, up to their ends.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator

import torch
from datasets import Dataset
from turns import CUDA, DEVICE, Baton, Child, in_turns, of, ratios, row

EPOCHS = 2
TESTBED = {"model": "cpu", "batch": 64, "micro": 8, "length": 128}
LARGE = {"model": [32_000, 128, 2], "batch": 16, "micro": 8, "length": 64, "full": True}
SHORT = {"model": [768, 128, 2], "batch": 4, "micro": 4, "length": 128, "full": True}


def step(turns: int = 10, **sizes) -> list[dict]:
    """A step of segment PPO against one of bandit PPO, on the same answers; two processes of each, as equal ones differ
    by some percent."""
    spec = TESTBED | sizes
    order = ("segment", "bandit", "bandit", "segment")
    made = in_turns(turns, *(Child("ppo.py", trainer="ours", row=name, **spec) for name in order))
    assert len({tuple(of(rounds, "tokens")) for rounds in made}) == 1, "they did not sample the same answers"
    segment, *bandits, other = (of(rounds, "seconds") for rounds in made)
    both = [[a + b for a, b in zip(*pair)] for pair in ((segment, other), bandits)]
    return [row("segment PPO's step over bandit PPO's, seconds", ratios(*both), ("most", 1.05), sizes=spec)]


def against_trl(trl: str, turns: int = 6, testbed: dict | None = None, large: dict | None = None) -> Iterator[dict]:
    """Ours against TRL's `PPOTrainer`; `trl` is the folder that holds release 1.5.0."""
    cases = {
        "testbed, answers end": (TESTBED | (testbed or {}), 2.0, None),
        "testbed, full answers": (TESTBED | {"full": True} | (testbed or {}), 2.0, None),
        "32k words, full answers": (LARGE | (large or {}), 1.2, 0.7),
    }
    for name, (spec, speed, memory) in cases.items():
        children = (
            Child("ppo.py", trainer="ours", row="bandit", **spec),
            Child("ppo.py", trainer="trl", path=trl, **spec),
        )
        ours, theirs = in_turns(turns, *children)
        rates = [[r["tokens"] / r["seconds"] for r in rounds] for rounds in (ours, theirs)]
        found = {"sizes": spec, "tokens_per_second": [max(x) for x in rates]}
        yield row(f"PPO, tokens a second over TRL 1.5's: {name}", ratios(*rates), ("least", speed), **found)
        peaks = [max(of(rounds, "peak")) for rounds in (ours, theirs)]
        mark = memory and ("most", memory)
        yield row(f"PPO, peak memory over TRL 1.5's: {name}", ratios(*[[p] for p in peaks]), mark, peaks_mib=peaks)


def growth(turns: int = 2, lengths=(128, 512, 2048), batches=(4, 16, 64), **sizes) -> Iterator[dict]:
    """The exponents with which seconds and memory of a step grow with the answers' length, and with their number."""
    import numpy as np

    cases = {"length": [{"length": n} for n in lengths], "batch": [{"batch": n, "micro": n} for n in batches]}
    for name, changes in cases.items():
        specs = [SHORT | sizes | change for change in changes]
        rounds = in_turns(turns, *(Child("ppo.py", trainer="ours", row="segment", **spec) for spec in specs))
        at = np.log([spec[name] for spec in specs])
        seconds = np.array([of(r, "seconds") for r in rounds])  # [sizes, turns]
        peaks = [max(of(r, "peak")) for r in rounds]
        further = {
            "at": {str(s[name]): [float(np.median(t)), m] for s, t, m in zip(specs, seconds, peaks)},
            "sizes": specs[0],
        }
        fits = [float(np.polyfit(at, np.log(turn), 1)[0]) for turn in seconds.T]
        yield row(f"a step's seconds grow as {name} to the power", fits, **further)
        yield row(f"a step's memory grows as {name} to the power", [float(np.polyfit(at, np.log(peaks), 1)[0])])


# --- what the children do ------------------------------------------------------------------------------------------


def made(model):
    """(causal LM, tokenizer): the committed SFT model of a profile, or [words, width, layers] with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from densereward.text.models import load_causal_lm
    from study.profiles import models_folder

    committed, tokenizer = load_causal_lm(models_folder(model if isinstance(model, str) else "cpu") / "sft")
    if isinstance(model, str):
        return committed, tokenizer
    words, width, layers, *inner = model
    torch.manual_seed(0)
    heads = max(8, width // 64)
    config = {"num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 4096}
    config |= {"intermediate_size": (inner or [2 * width])[0], "num_hidden_layers": layers, "hidden_size": width}
    config |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    with torch.device(DEVICE):  # half a billion weights are drawn for half a minute on a CPU
        return LlamaForCausalLM(LlamaConfig(vocab_size=words, tie_word_embeddings=True, **config)), tokenizer


def prompts(count: int, longest: int | None = None) -> list[list[dict]]:
    """The testbed's, or as many of `longest` words, each of them a token."""
    from study.profiles import profile
    from testbed import build

    found = build.load(profile("cpu").world, 0, 0.0, ppo=count)[0]["ppo"]["prompt"]
    if longest is None:
        return found
    return [build.messages(" and" * (longest - i % 2)) for i in range(count)]


def turning(baton: Baton, facts, every: int):
    """A callback that lets a trainer make one round, of `every` steps, a turn; `facts` () are told of it."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_train_begin(self, args, state, control, **given):
            baton.take()

        def on_step_end(self, args, state, control, **given):
            if state.global_step % every == 0:
                baton.give(**facts())
                baton.take()

    return Turns()


def common(folder: str, spec: dict) -> dict:
    return {
        "output_dir": folder,
        "use_cpu": not CUDA,
        "bf16": spec.get("dtype", "float32") == "bfloat16",
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": spec.get("checkpointing", False),
        "per_device_train_batch_size": spec["micro"],
        "gradient_accumulation_steps": spec["batch"] // spec["micro"],
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
    }


def ours(spec: dict, folder: str) -> None:
    from densereward.reward.dense import reward_function
    from densereward.reward.rewards import Normaliser
    from densereward.text.models import TokenScorer, scorer_from
    from densereward.text.tokens import tokenize_prompt
    from densereward.training.ppo import DensePPOConfig, DensePPOTrainer
    from study.methods import METHODS
    from study.profiles import models_folder

    baton, dtype = Baton(), getattr(torch, spec.get("dtype", "float32"))
    policy, tokenizer = made(spec["model"])
    committed = isinstance(spec["model"], str)
    scorer = TokenScorer.from_pretrained(models_folder("cpu") / spec["row"]) if committed else scorer_from(policy)
    paid = reward_function(
        METHODS[spec["row"]], scorer.to(DEVICE, dtype), Normaliser("global", 0.0, 0.0, 0.0, 1.0), tokenizer
    )
    texts = prompts(max(64, spec["batch"]), spec.get("prompt"))
    asked = max(len(tokenize_prompt(tokenizer, text)) for text in texts)  # tokens
    fields = {"max_completion_length": spec["length"], "num_iterations": EPOCHS, "critic_learning_rate": 0.0}
    fields |= {"max_steps": 10**6, "steps_per_generation": spec["batch"] // spec["micro"]}
    trainer = DensePPOTrainer(
        policy.to(DEVICE, dtype),
        reward_fn=paid,
        ref_model=made(spec["model"])[0].to(DEVICE, dtype),
        critic=scorer_from(policy).to(DEVICE, dtype),
        args=DensePPOConfig(**common(folder, spec) | fields),
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
        processing_class=tokenizer,
    )
    if spec.get("full"):
        trainer.generation_kwargs["eos_token_id"] = [-1]

    def facts():
        last = trainer.curves[-1]
        spent = {name: last[name] for name in ("seconds_generate", "seconds_score", "seconds_update")}
        return {"tokens": round(last["length"] * spec["batch"]), "prompt": asked, **spent}

    trainer.add_callback(turning(baton, facts, EPOCHS))
    trainer.train()


def theirs(spec: dict, folder: str) -> None:
    from transformers import LlamaForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    from densereward.text.tokens import tokenize_prompt

    baton, dtype = Baton(), getattr(torch, spec.get("dtype", "float32"))
    policy, tokenizer = made(spec["model"])
    policy.config.num_labels = 1
    rated = [LlamaForSequenceClassification(policy.config) for _ in range(2)]
    for model in rated:
        model.model.load_state_dict(policy.model.state_dict())
    counted, cut = [], ppo_trainer.truncate_response

    def counting(stop, pad, responses):
        made = cut(stop, pad, responses)
        counted.append(int((made != pad).sum()))
        return made

    ppo_trainer.truncate_response = counting
    full = spec["batch"] * spec["length"]
    fields = {"response_length": spec["length"], "num_mini_batches": 1, "num_ppo_epochs": EPOCHS, "kl_coef": 0.01}
    fields |= {"total_episodes": 10**8, "num_sample_generations": 0, "stop_token": None if spec.get("full") else "eos"}
    ids = [tokenize_prompt(tokenizer, p) for p in prompts(max(64, spec["batch"]), spec.get("prompt"))]
    trainer = PPOTrainer(
        args=PPOConfig(**common(folder, spec) | fields),
        processing_class=tokenizer,
        model=policy.to(DEVICE, dtype),
        ref_model=made(spec["model"])[0].to(DEVICE, dtype),
        reward_model=rated[0].to(DEVICE, dtype),
        value_model=rated[1].to(DEVICE, dtype),
        train_dataset=Dataset.from_list([{"input_ids": x} for x in ids]),
        callbacks=[turning(baton, lambda: {"tokens": full if spec.get("full") else counted.pop()}, 1)],
    )
    trainer.train()


if __name__ == "__main__":
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1"}
    if not CUDA:
        torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    import transformers

    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as root:
        {"ours": ours, "trl": theirs}[given["trainer"]](given, root)
