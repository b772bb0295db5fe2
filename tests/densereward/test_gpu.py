"""What would break on a GPU alone: its kernels, its precision, its memory. Skipped where there is none."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, DynamicCache, GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

from densereward.reward import rewards, segments
from densereward.text import sampling
from densereward.text.logprobs import logprobs_and_entropy
from densereward.text.models import build_tokenizer, scorer_from, tiny_llama
from densereward.training.ppo import DensePPOConfig, DensePPOTrainer
from densereward.training.rounds import SAMPLING

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


def policy(dtype=torch.float32):
    tokenizer = build_tokenizer(["the cat sat on the mat", "a dog and a cat", "on and on and on"], 280)
    torch.manual_seed(0)
    return tiny_llama(tokenizer, 64, 2).to(dtype).eval(), tokenizer


def batch(length: int = 24):
    make = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 270, (4, 8 + length), generator=make)
    mask = torch.ones_like(ids)
    for row, (before, after) in enumerate([(0, 0), (3, 5), (7, 1), (2, 20)]):
        mask[row, :before], mask[row, ids.size(1) - after :] = 0, 0
    return ids, mask, length


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_log_probabilities_and_entropies_are_those_of_a_cpu(dtype):
    """Segments are cut where entropies pass a number of nats: a GPU must not move the cuts."""
    model, _ = policy(dtype)
    expected = logprobs_and_entropy(model, *batch())
    ids, mask, length = batch()
    found = logprobs_and_entropy(model.cuda(), ids.cuda(), mask.cuda(), length)
    far = 1e-3 if dtype == torch.float32 else 0.1  # in nats; the layers below the head round to three digits
    for ours, theirs in zip(found, expected):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.cpu(), theirs, atol=far, rtol=0)


def test_gradients_are_those_of_a_cpu():
    model, _ = policy()
    ids, mask, length = batch()
    logprobs_and_entropy(model, ids, mask, length)[0].sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.cuda()
    logprobs_and_entropy(model, ids.cuda(), mask.cuda(), length)[0].sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad.cpu(), expected[name], atol=2e-2, rtol=1e-2, msg=name)


def test_greedy_answers_are_those_of_a_cpu_and_samples_end_where_they_may():
    model, tokenizer = policy()
    prefixes = [[10, 20, 30], [40], [10, 20, 30], [7] * 9]
    expected = sampling.continued(model, tokenizer, prefixes, 12, **sampling.GREEDY)
    model.cuda()
    assert sampling.continued(model, tokenizer, prefixes, 12, **sampling.GREEDY) == expected
    sampled = sampling.sample(model, tokenizer, prefixes, 12, seed=0)
    assert sampled == sampling.sample(model, tokenizer, prefixes, 12, seed=0)
    assert all(0 < len(row) <= 12 for row in sampled)


FAMILIES = {
    "llama": (LlamaConfig, {}),
    "linear": (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    "dynamic": (LlamaConfig, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    "grouped": (LlamaConfig, {"num_key_value_heads": 2}),
    "eager": (LlamaConfig, {}),
    "qwen3": (Qwen3Config, {"num_key_value_heads": 2, "head_dim": 16}),
    "window": (MistralConfig, {"sliding_window": 8, "num_key_value_heads": 2}),
    "gpt2": (GPT2Config, {"n_inner": 64}),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [sampling.PLAIN, sampling.GREEDY, SAMPLING], ids=["sampled", "greedy", "rounds"])
def test_a_step_that_is_replayed_takes_the_tokens_of_one_that_is_not(family, settings, monkeypatch):
    """Many rows, which end at different places: graphs are made again as they leave."""
    make, further = FAMILIES[family]
    attention = "eager" if family == "eager" else "sdpa"
    shape = {"vocab_size": 280, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 64} if make is not GPT2Config else {}
    torch.manual_seed(0)
    config = make(**shape | further, bos_token_id=None, eos_token_id=1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).cuda().eval()
    prefixes = [[10 + i % 40, *range(20, 21 + i % 7)] for i in range(64)]
    monkeypatch.setattr(sampling, "COMPACT", 2)

    def made():
        torch.manual_seed(1)
        return sampling.decode(model, prefixes, 48, list(range(1, 12)), 0, **settings)

    found, graphs = made(), []
    kept = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (graphs.append(graph), kept(graph))[1])
    assert made() == found
    assert len({len(row) for row in found}) > 5 or settings is sampling.GREEDY
    assert bool(graphs) is (family not in ("dynamic", "eager", "window"))
    monkeypatch.setattr(sampling, "cache_of", lambda model, tokens: (DynamicCache(config=model.config), False))
    plain = made()
    same = sum(a == b for a, b in zip(plain, found))
    assert same >= 62, f"{same} of 64 rows"  # a draw between two tokens may fall to the other by rounding


def test_segments_and_rewards_are_those_of_a_cpu():
    make = torch.Generator().manual_seed(0)
    entropies, scores = 3 * torch.rand(8, 50, generator=make), torch.randn(8, 50, generator=make)
    mask = (torch.arange(50) < torch.randint(1, 51, (8, 1), generator=make)).long()

    def paid(entropies, scores, mask):
        ids = segments.segment("entropy", mask=mask, entropies=entropies, cutoff=1.75)
        return rewards.interpolate(segments.at_ends(scores, ids)[0], ids, "even")

    found = paid(*(x.cuda() for x in (entropies, scores, mask)))
    torch.testing.assert_close(found.cpu(), paid(entropies, scores, mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ppo_learns_there_and_begins_at_its_reference(tmp_path, dtype):
    """Two passes over the same answers by equal weights: a KL of their own would be rounding, and a false penalty."""
    model, tokenizer = policy(dtype)
    texts = [word * n for word in ("cat ", "dog ", "mat ", "on ") for n in (1, 2, 3, 4)]
    config = DensePPOConfig(
        str(tmp_path),
        per_device_train_batch_size=8,
        steps_per_generation=2,
        gradient_accumulation_steps=2,
        max_completion_length=16,
        max_steps=3,
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
        bf16=dtype == torch.bfloat16,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = DensePPOTrainer(
        model,
        reward_fn=lambda batch: (batch["completion_ids"] % 7 - 3.0) * batch["completion_mask"],
        ref_model=policy(dtype)[0].cuda(),
        critic=scorer_from(model),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in texts]),
        processing_class=tokenizer,
    )
    trainer.train()
    assert abs(trainer.curves[0]["kl"]) < 1e-2 and trainer.curves[-1]["kl"] != 0
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
