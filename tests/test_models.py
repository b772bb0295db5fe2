"""Scorers: a score read at the wrong token, or lost on saving, would spoil every reward made of it."""

import pytest
import torch

from densereward import sampling
from densereward.models import TokenScorer, TokenScorerConfig, build_tokenizer, load_causal_lm, scorer_from, tiny_llama

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
