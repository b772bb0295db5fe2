"""The advantages whose credit is recorded: those of another trainer would praise or blame the wrong method."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from densereward.text import sampling
from densereward.text.models import build_tokenizer
from densereward.text.tokens import tokenize_prompt, tokenize_response
from densereward.training.ppo import whiten
from study.cache import save_json
from study.measures import measure, signals
from study.methods import METHODS
from study.profiles import profile
from study.run import Run
from study.stages import mask as mask_room
from study.stages import reward
from test_baselines import TINY

SMALL = TINY | {"rounds": 1, "credit_responses": 6, "eval_prompts": 8}
NAMES = ("bandit", "appo", "appo-signed", "rloo", "grpo", "grpo-masked", "segment-grpo", "remax")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(profile("smoke", **SMALL), 0, root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def told(run):
    """name: (what `measure.paid` says of the reference answers, their advantages, the answers)."""
    made = {}
    for name in NAMES:
        own, answers = run.of(name), measure.reference_credit(run)
        paid = measure.paid(own, answers)
        made[name] = paid, signals.advantages(own, paid, answers), answers
    return made


@pytest.mark.parametrize("name", ["oracle-dense-noisy", "random-rewards"])
def test_the_seed_decides_noise_and_each_batch_draws_anew(tmp_path, name):
    """Noise that ignores the seed is a part of the reward: seeds of a study would share it."""
    texts = ["list three fruits.", "sure: apple, pear. hammer."]
    tokenizer = build_tokenizer(texts * 4, 300)
    prompt = tokenize_prompt(tokenizer, [{"role": "user", "content": texts[0]}])
    answer = torch.tensor([tokenize_response(tokenizer, texts[1])])
    batch = {"prompt_ids": torch.tensor([prompt]), "completion_ids": answer, "completion_mask": torch.ones_like(answer)}
    save_json(tmp_path / "unit.json", 1.0)

    def paid(seed, state):
        torch.manual_seed(state)
        of_seed = Run(profile("smoke"), seed, root=tmp_path).of(name)
        reward_fn, _ = reward.saved(of_seed, tmp_path, tokenizer, "credit")
        return reward_fn(batch), reward_fn(batch)

    (first, second), (again, next_one), (other, _) = paid(0, 0), paid(0, 99), paid(1, 0)
    assert torch.equal(first, again) and torch.equal(second, next_one), "the global generator decides"
    assert not torch.allclose(first, other) and not torch.allclose(first, second)


def test_random_rewards_pay_every_token_alike_and_their_totals_deviate_by_one():
    """Else a row's distance from them is its scale, or the length of what it writes."""
    lengths = torch.tensor([1, 4, 30]).repeat(4000)
    mask = (torch.arange(30) < lengths[:, None]).long()
    paid = reward.by_chance(torch.Generator().manual_seed(0))({"completion_mask": mask})
    assert (paid[mask == 0] == 0).all()
    for n in (1, 4, 30):
        of_length = paid[lengths == n]
        assert of_length.sum(1).std().item() == pytest.approx(1, abs=0.05)
        assert of_length[:, :n].mean(0).abs().max().item() < 0.05, "no place is paid more"


@pytest.mark.parametrize("name", NAMES)
def test_advantages_are_those_of_the_tokens_of_the_answers(told, name):
    paid, gained, answers = told[name]
    mask = paid.batch["completion_mask"]
    assert gained.shape == mask.shape and torch.isfinite(gained).all() and gained.abs().sum() > 0
    assert (gained[mask == 0] == 0).all(), "padding moves nothing"


def test_a_total_is_worth_the_same_at_every_token_and_a_segment_is_not(told):
    for name in ("rloo", "grpo", "remax"):
        paid, gained, _ = told[name]
        mask = paid.batch["completion_mask"].bool()
        assert all(row[m].std() < 1e-5 for row, m in zip(gained, mask)), name
    paid, gained, _ = told["segment-grpo"]
    masks = paid.batch["completion_mask"].bool()
    assert any(row[m].std() > 1e-3 for row, m in zip(gained, masks) if m.sum() > 1)


def test_remax_is_the_total_less_that_of_the_greedy_answer_to_the_same_prompt(run, told):
    paid, gained, answers = told["remax"]
    limit, eos = run.profile.max_completion_length, paid.tokenizer.eos_token_id
    for i, (prompt, answer) in enumerate(zip(answers["prompt_ids"], answers["completion_ids"], strict=True)):
        (greedy,) = sampling.continued(paid.reference, paid.tokenizer, [prompt], limit, **sampling.GREEDY)
        assert greedy[-1] == eos or len(greedy) == limit
        logits = paid.reference(torch.tensor([prompt + greedy])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == greedy
        pair = sampling.batch_of(paid.reference, paid.tokenizer, [prompt] * 2, [answer, greedy])
        ours, baseline = paid.reward_fn(pair).sum(1).tolist()
        assert gained[i, 0].item() == pytest.approx(ours - baseline, abs=1e-3)


def test_groups_are_centred_as_rloo_and_grpo_centre_them(run, told, monkeypatch):
    """Four answers of which three are the first again: no answer is better than its group. And RLOO's is the
    total less the mean of the others."""
    paid, _, answers = told["rloo"]
    same = SimpleNamespace(**paid._asdict())
    monkeypatch.setattr(
        signals.sampling, "sample", lambda *given: [c for c in answers["completion_ids"] for _ in range(4)]
    )
    assert signals.in_groups(run.of("rloo"), same, answers).abs().max() < 1e-5
    assert signals.in_groups(run.of("grpo"), same, answers).abs().max() < 1e-5
    totals = iter([[1.0, 2.0, 3.0, 6.0] * len(answers["completion_ids"])])
    same.reward_fn = lambda batch: (
        torch.tensor(next(totals))[:, None] * (torch.arange(batch["completion_mask"].size(1)) == 0)
    )
    gained = signals.in_groups(run.of("rloo"), same, answers)
    assert gained[:, 0].tolist() == pytest.approx([1.0 - 11 / 3] * len(gained))


def test_a_mask_lies_on_its_twins_advantages(told):
    for name, twin, allowed in (("appo", "bandit", {0.0, 1.0}), ("appo-signed", "bandit", {-1.0, 0.0, 1.0})):
        paid, gained, _ = told[name]
        real, whole = paid.batch["completion_mask"].bool(), told[twin][1]
        whole = (whole - whole[real].mean()) / whole[real].std(correction=0) * real  # as PPO whitens them
        ratio = (gained / whole)[(paid.batch["completion_mask"] == 1) & (whole.abs() > 1e-6)]
        assert set(ratio.round(decimals=4).tolist()) <= allowed and len(set(ratio.tolist())) > 1, name
    assert torch.equal(told["appo"][0].batch["rewards"], told["bandit"][0].batch["rewards"])


def test_which_answers_a_mask_takes_for_preferred(run, told, monkeypatch):
    """Above the mean total of these answers for PPO, as in a round of training; above 0 for the advantages of a group;
    by the mean advantage where the row says so."""
    seen = {}

    class Everything(mask_room.Decider):
        def __call__(self, batch, chosen, values=None, gamma=1.0):
            seen["chosen"] = chosen
            return super().__call__(batch, chosen, values, gamma)

    monkeypatch.setattr(mask_room, "Decider", Everything)
    for name in ("appo", "grpo-masked"):
        paid, _, answers = told[name]
        gained = signals.advantages(run.of(name), paid, answers)
        totals = paid.batch["rewards"].sum(1)
        if name == "appo":
            assert torch.equal(seen["chosen"], totals > totals.mean())
        else:
            kept = gained.abs().sum(1) > 0
            assert torch.equal(seen["chosen"][kept], gained.sum(1)[kept] > 0)
    paid, _, _ = told["appo"]
    made = run.of("appo").policy
    mask, totals = paid.batch["completion_mask"], paid.batch["rewards"].sum(1)
    against = (totals.mean() - totals)[:, None] * mask  # advantages that praise what is paid least
    centred = (against - against[mask.bool()].mean()).masked_fill(mask == 0, 0).sum(1)  # as PPO centres them
    for how, expected in (("round", totals > totals.mean()), ("advantage", centred > 0)):
        row = replace(METHODS["appo"], mask=METHODS["appo"].mask | {"preferred": how})
        own = run.of(row)
        vars(own)["policy"] = made
        signals.masked(own, paid, whiten(against, mask), None)
        assert torch.equal(seen["chosen"], expected), how
