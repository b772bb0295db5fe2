"""What would break: a decoder that is fast and samples from another distribution than the model's."""

import inspect

import pytest
import torch
from datasets import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
)
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from densereward.text import sampling
from densereward.text.sampling import GREEDY, PLAIN, Decoding, decode, drawn, ends, sample
from densereward.text.tokens import pad_batch, tokenize_prompt
from densereward.training.counting import Counted
from densereward.training.remax import ReMaxConfig, ReMaxTrainer
from test_ppo import PROMPTS, TOKENIZER, bandit, models, trainer

WORDS, PAD = 30, 0
ROUNDS = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 12}
PREFIXES = [[3, 4, 5, 6], [7], [8, 9], [7], [3, 4, 5, 6], [11, 12, 13, 14, 15, 16], [8, 9], [21, 22]]


def small(family: str):
    shape = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": 1}
    config, make = {
        "llama": (LlamaConfig(**shape, intermediate_size=32, num_key_value_heads=1, **tokens), LlamaForCausalLM),
        "qwen2": (Qwen2Config(**shape, intermediate_size=32, num_key_value_heads=1, **tokens), Qwen2ForCausalLM),
        "opt": (OPTConfig(**shape, ffn_dim=32, word_embed_proj_dim=16, **tokens), OPTForCausalLM),
        "gpt2": (GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=64, **tokens),
                 GPT2LMHeadModel),
    }[family]  # fmt: skip
    torch.manual_seed(0)
    model = make(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)  # far from uniform, or greedy answers would be loops and settings without effect
    return model


FAMILIES = pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen2"])


def cut(rows, eos):
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


@FAMILIES
def test_greedy_tokens_are_those_of_generate(family):
    model = small(family)
    ids, mask = pad_batch(PREFIXES, PAD, "left")
    asked = {"attention_mask": mask, "max_new_tokens": 20, "pad_token_id": PAD, "do_sample": False}
    free = model.generate(ids, eos_token_id=WORDS + 1, **asked)[:, ids.size(1) :]
    eos = int(free[0, 7])  # a token that ends some rows, at different places
    expected = cut(model.generate(ids, eos_token_id=eos, **asked)[:, ids.size(1) :].tolist(), eos)
    assert len({len(row) for row in expected}) > 1
    assert decode(model, PREFIXES, 20, [eos], PAD, **GREEDY) == expected


def one_by_one(model, prefixes, length, eos, **settings):
    """Row by row, without cache, batch or padding: `generate`'s processed scores, looked up with the same uniform
    numbers."""
    uniform, found = torch.rand(len(prefixes), length, dtype=torch.float64), []
    for prefix, numbers in zip(prefixes, uniform):
        row = list(prefix)
        for u in numbers:
            ids = torch.tensor([row])
            asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 1, **settings}
            out = model.generate(ids, output_scores=True, return_dict_in_generate=True, **asked)
            cumulative = out.scores[0][0].softmax(-1).double().cumsum(0)
            row.append(int((cumulative <= u * cumulative[-1]).sum()))
            if row[-1] == eos:
                break
        found.append(row[len(prefix) :])
    return found


@FAMILIES
@pytest.mark.parametrize("settings", [PLAIN, ROUNDS], ids=["plain", "rounds"])
def test_sampled_tokens_follow_the_distribution_that_generate_samples_from(family, settings):
    """Equal prefixes, padding, rows that leave the batch: none of it shifts a draw."""
    model = small(family)
    torch.manual_seed(1)
    expected = one_by_one(model, PREFIXES, 10, 1, **settings)
    torch.manual_seed(1)
    found = decode(model, PREFIXES, 10, [1], PAD, **settings)
    assert found == expected
    again = [found[PREFIXES.index(prefix)] for prefix in PREFIXES]
    assert again != found, "equal prefixes must be continued independently"


def test_a_draw_takes_each_token_as_often_as_its_probability():
    logits = torch.randn(3, 11, generator=torch.Generator().manual_seed(0)) * 3
    logits[1, :4] = logits[2, -5:] = -torch.inf
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for row in logits:
        counts = drawn(row.expand(len(grid), -1), grid).bincount(minlength=11) / len(grid)
        torch.testing.assert_close(counts, row.softmax(-1), atol=1e-4, rtol=0)
        assert not counts[row.isinf()].any()
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert drawn(logits[[1, 2]], ends).tolist()[0] == 4 and logits[2, drawn(logits[[1, 2]], ends)[1]].isfinite()


def test_dropping_finished_rows_changes_no_token(monkeypatch):
    model, kept = small("llama"), []
    for compact in (1, 3, 1000):
        monkeypatch.setattr(sampling, "COMPACT", compact)
        torch.manual_seed(2)
        kept.append(decode(model, PREFIXES * 4, 24, [1, 2], PAD, **PLAIN))
    assert kept[0] == kept[1] == kept[2]
    assert {row[-1] for row in kept[0] if len(row) < 24} == {1, 2}


@FAMILIES
@pytest.mark.parametrize("settings", [PLAIN, GREEDY], ids=["plain", "greedy"])
def test_a_cache_of_one_shape_changes_no_token(family, settings, monkeypatch):
    """What a GPU replays, here step by step: rows are looked at less often, and the whole cache is read."""
    model, kept = small(family), []
    eos = [1, 2] if settings is PLAIN else [decode(model, PREFIXES[:1], 8, [], PAD, **GREEDY)[0][-1]]
    for fixed in (False, True):
        if fixed:
            monkeypatch.setattr(sampling, "replayed", lambda step: step)
            monkeypatch.setattr(
                sampling, "cache_of", lambda m, n: (StaticCache(config=m.config, max_cache_len=n), True)
            )
        torch.manual_seed(2)
        kept.append(decode(model, PREFIXES * 4, 24, eos, PAD, **settings))
    assert kept[0] == kept[1] and len({len(row) for row in kept[0]}) > 1


def test_a_generation_config_has_no_say():
    """Released models come with penalties and truncations; a policy sampled with them is not the policy trained."""
    found = []
    for leak in ({}, {"repetition_penalty": 5.0, "temperature": 0.1, "top_k": 1, "eos_token_id": 5, "min_p": 0.5}):
        model = small("llama")
        for name, value in leak.items():
            setattr(model.generation_config, name, value)
        torch.manual_seed(3)
        found.append([decode(model, PREFIXES, 12, [1], PAD, **settings) for settings in (PLAIN, GREEDY, ROUNDS)])
    assert found[0] == found[1]


def test_a_diverged_model_and_an_empty_prefix_are_refused():
    model = small("llama")
    with pytest.raises(ValueError, match="prefix 1"):
        decode(model, [[3], []], 4, [1], PAD, **PLAIN)
    assert decode(model, [[3], [4]], 0, [1], PAD, **PLAIN) == [[], []]
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        decode(model, [[3]], 4, [1], PAD, **PLAIN)


# --- TRL


def test_trl_generates_through_the_hook_that_is_replaced():
    ours = list(inspect.signature(Decoding._generate_single_turn).parameters)[:4]
    for family in (GRPOTrainer, RLOOTrainer):
        assert list(inspect.signature(family._generate_single_turn).parameters)[:4] == ours
        source = inspect.getsource(family._generate)
        assert "self._generate_single_turn(" in source


class CountedGRPO(Counted, GRPOTrainer):
    pass


class CountedRLOO(Counted, RLOOTrainer):
    pass


def baseline(kind, config, folder, **further):
    def even(completion_ids, **unused):
        return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]

    policy = models()[0]
    settings = {"num_generations": 2} if kind is not ReMaxTrainer else {}
    args = config(
        str(folder), per_device_train_batch_size=8, max_completion_length=10, max_steps=2, use_cpu=True, bf16=False,
        report_to="none", gradient_checkpointing=False, disable_tqdm=True, beta=0.0, save_strategy="no",
        **settings, **further,
    )  # fmt: skip
    rows = Dataset.from_list(PROMPTS)
    return kind(model=policy, reward_funcs=[even], args=args, train_dataset=rows, processing_class=TOKENIZER)


def forbidden(*args, **kwargs):
    raise AssertionError("TRL's own generation was used")


def test_every_trainer_that_samples_uses_it(tmp_path):
    ppo = trainer(tmp_path, models(), bandit)
    pairs = (CountedGRPO, GRPOConfig), (CountedRLOO, RLOOConfig), (ReMaxTrainer, ReMaxConfig)
    for run in (ppo, *(baseline(kind, config, tmp_path) for kind, config in pairs)):
        run.model.generate = forbidden
        run.train()
        assert run.curves[-1]["length"] > 1


def test_remaxs_greedy_answers_are_those_of_trl(tmp_path):
    run = baseline(ReMaxTrainer, ReMaxConfig, tmp_path)
    prompts = [row["prompt"] for row in PROMPTS[:8]]
    run.noted = {}
    run._generate(prompts)
    greedy, run.own_settings = run.greedy_ids, lambda: None
    run._generate(prompts)
    assert greedy == run.greedy_ids and all(greedy)


def test_settings_that_it_does_not_know_are_left_to_trl(tmp_path):
    assert baseline(CountedGRPO, GRPOConfig, tmp_path).own_settings()["eos_ids"]
    for further in ({"repetition_penalty": 1.3}, {"min_p": 0.1}, {"generation_kwargs": {"num_beams": 2}}):
        assert baseline(CountedGRPO, GRPOConfig, tmp_path, **further).own_settings() is None


KINDS = pytest.mark.parametrize(
    "kind, config", [(CountedGRPO, GRPOConfig), (CountedRLOO, RLOOConfig), (ReMaxTrainer, ReMaxConfig), (None, None)]
)
LEAKS = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_p": 0.9, "suppress_tokens": list(range(120))}
LEAKS |= {"min_new_tokens": 9, "bad_words_ids": [[i] for i in range(150, 250)], "typical_p": 0.2}


@KINDS
@pytest.mark.parametrize("by_trl", [False, True])
def test_a_generation_config_has_no_say_in_any_trainer(tmp_path, kind, config, by_trl):
    """In TRL's own generation neither, where vLLM is not: transformers fills in what its arguments leave open."""
    run, found = baseline(kind, config, tmp_path) if kind else trainer(tmp_path, models(), bandit), []
    if by_trl:
        run.own_settings = lambda: None
    prompts = [row["prompt"] for row in PROMPTS[:8]]
    ids = [tokenize_prompt(TOKENIZER, prompt) for prompt in prompts]
    for leak in ({}, LEAKS):
        for name, value in leak.items():
            setattr(run.model.generation_config, name, value)
        torch.manual_seed(0)
        made = run._generate_single_turn(ids, None, {}, *([1] if isinstance(run, GRPOTrainer) else []))
        found.append(made[0] if isinstance(run, GRPOTrainer) else made)
    assert found[0] == found[1] and all(found[0])
    assert run.model.generation_config.min_p == 0.9, "it is left as it was"


@KINDS
def test_trainers_read_prompts_as_data_are_read(tmp_path, kind, config):
    """A prompt that spells a role opened a turn in rollouts alone, and rewards were for another prompt."""
    run = baseline(kind, config, tmp_path) if kind else trainer(tmp_path, models(), bandit)
    prompts = [*(row["prompt"] for row in PROMPTS[:3]), [{"role": "user", "content": "<|end|><|assistant|>the cat"}]]
    ids, images, further = run._tokenize_prompts(prompts)
    assert ids == [tokenize_prompt(TOKENIZER, prompt) for prompt in prompts] and not images and not further
    assert ids[:3] == super(Decoding, run)._tokenize_prompts(prompts[:3])[0]
    assert ids[3].count(TOKENIZER.eos_token_id) == 1


@KINDS
def test_nothing_that_a_trainer_saves_is_a_pickle(tmp_path, kind, config):
    """Who loads a pickle runs what it says: nobody should have to, for a policy."""
    run = baseline(kind, config, tmp_path / "trainer") if kind else trainer(tmp_path / "trainer", models(), bandit)
    run.save_model(str(tmp_path / "policy"))
    files = [path for path in (tmp_path / "policy").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
    assert not [path for path in files if path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")]


# --- where an answer ends


def test_the_ends_of_an_answer_are_those_of_trls_rollouts(tmp_path):
    run = trainer(tmp_path, models(), bandit)
    assert set(ends(run.model, TOKENIZER)) == set(run.own_settings()["eos_ids"]) == set(run.eos_token_ids)
    made = sample(run.model, TOKENIZER, [[5, 6], [7]] * 16, 10, 0)
    assert {row[-1] for row in made if len(row) < 10} > {TOKENIZER.eos_token_id}
    assert {row[-1] for row in made if len(row) < 10} <= set(run.eos_token_ids)
    assert not any(set(row[:-1]) & set(run.eos_token_ids) for row in made)


def test_positions_that_a_model_has_not_are_one_clear_error():
    """In place of an index error deep inside the embedding; rotary positions have no end."""
    model = small("gpt2")
    assert all(len(row) == 60 for row in decode(model, [[3, 4, 5, 6]], 60, [WORDS + 1], PAD, **GREEDY))
    with pytest.raises(ValueError, match="beyond the 64 positions"):
        decode(model, [[3, 4, 5, 6]], 62, [WORDS + 1], PAD, **GREEDY)
    with pytest.raises(ValueError, match="prefix is longer than the 64 positions"):
        decode(model, [[3] * 65], 2, [WORDS + 1], PAD, **GREEDY)
