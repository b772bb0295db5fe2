"""Scorers: a score read at the wrong token, or lost on saving, would spoil every reward made of it."""

import copy
import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, OPTConfig, OPTForCausalLM

from densereward.text import sampling, tokens
from densereward.text.models import (
    HASHES,
    TokenScorer,
    TokenScorerConfig,
    build_tokenizer,
    check_length,
    load_causal_lm,
    scorer_from,
    tiny_llama,
    verified,
)
from densereward.training import discriminator, step_model
from study import run as runs
from study.measures import stepwise
from study.methods import METHODS
from study.profiles import models_folder, profile
from study.stages import scorer, sft

TOKENIZER = build_tokenizer(["please name four fruits. apple, pear, plum and lemon."] * 4, 300)


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(0)
    return tiny_llama(TOKENIZER, 32, 2, heads=2)


def batch():
    ids = torch.tensor([[5, 6, 7, 8, 9, 0], [5, 6, 7, 0, 0, 0]])
    return ids, torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])


def test_the_response_score_is_the_scaled_mean_of_token_scores_at_segment_ends(lm):
    scorer = scorer_from(lm, scale=4.0).eval()
    ids, mask = batch()
    ends = torch.tensor([[0, 0, 1, 0, 1, 0], [0, 1, 1, 0, 0, 0]])
    tokens = scorer.token_scores(ids, mask)
    by_hand = torch.stack([(tokens[0, 2] + tokens[0, 4]) / 2, (tokens[1, 1] + tokens[1, 2]) / 2]) * 4
    assert torch.allclose(scorer(ids, mask, ends).logits[:, 0], by_hand)
    scorer.config.aggregate = "sum"
    assert torch.allclose(scorer(ids, mask, ends).logits[:, 0], by_hand * 2)


def test_without_segments_the_last_real_token_is_read_whatever_the_padding(lm):
    scorer = scorer_from(lm).eval()
    ids, mask = batch()
    tokens = scorer.token_scores(ids, mask)
    assert torch.allclose(scorer(ids, mask).logits[:, 0], torch.stack([tokens[0, 4], tokens[1, 2]]))
    noise = ids.masked_fill(mask == 0, 11)
    assert torch.allclose(scorer(noise, mask).logits, scorer(ids, mask).logits)


def test_a_scorer_starts_from_the_language_models_trunk_and_trains_apart_from_it(lm):
    scorer = scorer_from(lm)
    for (name, ours), theirs in zip(scorer.backbone.named_parameters(), lm.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert not {p.data_ptr() for p in scorer.parameters()} & {p.data_ptr() for p in lm.parameters()}


def test_a_saved_scorer_is_the_same_scorer(lm, tmp_path):
    scorer = scorer_from(lm, aggregate="sum", scale=2.0).eval()
    scorer.save_pretrained(tmp_path)
    again = TokenScorer.from_pretrained(tmp_path).eval()
    ids, mask = batch()
    assert torch.equal(again(ids, mask).logits, scorer(ids, mask).logits)
    assert (again.config.aggregate, again.config.scale) == ("sum", 2.0)
    assert [p.name for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt")] == [], "weights are safetensors"


def test_an_unknown_aggregate_is_refused():
    with pytest.raises(ValueError, match="choose 'mean'"):
        TokenScorerConfig(aggregate="max")


def test_the_tokenizer_renders_a_chat_and_survives_saving(tmp_path, lm):
    chat = [{"role": "user", "content": "please name four fruits."}]
    ids = TOKENIZER.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert TOKENIZER.decode(ids) == "<|user|>please name four fruits.<|end|><|assistant|>"
    lm.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    model, tokenizer = load_causal_lm(tmp_path)
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) == ids
    assert tokenizer.padding_side == "left" and model.config.eos_token_id == tokenizer.eos_token_id


def test_a_tokenizer_without_a_chat_template_is_one_clear_error(tmp_path, lm):
    lm.save_pretrained(tmp_path)
    bare = build_tokenizer(["a b"] * 4, 280)
    bare.chat_template = None
    bare.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks a chat template"):
        load_causal_lm(tmp_path)


def test_the_seed_of_sampling_decides_the_answers_alone(lm):
    """One that is ignored makes every seed of a study the same answers, or none of them repeatable."""

    def drawn(seed, state):
        torch.manual_seed(state)
        made = sampling.sample(lm, TOKENIZER, [[5, 6], [7, 8, 9]] * 4, 12, seed)
        return made, torch.rand(1).item()

    (a, after), (again, other), (b, _) = drawn(1, 0), drawn(1, 99), drawn(2, 0)
    assert a == again and a != b
    for state, number in ((0, after), (99, other)):
        torch.manual_seed(state)
        assert number == torch.rand(1).item(), "the global generator went on"


# --- what is loaded is what was saved


def saved(lm, folder, change=None, tokenizer=TOKENIZER):
    """A folder of a causal LM whose weights went through `change`."""
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if change:
        weights = change(load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


DAMAGE = {
    "of torch.compile": (lambda w: {f"_orig_mod.{k}": x for k, x in w.items()}, "missing: .*unexpected: _orig_mod"),
    "of DDP": (lambda w: {f"module.{k}": x for k, x in w.items()}, "unexpected: module.model"),
    "of PEFT": (lambda w: {f"base_model.model.{k}": x for k, x in w.items()}, "unexpected: base_model"),
    "a layer is lost": (lambda w: {k: x for k, x in w.items() if "layers.1." not in k}, r"missing: model\.layers\.1\."),
    "a head too many": (lambda w: w | {"score.weight": torch.ones(1, 32)}, "unexpected: score.weight"),
    "another shape": (lambda w: w | {"model.norm.weight": torch.ones(16)}, r"another shape: model\.norm\.weight"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_weights_that_do_not_fit_are_refused_by_name(lm, tmp_path, how):
    """transformers draws them at random, anew at each load: policy and reference were two models."""
    change, said = DAMAGE[how]
    with pytest.raises(ValueError, match=said):
        load_causal_lm(saved(lm, tmp_path, change))


def test_a_file_cut_short_is_one_line(lm, tmp_path):
    saved(lm, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="weights of .* cannot be read") as told:
        load_causal_lm(tmp_path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("family", [TokenScorer, discriminator.Discriminator, step_model.ProcessModel])
def test_a_scorer_that_is_not_whole_is_refused_by_name(lm, tmp_path, family):
    scorer_from(lm).save_pretrained(tmp_path)
    assert family.from_pretrained(tmp_path, dtype=torch.float32).head.weight.shape == (1, 32)
    file = tmp_path / "model.safetensors"
    save_file({k: x for k, x in load_file(file).items() if k != "head.weight"}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing: head.weight"):
        family.from_pretrained(tmp_path, dtype=torch.float32)


def test_a_language_model_is_no_scorer_and_a_scorer_no_language_model(lm, tmp_path):
    with pytest.raises(ValueError, match="names no backbone: give the folder of a token scorer"):
        TokenScorer.from_pretrained(saved(lm, tmp_path / "lm"))
    scorer_from(lm).save_pretrained(tmp_path / "scorer")
    with pytest.raises(ValueError, match="holds a token scorer, no language model"):
        load_causal_lm(tmp_path / "scorer")


def test_every_committed_model_loads_and_a_changed_byte_of_it_is_one_clear_error(tmp_path):
    """A flipped bit of a weight is a number like any other: nothing else would find it."""
    for folder in sorted(models_folder("cpu").iterdir()):
        assert verified(folder) == folder, "committed without hashes"
    shutil.copytree(models_folder("cpu") / "segment", tmp_path / "segment")
    TokenScorer.from_pretrained(tmp_path / "segment")
    file = tmp_path / "segment" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1000] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="model.safetensors is not the file that was exported: restore"):
        TokenScorer.from_pretrained(tmp_path / "segment")
    shutil.copytree(models_folder("cpu") / "sft", tmp_path / "sft")
    (tmp_path / "sft" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="chat_template.jinja is missing: restore"):
        load_causal_lm(tmp_path / "sft")
    (tmp_path / "sft" / HASHES).write_text("{")
    with pytest.raises(ValueError, match="hashes.json is missing or damaged"):
        load_causal_lm(tmp_path / "sft")


def test_a_run_does_not_start_from_committed_models_that_are_not_those_exported(tmp_path, monkeypatch):
    run = runs.Run(profile("smoke"))
    shutil.copytree(models_folder("cpu"), tmp_path / "cpu")
    monkeypatch.setattr(runs, "models_folder", lambda name: tmp_path / name)
    assert run.of("sft").sft == tmp_path / "cpu" / "sft"
    metrics = tmp_path / "cpu" / "segment" / "metrics.json"
    metrics.write_text(metrics.read_text().replace("1", "2"))
    with pytest.raises(ValueError, match="metrics.json is not the file that was exported"):
        scorer.committed(run, METHODS["segment"])
    (tmp_path / "cpu" / "sft" / HASHES).unlink()
    with pytest.raises(ValueError, match="hashes.json is missing"):
        sft.sft_model(run)


# --- what a folder may hold


def test_a_folder_that_is_no_model_is_one_line_with_the_mend(lm, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("[")
    lm.save_pretrained(tmp_path / "bare")
    said = {
        "empty": "holds no config.json", "adapter": "PEFT adapter; merge it", "broken": "config.json is no JSON object",
        "bare": "holds no tokenizer", "mistyped": "does not exist", "bare/config.json": "is a file",
    }  # fmt: skip
    for name, words in said.items():
        for read in (load_causal_lm, lambda folder: check_length(folder, 10) or load_causal_lm(folder)):
            with pytest.raises(ValueError, match=words) as told:
                read(tmp_path / name)
            assert "\n" not in str(told.value) and str(tmp_path) in str(told.value)
    with pytest.raises(ValueError, match="not to be had from the hub|config that transformers can read"):
        load_causal_lm("no-such-model-here")


def test_a_pad_token_without_an_embedding_gives_way_to_eos_and_other_tokens_are_refused(lm, tmp_path):
    more = copy.deepcopy(TOKENIZER)
    more.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.warns(UserWarning, match=r"pad token \[PAD\] .* has no embedding"):
        model, tokenizer = load_causal_lm(saved(lm, tmp_path, tokenizer=more))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.generation_config.pad_token_id
    assert all(sampling.sample(model, tokenizer, [[5], [6, 7]], 4, 0))
    ids = tokens.tokenize_response(tokenizer, "a [PAD] b")
    assert max(ids) < lm.config.vocab_size and tokenizer.decode(ids[:-1]) == "a [PAD] b"
    more.add_tokens(["zzz"])
    with pytest.raises(ValueError, match=r"embeddings, none for 'zzz' .*resize"):
        load_causal_lm(saved(lm, tmp_path, tokenizer=more))


def test_too_few_positions_are_one_line_before_anything_is_trained(lm, tmp_path):
    saved(lm, tmp_path)
    check_length(tmp_path, 512)
    small = replace(profile("smoke"), max_prompt_length=300, max_completion_length=300)
    with pytest.raises(ValueError, match="512 positions, prompt and completion may take 600 tokens: lower"):
        sft.sft_model(runs.Run(small, model=str(tmp_path)))


# --- one way to sample, one end

LEAKS = {
    "repetition_penalty": 1.5, "no_repeat_ngram_size": 1, "min_p": 0.9, "typical_p": 0.1, "suppress_tokens": [7, 9],
    "bad_words_ids": [[8]], "min_new_tokens": 9, "eos_token_id": [1, 40, 41, 42, 43, 44], "temperature": 0.1,
    "top_k": 1,
}  # fmt: skip


def test_a_generation_config_is_said_once_and_changes_no_answer(lm, tmp_path):
    """Qwen2.5-Instruct comes with a repetition penalty: its answers were not samples of the policy that is trained."""
    lm, found = copy.deepcopy(lm), []
    lm.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    asked = {"plain": {}} | {name: {name: x} for name, x in LEAKS.items()}
    for name, leak in asked.items():
        saved(lm, tmp_path / name)
        (tmp_path / name / "generation_config.json").write_text(
            json.dumps({"eos_token_id": 1, "do_sample": True} | leak)
        )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("default")
            loaded = [load_causal_lm(tmp_path / name) for _ in range(2)]
        assert [name in str(w.message) and "not obeyed" in str(w.message) for w in said] == [True] * bool(leak)
        model, tokenizer = loaded[0]
        torch.manual_seed(0)
        steps = stepwise.next_steps(model, tokenizer, [[5, 6], [7]] * 8)
        found.append((sampling.sample(model, tokenizer, [[5, 6], [7]] * 8, 12, 0), steps))
        assert sampling.ends(model, tokenizer) == [tokenizer.eos_token_id]
    assert all(x == found[0] for x in found)


@pytest.mark.parametrize("listed", [True, False])
def test_answers_end_where_the_template_ends_a_turn_at_every_stage(lm, tmp_path, listed):
    """Gemma's and Phi-3.5's way: rollouts ended there, evaluation ran on to the limit, and pairs ended elsewhere."""
    other, model = copy.deepcopy(TOKENIZER), copy.deepcopy(lm)
    other.add_special_tokens({"eos_token": "<|endoftext|>"})
    model.resize_token_embeddings(len(other), mean_resizing=False)
    model.config.eos_token_id = other.eos_token_id
    end = other.convert_tokens_to_ids("<|end|>")
    model.generation_config.eos_token_id = [other.eos_token_id, end] if listed else other.eos_token_id
    with pytest.warns(UserWarning, match=r"ends a turn with <\|end\|>, its EOS token is <\|endoftext\|>"):
        model, tokenizer = load_causal_lm(saved(model, tmp_path, tokenizer=other))
    assert sampling.ends(model, tokenizer) == [end] == [tokenizer.eos_token_id] and model.config.eos_token_id == end
    assert tokens.tokenize_response(tokenizer, "apple")[-1] == end
    assert stepwise.kinds(tokenizer, sampling.ends(model, tokenizer))[1][end]
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_causal_lm(tmp_path / "policy")[1].eos_token_id == end, "a policy of it has that end"


# --- hidden states of another width


def test_a_scorer_reads_hidden_states_narrower_than_the_backbone(tmp_path):
    """OPT-350m projects them: the reward model of many a first RLHF run."""
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "hidden_size": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 1, "ffn_dim": 32}
    opt = OPTForCausalLM(OPTConfig(**shape, num_attention_heads=2, do_layer_norm_before=False, pad_token_id=0))
    scorer = scorer_from(opt.eval()).eval()
    ids, mask = batch()
    by_hand = opt(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1] @ scorer.head.weight[0]
    assert torch.allclose(scorer.token_scores(ids, mask)[mask.bool()], by_hand[mask.bool()], atol=1e-6)
    scorer.save_pretrained(tmp_path)
    again = TokenScorer.from_pretrained(tmp_path).eval()
    assert torch.equal(again(ids, mask).logits, scorer(ids, mask).logits)
    assert scorer_from(opt, discriminator.Discriminator).head.in_features == 16
    found = sampling.batch_of(opt, TOKENIZER, [[5, 6]], [[7, 8, 1]])
    told = opt(torch.tensor([[5, 6, 7, 8, 1]])).logits[0, 1:4].log_softmax(-1)
    assert torch.allclose(found["ref_logps"][0], told.gather(1, torch.tensor([[7], [8], [1]]))[:, 0], atol=1e-5)
