"""A model tried as reviser and judge: a wrong pick, a reply of no use that counts, a text in the record."""

import json
import math

import pytest

from densereward.labels.replies import Reply
from densereward.labels.revision_prompt import END, START
from densereward.text import data
from densereward.text.models import load_causal_lm
from study.measures import asked, label_cost, weighed
from study.profiles import models_folder
from study.records import ROOT, read_records
from test_llm import completion

GOOD, BAD = "Yes, it is four.", "I like trains."


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "llmbar").mkdir()
    items = [{"input": f"{i}?", "output_1": a, "output_2": b, "label": n}
             for i, (a, b, n) in enumerate([(GOOD, BAD, 1), (BAD, GOOD, 2), ("x" * 2000, BAD, 1)])]  # fmt: skip
    (tmp_path / "llmbar" / "Natural.dataset.json").write_text(json.dumps(items))
    human = "\n\nHuman: two and two?\n\nAssistant: "
    rows = [{"chosen": f"{human}{GOOD}", "rejected": f"{human}{BAD} {i}"} for i in range(2)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def tried(folders, name: str) -> dict:
    out = folders / f"{name}.jsonl"
    asked.main(name, folders / "pairs.jsonl", folders / "llmbar", 0, out, folders / "cache")
    return read_records(out)[0]


def test_a_good_model_is_told_from_one_that_takes_what_is_shown_first(endpoint, folders):
    def good(body) -> str:
        text = body["messages"][-1]["content"]
        if START in text:
            return completion(f"{START}\nI like four.\n{END}" if " 0" in text else "no markers")
        a = text.find(GOOD) < text.find(BAD)
        return completion(f'{{"judge": "[{"A" if a else "B"}]"}} [[{"A" if a else "B"}]]')

    endpoint.reply = good
    found = tried(folders, "good")
    made = found["revisions"]
    assert (made["read"], made["revised"], made["failed: markers"]) == (2, 1, 1)
    assert (made["words"], made["taken_out"]) == (4, 2), "'I like trains. 0' to 'I like four.'"
    assert made["usable"][0] == 0.5 and made["usable"][1] < 0.5 < made["usable"][2]
    for row in found["verdicts"]:
        assert (row["items"], row["asked"], row["picked"], row["right"][0]) == (2, 4, 4, 1), "the long item is left out"
        assert row["shown_first"][0] == 0.5 and row["position"]["reversed"] == 0 and row["right_of_all"][0] == 1
    assert not any(text in json.dumps(found) for text in (GOOD, BAD, "two and two"))

    endpoint.reply = lambda body: completion('{"judge": "[A]"} [[A]]')
    for row in tried(folders, "lazy")["verdicts"]:
        assert (row["right"][0], row["shown_first"][0], row["position"]["reversed"]) == (0.5, 1, 2)
    endpoint.reply = lambda body: completion("who knows [[C]]")
    json_judge, pairs = tried(folders, "silent")["verdicts"]
    assert json_judge["unreadable"] == 4 and json_judge["right"] == [] and json_judge["right_of_all"][0] == 0
    assert pairs["read"] == 4 and pairs["picked"] == 0, "a tie is read, and picks neither"


def test_a_judge_is_qualified_on_as_many_items_of_the_set_that_was_asked_for(endpoint, folders, capsys):
    """Of fifteen short ones nobody learns how a judge does on the adversarial ones."""
    items = json.loads((folders / "llmbar" / "Natural.dataset.json").read_text())
    (folders / "llmbar" / "Adversarial_Manual.dataset.json").write_text(json.dumps(items * 6))
    endpoint.reply = lambda body: completion("[[A]]")
    given = ("m", folders / "pairs.jsonl", folders / "llmbar", 0, folders / "out.jsonl", folders / "cache")
    asked.main(*given, items=16, of="Adversarial_Manual", longest=9999, tokens=300)
    (record,) = read_records(folders / "out.jsonl")
    assert [row["items"] for row in record["verdicts"]] == [16, 16] and record["set"] == "Adversarial_Manual"
    assert endpoint.requests[-1]["max_tokens"] == 300
    with pytest.raises(SystemExit):
        asked.main(*given, longest=3)
    assert "no item of Natural has at most 3 characters" in capsys.readouterr().err


def test_a_model_that_always_takes_the_first_letter_is_half_right(folders, monkeypatch):
    """And one that knows is right in both orders: which output stands for which letter must not be lost."""
    model, tokenizer = load_causal_lm(models_folder("cpu") / "sft")
    items = json.loads((folders / "llmbar" / "Natural.dataset.json").read_text())[:2]

    def told(good: bool):
        def ask(self, messages):
            text = messages[-1]["content"]
            p = 0.9 if not good or text.find(GOOD) < text.find(BAD) else 0.1
            self.first.append(p)
            return Reply(json.dumps([{"m": math.log(p), "M": math.log(1 - p)}]))

        return ask

    with monkeypatch.context() as patch:
        patch.setattr(weighed.Letters, "ask", told(good=False))
        lazy = weighed.measured(model, tokenizer, items)
        patch.setattr(weighed.Letters, "ask", told(good=True))
        good = weighed.measured(model, tokenizer, items)
    assert (lazy["right"][0], lazy["shown_first"][0], lazy["same"][0]) == (0.5, 1, 0)
    assert (good["right"][0], good["shown_first"][0], good["same"][0]) == (1, 0.5, 1)
    out = folders / "weighed.jsonl"
    weighed.main(models_folder("cpu") / "sft", folders / "llmbar", 0, out)
    record = read_records(out)[0]
    assert record["items"] == 2 and 0 < record["probability_of_first"] < 1, "a model is read for real"


def test_what_labels_cost_counts_every_pair(tmp_path):
    out, sample = tmp_path / "cost.jsonl", ROOT / "data" / "samples" / "hh_rlhf.jsonl"
    label_cost.main(sample, models_folder("cpu") / "sft", out)
    record = read_records(out)[0]
    assert record["pairs"] == record["report"]["read"] == len(data.read_pairs(sample)[0])
    assert record["report"]["kept"] and record["tokens"] == sum(record["report"][x] for x in
                                                                ("negative", "neutral", "positive"))  # fmt: skip
    assert set(record["seconds"]) == {"tokenise", "revise", "label"} and record["provenance"]["peak_rss_mib"] > 0


def test_the_labels_page_says_what_the_record_of_their_cost_holds():
    record = read_records(ROOT / "data/results/label_cost.jsonl")[-1]
    page = " ".join((ROOT / "book" / "labels.md").read_text().split())
    assert (record["pairs"], record["report"]["kept"]) == (1000, 1000)
    seconds = record["seconds"]
    assert f"takes {seconds['tokenise']:.1f} seconds" in page
    assert f"comparing and labelling {seconds['label']:.1f} (" in page
