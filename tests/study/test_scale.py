"""What would break: a paper's backbone that starts with other settings than the paper's, or fails after hours."""

import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from densereward.text import tokens
from densereward.text.models import build_tokenizer, load_causal_lm
from report import scaling
from report.notebooks import ROOT
from study import engines, scale
from study.backbones import BACKBONES, MAIN_TABLES
from study.methods import METHODS
from study.profiles import profile
from study.run import Run
from study.stages import policy

PHI3 = ROOT.parent / "shared" / "data" / "tokenizers" / "phi-3-mini"


@pytest.fixture
def started(monkeypatch) -> dict:
    """The arguments of every trainer that starts, by its class, with the model as it trains."""
    found, train = {}, transformers.Trainer.train

    def watched(self, *given, **named):
        done = train(self, *given, **named)
        found[type(self).__name__] = (self.args, self.model)
        return done

    monkeypatch.setattr(transformers.Trainer, "train", watched)
    return found


def run(name: str, method: str, root, **given) -> Run:
    return Run(profile(name), row=METHODS[method], root=root, **given)


def test_the_command_line_runs_llama3_dry(tmp_path):
    command = [sys.executable, "-m", "study.runner", "--profile", "llama3-8b", "--methods", "segment", "--seeds", "0"]
    done = subprocess.run([*command, "--dry-run", "--runs", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("sft", "preferences", "scorer", "policy"):
        assert f"dry run of llama3-8b, segment: {stage} ran" in done.stdout
    assert "8.03 billion parameters" in done.stdout or "DeepSpeed is not installed" in done.stdout
    saved = next(tmp_path.glob("dry/stages/ppo-*/policy"))
    card = ModelCard.load(saved / "README.md")
    assert card.data.library_name == "transformers" and "segment-ppo Table 1" in card.text
    assert str(tmp_path) not in card.text, "a machine's path"
    found, full = AutoConfig.from_pretrained(saved), BACKBONES["llama3-8b"].config
    assert found.model_type == full["model_type"] and found.hidden_size < full["hidden_size"]
    assert found.num_attention_heads // found.num_key_value_heads == 4  # as at full size


def test_segment_ppos_settings_reach_the_trainers(started, tmp_path):
    """Tables 8 and 9, on Phi-3's architecture."""
    scale.dry_run(run("phi3-mini", "bandit", tmp_path))
    (scored, _), (ppo, model) = started["RewardTrainer"], started["DensePPOTrainer"]
    assert (scored.learning_rate, scored.num_train_epochs, scored.adam_beta2, scored.max_grad_norm) == (
        1e-6,
        1,
        0.95,
        1,
    )
    rates = ppo.learning_rate, ppo.critic_learning_rate, ppo.kl_coef, ppo.value_clip, ppo.epsilon, ppo.num_iterations
    assert rates == (5e-7, 9e-6, 0.01, 0.2, 0.2, 1)
    for args in scored, ppo:
        assert args.lr_scheduler_type == "cosine_with_min_lr" and args.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    layers = [part for part in model.modules() if type(part).__name__ == "Phi3DecoderLayer"]  # of policy and critic
    assert len(layers) == 4 and all(layer.gradient_checkpointing for layer in layers), "policy, critic: checkpointed"


def test_tlcrs_settings_reach_the_trainers(started, tmp_path):
    """Appendix B, from a base model without a chat template to the discriminator."""
    small = scale.toy(run("llama2-7b", "tlcr", tmp_path))
    with pytest.raises(ValueError, match="lacks a chat template"):
        load_causal_lm(small.model)
    assert small.policy and load_causal_lm(small.sft)[1].chat_template.count("Human: ") == 1
    sft, scored, ppo = (started[name][0] for name in ("SFTTrainer", "Trainer", "DensePPOTrainer"))
    assert (sft.learning_rate, scored.learning_rate, ppo.learning_rate, ppo.kl_coef) == (1e-5, 1e-5, 1e-6, 0.1)
    assert (scored.num_train_epochs, scored.weight_decay, profile("llama2-7b").sft_epochs) == (2, 0.1, 2)
    for args in sft, scored, ppo:
        assert args.lr_scheduler_type == "cosine" and args.warmup_steps == 0 and args.gradient_checkpointing


def test_qwen_runs_dry_in_rounds(started, tmp_path):
    scale.dry_run(run("qwen2-7b", "adpo", tmp_path))
    args, model = started["OnlineDPOTrainer"]
    assert model.config.model_type == "qwen2" and args.learning_rate == 5e-7 and args.gradient_checkpointing


@pytest.mark.parametrize("method", ["bandit", "dpo", "figa", "rloo", "rs"])
def test_adapters_learn_in_every_kind_of_trainer_and_nothing_else_does(started, tmp_path, method):
    pytest.importorskip("peft")
    fast = dict.fromkeys(("actor_learning_rate", "online_learning_rate", "dpo_learning_rate"), 1e-2)
    small = scale.toy(Run(profile("llama3-8b", lora_rank=2, **fast), row=METHODS[method], root=tmp_path))
    at_once = {
        name: of | {"warmup_steps": 0} for name, of in small.profile.trl.items()
    }  # else a first step has no rate
    small = replace(small, profile=replace(small.profile, trl=at_once))
    before, after = (load_causal_lm(path)[0].state_dict() for path in (small.sft, small.policy.path / "policy"))
    changed = {name for name, x in after.items() if not torch.equal(x, before[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)
    assert small.key(trl="policy") != scale.toy(run("llama3-8b", method, tmp_path)).key(trl="policy")
    if method == "bandit":
        model = started["DensePPOTrainer"][1]
        learnt = {name for name, x in model.named_parameters() if x.requires_grad and "lora_" not in name}
        assert learnt == {"critic.head.weight"}


def test_an_update_holds_the_papers_rows_on_the_papers_gpus(monkeypatch):
    from study.stages.prompts import sizes

    monkeypatch.setenv("WORLD_SIZE", "8")
    for name, passes in {"phi3-mini": 4, "llama3-8b": 8}.items():
        p = sizes(profile(name))
        assert p["gradient_accumulation_steps"] == passes
        assert p["per_device_train_batch_size"] * passes * 8 == 128  # Table 9
        assert p["per_device_train_batch_size"] * p["steps_per_generation"] * 8 == 1024


USER, REPLY = ({"role": role, "content": f"{role} says: 3 owls,\n a fox. "} for role in ("user", "assistant"))


@pytest.mark.skipif(not PHI3.exists(), reason=f"no Phi-3 tokenizer at {PHI3}")
def test_phi3s_ids_are_those_of_segment_ppos_appendix_e_token_for_token():
    """A token more or less at a turn's border and policies learn from prompts that the model has never seen."""
    tokenizer, released = AutoTokenizer.from_pretrained(PHI3), Tokenizer.from_file(str(PHI3 / "tokenizer.json"))

    def marks(ids: list[int]) -> list[int]:  # transformers 5 reads other words otherwise: no space behind a mark
        return [i for i in ids if i >= 32000]

    tokenizer.eos_token = "<|end|>"  # as `load_causal_lm` finds it
    own = tokens.tokenize_prompt(tokenizer, [USER, REPLY, USER])
    assert scale.written_otherwise(tokenizer, BACKBONES["phi3-mini"].chat_template) is None
    tokenizer.chat_template = BACKBONES["phi3-mini"].chat_template
    said, turn = USER["content"], f"<|assistant|>\n{REPLY['content']}<|end|>\n"
    printed = f"<|user|>\n{said}<|end|>\n{turn}<|user|>\n{said}<|end|>\n<|assistant|>\n"
    ids = tokens.tokenize_prompt(tokenizer, [USER, REPLY, USER])
    assert ids == tokenizer(printed, add_special_tokens=False)["input_ids"] == own
    assert marks(ids) == marks(released.encode(printed, add_special_tokens=False).ids)
    assert marks(ids) == [32010, 32007, 32001, 32007, 32010, 32007, 32001], "user, end, assistant, ..., and no EOS"
    whole = tokenizer.apply_chat_template([USER, REPLY], return_dict=False)
    assert whole == tokenizer(printed[: printed.index(turn)] + turn, add_special_tokens=False)["input_ids"]
    assert marks(whole) == [32010, 32007, 32001, 32007], "Phi-3's own <|endoftext|> is taken out"


def test_llama3s_ids_are_those_of_segment_ppos_appendix_e_token_for_token():
    """On a tokenizer of ours that has Llama-3's control tokens: its own is not here."""
    marks = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = build_tokenizer([USER["content"], REPLY["content"], "\n\nassistant user"], 300)
    tokenizer.add_special_tokens({"bos_token": marks[0], "eos_token": marks[3], "extra_special_tokens": marks[1:3]})
    tokenizer.chat_template = BACKBONES["llama3-8b"].chat_template
    bos, start, end, eot = tokenizer.convert_tokens_to_ids(marks)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def turn(message: dict) -> list[int]:
        return [start, *ids(message["role"]), end, *ids(f"\n\n{message['content']}"), eot]

    asked = [bos, *turn(USER), start, *ids("assistant"), end, *ids("\n\n")]
    assert tokens.tokenize_prompt(tokenizer, [USER]) == asked
    whole = tokenizer.apply_chat_template([USER, REPLY], return_dict=False)
    assert whole == [bos, *turn(USER), *turn(REPLY)]


def test_a_model_whose_chat_template_is_not_the_papers_is_told_before_it_starts(tmp_path, capsys):
    """Prompts that the paper's model never saw would pass for the paper's."""
    given = run("llama3-8b", "segment", tmp_path)
    small = scale.toy(given)
    text = str(ROOT / "data/samples/hh_rlhf.jsonl")
    found = scale.provided(replace(given, model=small.model, dataset=text))
    said = capsys.readouterr().out
    assert found.model == small.model and "is not the one that segment-ppo prints" in said and "<|eot_id|>" in said


def test_what_is_missing_is_said_before_anything_starts(tmp_path):
    with pytest.raises(ValueError, match="give dataset, .*preference_700K"):
        scale.provided(run("phi3-mini", "segment", tmp_path))
    text = run("llama2-7b", "tlcr", tmp_path, dataset=str(ROOT / "data/samples/hh_rlhf.jsonl"))
    with pytest.raises(ValueError, match="meta-llama/Llama-2-7b-hf, .*give model"):
        scale.provided(text)
    with pytest.raises(ValueError, match="zero9.*zero2"):
        engines.check(run("cpu", "segment", tmp_path, engine="zero9"))
    with pytest.raises(ValueError, match="no paper's"):
        engines.check(run("cpu", "segment", tmp_path, engine="paper"))
    with pytest.raises(ValueError, match="without an engine"):
        engines.check(run("cpu", "segment", tmp_path, processes=2))


@pytest.mark.parametrize("name", engines.ON_ONE)
def test_a_stage_of_rounds_says_that_it_trains_on_one_process(name, tmp_path, capsys):
    """Under any engine it is built by the caller, and nobody thinks that eight GPUs had a part in it."""
    given = run("cpu", "segment", tmp_path, engine="zero2", processes=2)
    assert engines.spread(given, name, print) is print
    assert capsys.readouterr().out == f"stage {name}: trains on one process, whatever the engine\n"


def test_every_trainer_of_a_policy_is_spread_or_says_that_it_is_not():
    assert {*policy.TRAINERS} == {name for name, kind in engines.STAGES.items() if kind == "policy"} | {*engines.ON_ONE}


def test_sizes_are_the_models_and_memory_says_when_it_cannot(monkeypatch):
    known = {"phi3-mini": 3.82, "phi3.1-mini": 3.82, "llama3-8b": 8.03, "qwen2-7b": 7.62, "llama2-7b": 6.74}
    assert {name: round(scale.size(b)[0] / 1e9, 2) for name, b in BACKBONES.items()} == known
    assert all(scale.size(b)[0] == scaling.parameters(b.config) for b in BACKBONES.values()), "the book's formula"
    monkeypatch.setitem(sys.modules, "deepspeed.runtime.zero.stage3", None)
    (line,) = scale.memory("llama3-8b")
    assert "not installed" in line


def test_every_engine_is_there_and_a_backbones_are_among_them(tmp_path):
    for name, backbone in BACKBONES.items():
        assert set(backbone.engines.values()) <= set(engines.ENGINES) and set(backbone.engines) <= {
            "sft",
            "scorer",
            "policy",
        }
        a = run(name, "segment", tmp_path, engine="paper")
        assert {engines.engine_of(a, stage) for stage in ("scorer", "ppo")} == {
            backbone.engines[s] for s in ("scorer", "policy")
        }


def test_every_stage_that_trains_is_spread_or_says_that_it_is_not():
    assert {*engines.STAGES, *engines.ON_ONE} == {*policy.TRAINERS, "sft", "scorer", "discriminator"}


def test_trackers_reach_the_trainers_and_no_key(started, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "transformers.trainer.get_reporting_integration_callbacks", lambda names: asked.append(names) or []
    )
    small = scale.toy(run("smoke", "dpo", tmp_path, report_to="tensorboard"))
    assert small.policy and ["tensorboard"] in asked
    args, _ = started["TokenisedDPOTrainer"]
    assert args.report_to == ["tensorboard"] and args.logging_steps == 1
    assert small.key("rm_batch", trl="policy") == scale.toy(run("smoke", "dpo", tmp_path)).key("rm_batch", trl="policy")


def test_gpu_hours_are_operations_over_what_a_gpu_does():
    """Of Llama-3-8B, by hand: 60,416 answers of 2,048 tokens, sampled once."""
    cost = scaling.hours(1e15, 0.5, 0.1, 1.0).set_index("profile").loc["llama3-8b"]
    cost = cost.rename(lambda name: name.removesuffix(f" {scaling.UNIT}"))
    assert cost["sampling"] == pytest.approx(60_416 * 2048 * 2 * 8.030261e9 / 1e14 / 3600, rel=1e-6)
    assert cost["PPO"] == pytest.approx(60_416 * 2048 * 2 * 8 * 8.030261e9 / 5e14 / 3600, rel=1e-6)
    assert cost["all"] == pytest.approx(cost[["SFT", "scorer", "sampling", "scoring", "PPO"]].sum())
    with pytest.raises(ValueError, match="training is 0; give a share"):
        scaling.hours(1e15, 0, 0.1, 1.0)


def test_a_papers_main_table_is_counted_as_it_was_printed():
    """Rows are what the transcribed tables hold, but for the model that all start from."""
    for paper, column, several in ("segment-ppo", "row", 2), ("tlcr", "row", 1), ("adaptive-mask", "column", 1):
        for number in range(1, several + 1):
            found = pd.read_csv(ROOT / "data" / "published" / f"{paper}_table{number}.csv")
            printed = found[column].nunique()
            ours = [of for of in MAIN_TABLES.values() if of.name == f"{paper} Table {number}"]
            assert sum(of.sampling + of.on_pairs + 1 for of in ours) == printed, f"{paper}, Table {number}"
    cost = scaling.hours(1e15, 0.5, 0.1, 1.0)
    one, whole = (x.set_index("profile").loc["llama2-7b"] for x in (cost, scaling.main_tables(cost)))
    one = one.rename(lambda name: name.removesuffix(f" {scaling.UNIT}"))
    policies = 5 * (one["sampling"] + one["scoring"] + one["PPO"]) + 2 * one["scorer"] * 10 / 8
    assert whole["GPU-hours"] == pytest.approx(one["SFT"] + 3 * (3 * one["scorer"] + policies))
    assert (
        whole["days on 64 GPUs"] * 64 == pytest.approx(whole["days on 1 GPU"]) == pytest.approx(whole["GPU-hours"] / 24)
    )


def test_memory_on_the_page_is_what_deepspeed_estimates():
    pytest.importorskip("deepspeed.runtime.zero.stage3")
    table = scaling.memory().set_index(["profile", "stage"])
    for name in BACKBONES:
        for line in scale.memory(name)[1:]:
            stage, said = line.strip().split(", ", 1)[0], line.split(": ", 1)[1]
            estimates = dict(part.split(" (")[0].split(": ") for part in said.split(", "))
            for n in scaling.GPUS:
                assert f"{table.loc[(name, stage), f'on {scaling.gpus(n)} (GiB)']:.0f}" == estimates[str(n)], (
                    f"{name}, {stage}, {n} GPUs"
                )
