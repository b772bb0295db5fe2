"""TRL promises nothing of what is extended here: the day that it changes, this says so first."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from trl import GRPOTrainer, RLOOTrainer

from test_ppo import bandit, models, trainer, weights

GOLDEN = Path(__file__).with_name("golden_ppo.json")


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("_compute_loss", ["model", "inputs"]),
        (
            "_get_per_token_logps_and_entropies",
            ["model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"],
        ),
        ("_generate_and_score_completions", ["inputs"]),
        ("_prepare_inputs", ["generation_batch"]),
        ("_get_train_sampler", ["dataset"]),
    ],
)
def test_the_methods_that_are_extended_take_what_they_took(name, arguments):
    found = [p for p in inspect.signature(getattr(GRPOTrainer, name)).parameters if p != "self"]
    assert found[: len(arguments)] == arguments
    if name == "_generate_and_score_completions":
        assert name in vars(RLOOTrainer) or hasattr(RLOOTrainer, name)


def loss_with(advantages, tmp_path):
    """TRL's own loss of one rollout batch, with other advantages in it."""
    run = trainer(tmp_path, models(), bandit, num_iterations=2)
    batch = run._generate_and_score_completions([run.train_dataset[i] for i in range(8)])
    run.current_gradient_accumulation_steps = 1
    batch = {name: x for name, x in batch.items() if name not in ("returns", "old_values")}
    batch["advantages"] = advantages(batch["completion_mask"])
    return GRPOTrainer._compute_loss(run, run.model, batch)


def test_an_advantage_per_token_that_is_the_same_everywhere_is_one_per_answer(tmp_path):
    each = torch.linspace(-1, 1, 8)
    one, dense = (loss_with(a, tmp_path) for a in (lambda mask: each, lambda mask: each[:, None].expand(mask.shape)))
    assert torch.equal(one, dense)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_one_by_eight_is_eight_by_one(tmp_path, size):
    """Micro-batches are a matter of memory: weights after two updates are those of one large pass, up to rounding."""
    found = {}
    for at_once in (8, size):
        parts = models()
        more = {
            "per_device_train_batch_size": at_once,
            "gradient_accumulation_steps": 8 // at_once,
            "steps_per_generation": 8 // at_once,
        }
        run = trainer(tmp_path / str(at_once), parts, bandit, max_steps=2, **more)
        run.train()
        found[at_once] = weights(parts[0])
    for name, tensor in found[8].items():
        torch.testing.assert_close(found[size][name], tensor, atol=2e-5, rtol=1e-4)


def test_curves_are_those_of_the_day_when_they_were_written_down(tmp_path):
    """A refactoring that changes a loss by a thousandth changes every record. To accept new curves, remove the file."""
    run = trainer(tmp_path, models(), bandit, max_steps=6, kl_coef=0.05)
    run.train()
    names = ("proxy_reward", "kl", "value_loss", "entropy", "length")
    found = [{name: row[name] for name in names} for row in run.curves]
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail("there were no golden curves: these are written now; look at them and commit")
    for now, then in zip(found, json.loads(GOLDEN.read_text()), strict=True):
        assert now == pytest.approx(then, rel=2e-3, abs=1e-4)
