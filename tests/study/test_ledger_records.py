"""What would break a claim: a likelihood that padding changes, a reward read elsewhere than it is paid, a policy of
another row or seed."""

import shutil
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from densereward.reward.rewards import Normaliser
from densereward.seeding import rng
from densereward.text.models import HASHES, load_causal_lm
from densereward.text.tokens import tokenize_prompt, tokenize_response
from report import claims
from study import cache
from study.cache import save_json
from study.measures import ledger_records as L
from study.methods import METHODS
from study.profiles import models_folder, profile
from study.records import read_records
from study.run import Run
from testbed import build, oracle

WORLD = profile("cpu").world


@pytest.fixture(scope="module")
def sft():
    model, tokenizer = load_causal_lm(models_folder("cpu") / "sft")
    return model.eval(), tokenizer


def dialogues(n: int = 24) -> list[dict]:
    return build.dialogues(WORLD, "test", n, rng(0, "ledger"))


def test_the_likelihood_is_that_of_each_answer_alone_every_token_counting_once(sft):
    model, tokenizer = sft
    total, count = 0.0, 0
    for row in dialogues():
        prompt = tokenize_prompt(tokenizer, row["prompt"])
        answer = tokenize_response(tokenizer, row["completion"][0]["content"])
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[-len(answer) :]
        assert answer[-1] == tokenizer.eos_token_id
        total, count = total + logps.sum().item(), count + len(answer)
    assert L.likelihood(model, tokenizer, dialogues()) == pytest.approx(total / count, abs=1e-4)


def test_an_item_that_is_misspelt_is_all_that_changes():
    pairs = L.misspelt(dialogues(), rng(0, "misspelt"))
    assert len(pairs) > 30
    for (prompt, before), (_, after) in zip(pairs[::2], pairs[1::2]):
        one, other = (oracle.summary(prompt[0]["content"], text) for text in (before, after))
        assert other["misspelt"] == one["misspelt"] + 1 and len(before) == len(after)
        assert sum(a != b for a, b in zip(before, after)) == 1


RAW = Normaliser("none", 0.0, 0.0, 0.0, 1.0)


def test_the_lowest_reward_is_read_at_segments_and_not_at_padding(sft):
    """A scorer that says less of every further token, and more of all than of padding: long answers hold the lowest."""
    falling = SimpleNamespace(token_scores=lambda ids: 1_000.0 - torch.ones_like(ids).cumsum(1))
    for name in L.SCORED:
        assert L.lowest_by_length(METHODS[name], falling, RAW, *sft, dialogues()) == pytest.approx(-1, abs=0.1), name


def stage(stages, name: str, key: dict, weights: str, inside: str = "", inputs=()) -> dict:
    """A stage's folder with committed weights as its own, and what was made of it."""
    folder = stages / f"{name}-{key['seed']}-{weights}"
    shutil.copytree(models_folder("cpu") / weights, folder / inside, ignore=shutil.ignore_patterns(HASHES))
    made = {"name": name, "key": key, "hash": folder.name.ljust(12, "0"), "provenance": {"commit": "c"}}
    made |= {"files": {"weights": weights, "seed": key["seed"]}, "inputs": list(inputs)}
    save_json(folder / "manifest.json", made)
    return made


def test_a_policy_is_asked_with_the_scorer_that_paid_it_and_claims_find_both(tmp_path, monkeypatch):
    """The mask's scorer also lies among a masked row's inputs; a run with other settings has not been asked."""
    run, out = Run(profile("brief"), root=tmp_path), tmp_path / "ledger.jsonl"
    (tmp_path / "stages").mkdir()
    stage(tmp_path / "stages", "sft", run.key("width", seeded=False), "sft")
    own, other = (stage(tmp_path / "stages", "scorer", run.key("pairs"), x) for x in ("segment", "token"))
    inputs = [cache.digest(cache.Artifact(tmp_path, made)) for made in (own, other)]
    key = run.key("width", "lam") | {"method": {"name": "segment"}}
    stage(tmp_path / "stages", "ppo", key, "sft", "policy", ["of sft", *inputs])
    save_json(next(tmp_path.glob("stages/ppo*")) / "normaliser.json", asdict(RAW))
    monkeypatch.setattr(L, "DIALOGUES", 12)
    read, load = [], L.TokenScorer.from_pretrained
    monkeypatch.setattr(
        L.TokenScorer, "from_pretrained", lambda path, **given: read.append(path) or load(path, **given)
    )
    L.main("brief", "0,1", out, tmp_path)
    records = read_records(out)
    assert [(r["method"], r["seed"]) for r in records] == [("sft", 0), ("segment", 0), ("sft", 1)]
    assert {path.name for path in read} == {"scorer-0-segment"}
    assert records[0]["measured"].keys() == {"sft_logp"} and len(records[1]["measured"]) == 3
    assert records[0]["measured"]["sft_logp"] == records[1]["measured"]["sft_logp"], (
        "the same weights, the same answers"
    )

    runs = [r | {"dataset": "testbed"} for r in records]
    changed = {**runs[1]["params"], "profile": runs[1]["params"]["profile"] | {"lam": 0.8}}
    joined = claims.joined([runs[1], runs[1] | {"params": changed}], records)
    assert [r["measured"] for r in joined] == [records[1]["measured"], {}]
    assert claims._read(joined[0], "measured.misspelt_test", 2.0) == records[1]["measured"]["misspelt_test"]
    with pytest.raises(SystemExit):
        L.main("brief", "0", out, tmp_path / "nowhere")
