"""What would break: an adapter that is lost when its model is saved, or that leaves other weights free to move."""

import contextlib
import inspect
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from trl.generation.vllm_generation import VLLMGeneration

from densereward.seeding import seed_everything
from densereward.text import adapters
from densereward.text.logprobs import attach_critic
from densereward.text.models import TokenScorer, load_causal_lm, scorer_from

peft = pytest.importorskip("peft")


def moved(model) -> None:
    """Adapters as if they had learnt: those that start at zero, too."""
    with torch.no_grad():
        for name, x in model.named_parameters():
            if "lora_B" in name:
                x.normal_(std=0.1)


def test_what_is_saved_is_an_ordinary_model_that_computes_the_same(folder, tmp_path):
    model, tokenizer = load_causal_lm(folder)
    ids = torch.arange(6, 26).view(2, 10)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    seed_everything(0)
    assert adapters.with_adapters(model, 4) is model
    assert torch.allclose(model(ids).logits, load_causal_lm(folder)[0](ids).logits)  # they start as nothing
    assert {name.split(".lora_")[-1][0] for name, x in model.named_parameters() if x.requires_grad} == {"A", "B"}
    moved(model)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    saved = load_causal_lm(tmp_path)[0]
    assert torch.allclose(saved(ids).logits, model(ids).logits, atol=1e-5)
    changed = {name for name, x in saved.state_dict().items() if not torch.equal(x, before[name])}
    assert changed and all(name.endswith("_proj.weight") for name in changed)


def test_a_scorers_head_learns_beside_its_adapters(folder, tmp_path):
    seed_everything(0)
    net = adapters.with_adapters(scorer_from(load_causal_lm(folder)[0]), 4)
    free = {name for name, x in net.named_parameters() if x.requires_grad}
    assert "head.weight" in free and all("lora_" in name for name in free - {"head.weight"})
    moved(net)
    ids = torch.arange(6, 26).view(2, 10)
    net.save_pretrained(tmp_path)
    assert torch.allclose(TokenScorer.from_pretrained(tmp_path).token_scores(ids), net.token_scores(ids), atol=1e-5)


def test_vllm_is_given_the_policys_own_weights(folder, tmp_path):
    """TRL's own loop would send the critic's, and adapters bare: vLLM stops at a name that it does not know."""
    seed_everything(0)
    policy = load_causal_lm(folder)[0]
    critic = adapters.with_adapters(scorer_from(policy), 4)
    attach_critic(adapters.with_adapters(policy, 4), critic)
    moved(policy)
    policy.save_pretrained(tmp_path)
    generation = SimpleNamespace(model=policy, _dist=SimpleNamespace(gather_params=lambda _: contextlib.nullcontext()))
    sent = dict(adapters.weights_for(generation))
    saved = dict(load_causal_lm(folder)[0].named_parameters())  # the names that vLLM knows
    assert sent.keys() == saved.keys()
    assert all(torch.equal(x, sent[name]) for name, x in load_file(tmp_path / "model.safetensors").items())
    assert "_iter_named_params" in inspect.getsource(VLLMGeneration.sync_weights), "what `Decoding` replaces"
