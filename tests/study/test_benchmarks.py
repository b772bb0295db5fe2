"""Benchmarks: a task whose answer stands at one place, a question with two right answers, a harness that reads another
prompt than the model was trained on."""

import importlib.util

import pytest
import torch

from densereward.text.models import load_causal_lm, tiny_llama
from report.published import load_published
from study.measures import benchmarks as b
from study.profiles import models_folder, profile
from testbed import oracle

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
    found = b.evaluate(*sft, dict.fromkeys(b.LOCAL, 0), include=folder, limit=2)
    assert set(found.task) == set(b.LOCAL) and found[found.metric == "covered"].value.between(0, 1).all()
