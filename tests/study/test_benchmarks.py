"""Benchmarks: a task whose answer stands at one place, a question with two right answers, a harness that reads another
prompt than the model was trained on."""

import importlib.util
import shutil

import pytest
import torch

from densereward.text.models import load_causal_lm, tiny_llama
from densereward.text.tokens import tokenize_prompt
from report.published import load_published
from study.cache import save_json
from study.measures import benchmarks as b
from study.measures import tax_records
from study.profiles import models_folder, profile
from study.records import read_records
from study.run import Run
from testbed import build, oracle

WORLD = profile("cpu").world


@pytest.fixture(scope="module")
def sft():
    model, tokenizer = load_causal_lm(models_folder("cpu") / "sft")
    return model.eval(), tokenizer


@pytest.mark.parametrize("paper, table", [("segment-ppo", 7), ("adaptive-mask", 1)])
def test_every_row_of_the_papers_tables_has_its_task(paper, table):
    printed = load_published(paper, table)
    names = set(printed["column" if paper == "segment-ppo" else "row"]) - {"Average", "AVG"}
    found = b.papers(paper)
    assert set(found.row) == names and set(found.table) == {table} and (found.shots >= 0).all()
    assert set(found[found.task == ""].row) <= {"Chinese / C3"}
    with pytest.raises(ValueError, match="no benchmarks of paper 'tlcr'; choose segment-ppo or adaptive-mask"):
        b.papers("tlcr")


def test_a_question_has_one_right_answer_by_the_oracle_wherever_it_stands():
    asked = b.questions(WORLD, 200)
    assert {q["right"] for q in asked} == set(range(b.CHOICES))
    for q in asked:
        worth = [oracle.true_return(q["prompt"], text) for text in q["choices"]]
        assert max(worth) == worth[q["right"]] > sorted(worth)[-2] and len(set(q["choices"])) == b.CHOICES
    assert asked == b.questions(WORLD, 200) != b.questions(WORLD, 200, seed=1)


def test_a_trained_model_knows_and_an_untrained_one_guesses(sft):
    model, tokenizer = sft
    asked = b.questions(WORLD, 100)
    known = b.accuracy(model, tokenizer, asked)
    assert known["accuracy"] > 0.9 and known["chance"] == 0.25 and known["n"] == 100
    torch.manual_seed(0)
    guessed = b.accuracy(tiny_llama(tokenizer, width=16, layers=1).eval(), tokenizer, asked)
    assert guessed["accuracy"] < 0.6
    assert b.accuracy(model, tokenizer, asked, batch_size=7) == known, "padding changes nothing"


def test_what_a_greedy_answer_names_is_what_generate_writes(sft):
    model, tokenizer = sft
    asked = b.questions(WORLD, 6)
    rows = [tokenize_prompt(tokenizer, build.messages(q["prompt"])) for q in asked]
    shares = []
    for q, ids in zip(asked, rows):
        one = torch.tensor([ids])
        found = model.generate(one, attention_mask=torch.ones_like(one), max_new_tokens=b.LONGEST, do_sample=False)
        text = tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True)
        shares.append(oracle.summary(q["prompt"], text)["covered"])
    told = b.covered(model, tokenizer, asked, batch_size=4)
    assert told["accuracy"] == pytest.approx(sum(shares) / 6) and 0 < told["accuracy"] <= 1 and told["n"] == 6


def manifest(stages, method, seed, **changes):
    """A trained policy's folder as a stage leaves it, its weights those of the committed SFT model."""
    run = Run(profile("small"), seed=seed, root=stages.parent)
    key = run.key("width", "lam") | {"method": {"name": method}}
    key["profile"] |= changes
    folder = stages / f"ppo-{method}{seed}{len(changes)}"
    shutil.copytree(models_folder("cpu") / "sft", folder / "policy")
    made = {"name": "ppo", "key": key, "hash": folder.name.ljust(12, "0"), "provenance": {"commit": "c"}}
    save_json(folder / "manifest.json", made)


def test_the_tax_is_of_policies_of_this_profile_and_of_rows_with_every_seed(tmp_path, monkeypatch):
    """A policy at another lambda, or a row of one seed, would else stand in the table as if it were the row."""
    stages, out = tmp_path / "stages", tmp_path / "tax.jsonl"
    stages.mkdir()
    for seed in (0, 1):
        manifest(stages, "bandit", seed)
        manifest(stages, "token", seed, lam=0.8)
    manifest(stages, "segment", 0)
    manifest(stages, "old", 0, no_such_field=1)
    monkeypatch.setattr(tax_records, "ASKED", 4)
    tax_records.main("small", "0,1", out, tmp_path)
    records = read_records(out)
    assert [(r["method"], r["seed"], r["policy"]["stage"][:10]) for r in records] == [
        ("bandit", 0, "ppo-bandit"),
        ("bandit", 1, "ppo-bandit"),
    ]
    assert set(records[0]["tasks"]) == set(b.LOCAL) and records[0]["tasks"][b.LOCAL[0]]["n"] == 4
    with pytest.raises(SystemExit):
        tax_records.main("small", "0,1,2", out, tmp_path)


def test_without_the_harness_the_mend_is_told(sft, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"install lm-evaluation-harness \(pip install -e '.\[bench\]'\)"):
        b.evaluate(*sft, {"arc_easy": 0})


@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: its call is not tried"
)
def test_the_harness_finds_what_we_find_on_the_local_tasks(sft, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    for model in (sft[0], tiny_llama(sft[1], width=16, layers=1).eval()):
        asked = b.questions(WORLD, 40)
        folder = b.write_tasks(tmp_path / "tasks", asked)
        found = b.evaluate(model, sft[1], {b.LOCAL[0]: 0}, include=folder).set_index("metric")
        assert found.value["acc"] == b.accuracy(model, sft[1], asked)["accuracy"]
        found = b.evaluate(model, sft[1], {b.LOCAL[1]: 0}, include=folder).set_index("metric")
        assert found.value["covered"] == pytest.approx(b.covered(model, sft[1], asked)["accuracy"])
    found = b.evaluate(*sft, dict.fromkeys(b.LOCAL, 0), include=folder, limit=2)
    assert set(found.task) == set(b.LOCAL) and found[found.metric == "covered"].value.between(0, 1).all()
