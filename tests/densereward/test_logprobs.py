"""What would break: entropy cut-offs and KL penalties decided on numbers that are not the model's."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from densereward.text import logprobs
from densereward.text.logprobs import completion_forward, fused_head, logprobs_and_entropy

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=101, tie_word_embeddings=False, **SMALL)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=101, tie_word_embeddings=True, **SMALL)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(vocab_size=101, **SMALL)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=101, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    ),
}


def build(family: str):
    torch.manual_seed(0)
    return FAMILIES[family]().eval()


def rows(vocab: int = 101):
    """Four (prompt, completion) pairs of different lengths, and the ids and mask [4, 6 + 7] of the batch they make."""
    g = torch.Generator().manual_seed(1)
    lengths = [(5, 7), (2, 4), (6, 1), (1, 7)]
    pairs = [[torch.randint(1, vocab, (n,), generator=g) for n in both] for both in lengths]
    prompts = torch.zeros(4, 6, dtype=torch.long)
    completions = torch.zeros(4, 7, dtype=torch.long)
    mask = torch.zeros(4, 13, dtype=torch.long)
    for i, (prompt, completion) in enumerate(pairs):
        prompts[i, 6 - len(prompt) :], completions[i, : len(completion)] = prompt, completion
        mask[i, 6 - len(prompt) : 6 + len(completion)] = 1
    return pairs, torch.cat([prompts, completions], 1), mask


def plain(model, prompt, completion):
    """The obvious computation on one unpadded row: full logits, log_softmax, in float32."""
    logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1].float()
    logp = logits.log_softmax(-1)
    return logp.gather(1, completion[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_batch_equals_the_plain_computation_row_by_row(family):
    model = build(family)
    pairs, ids, mask = rows()
    with torch.no_grad():
        expected = [plain(model, *pair) for pair in pairs]
        logps, entropies = logprobs_and_entropy(model, ids, mask, 7)
    assert logps.shape == entropies.shape == (4, 7) and logps.dtype == entropies.dtype == torch.float32
    for i, (logp, entropy) in enumerate(expected):
        n = len(logp)
        torch.testing.assert_close(logps[i, :n], logp, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(entropies[i, :n], entropy, atol=1e-5, rtol=1e-5)
        assert not logps[i, n:].any() and not entropies[i, n:].any(), "padding must stay zero"


@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiled"])
@pytest.mark.parametrize("family", ["llama", "tied"])
def test_gradients_equal_those_of_the_plain_computation(family, tiled, monkeypatch):
    model = build(family)
    pairs, ids, mask = rows()
    if tiled:  # as a large vocabulary is
        monkeypatch.setattr(logprobs, "ONE_TILE", 0)
        monkeypatch.setitem(logprobs.ON_CPU, "_CHUNKED_LOGPROB_CHUNK_SIZE", 16)
    sum(plain(model, *pair)[0].sum() for pair in pairs).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logprobs_and_entropy(model, ids, mask, 7)[0].sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=1e-4, rtol=1e-4, msg=name)


def test_bfloat16_model_gets_a_float32_head():
    """bfloat16 logits would move entropies by about .01 nats, across a cut-off."""
    model = build("llama").to(torch.bfloat16)
    _, ids, mask = rows()
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = model.model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state[:, 5:-1]
        logp = (hidden.float() @ model.lm_head.weight.float().T).log_softmax(-1)
        logps, entropies = logprobs_and_entropy(model, ids, mask, 7)
    real = mask[:, 6:].bool()
    assert logps.dtype == entropies.dtype == torch.float32
    torch.testing.assert_close(entropies[real], -(logp.exp() * logp).sum(-1)[real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logps[real], logp.gather(2, ids[:, 6:, None])[..., 0][real], atol=1e-4, rtol=1e-4)


def test_no_logits_are_made():
    """A vocabulary of 128k at 1024 tokens would not fit: the vocabulary is folded tile by tile, no tensor spans it."""
    vocab = 40_000
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, tie_word_embeddings=True, **SMALL)).eval()
    _, ids, mask = rows()
    shapes = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            several = out if isinstance(out, (tuple, list)) else [out]
            shapes.update(tuple(x.shape) for x in several if torch.is_tensor(x))
            return out

    def logits_like():
        return [shape for shape in shapes if shape and shape[-1] == vocab]

    with Watch(), torch.no_grad():
        logprobs_and_entropy(model, ids, mask, 7)
        assert not logits_like()
        model(ids)
        assert logits_like(), "the watch must see plain logits"


def test_patching_twice_is_patching_once_and_generation_is_untouched():
    model = build("llama")
    _, ids, mask = rows()
    before = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0)
    forward = fused_head(model).forward
    assert fused_head(model).forward == forward
    after = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(before, after)


def test_a_deep_copy_of_a_patched_model_uses_its_own_weights():
    """Otherwise a policy copied from the segmenter would keep on generating from the SFT model."""
    model = build("llama")
    _, ids, mask = rows()
    logprobs_and_entropy(model, ids, mask, 7)
    policy = copy.deepcopy(model)
    fused_head(policy)
    with torch.no_grad():
        policy.lm_head.weight.zero_()
        assert not policy(ids).logits.any()
        logps, _ = logprobs_and_entropy(policy, ids, mask, 7)
    torch.testing.assert_close(logps[mask[:, 6:].bool()], torch.full((19,), -torch.log(torch.tensor(101.0)).item()))


def test_scoring_in_chunks_changes_nothing_but_the_rows_at_a_time():
    model, sizes = build("llama"), []
    _, ids, mask = rows()
    model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    with torch.no_grad():
        whole, chunked = completion_forward(model, ids, mask, 7), completion_forward(model, ids, mask, 7, batch_size=3)
    assert sizes == [4, 3, 1] and whole.keys() == chunked.keys() == {"log_probs", "entropy"}
    for field in whole:
        torch.testing.assert_close(chunked[field], whole[field], atol=1e-5, rtol=1e-5)


def test_a_prompt_is_required():
    model = build("llama")
    _, ids, mask = rows()
    for length in (0, 13):
        with pytest.raises(ValueError, match="completion_length"):
            logprobs_and_entropy(model, ids, mask, length)
