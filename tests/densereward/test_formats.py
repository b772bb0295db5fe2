"""Preference data as others release it: which pairs come of which records, from files and from the hub."""

import json
from dataclasses import replace

import datasets
import pytest
from datasets import Dataset

from densereward.text import data, formats
from report import parameters
from study import identity, runner
from study.records import ROOT

SAMPLES = ROOT / "data" / "samples"
KEPT = {  # pairs, and records or steps that make none
    "preference_700k": (3, 0),
    "ultrafeedback": (2, 1),
    "ultrafeedback_binarized": (3, 0),
    "helpsteer": (1, 1),
    "prm800k": (3, 1),
    "full_hh_rlhf": (3, 0),
}
EGG = {"prompt": [{"role": "user", "content": "How long do I boil an egg?"}]}
EGG |= {"chosen": [{"role": "assistant", "content": "Six minutes for a soft yolk, ten for a firm one."}]}
EGG |= {"rejected": [{"role": "assistant", "content": "Eggs come from hens."}]}


@pytest.mark.parametrize("name", KEPT)
def test_every_schema_becomes_pairs_from_lines_and_from_parquet(name, tmp_path):
    pairs, report = data.read_pairs(SAMPLES / f"{name}.jsonl")
    assert (report.kept, report.unrated) == KEPT[name] and report.read == sum(KEPT[name])
    if name == "ultrafeedback":  # the worst of three answers, not the one beside the best
        assert pairs[0] == EGG | {"rejected": [{"role": "assistant", "content": "I do not know."}]}
    elif name != "prm800k":
        assert pairs[0] == EGG
    Dataset.from_json(str(SAMPLES / f"{name}.jsonl")).to_parquet(tmp_path / "rows.parquet")
    assert data.read_pairs(tmp_path)[0] == pairs, "a folder with a .parquet file holds the same"


def test_steps_are_compared_behind_what_the_solution_went_on_with():
    pairs, _ = data.read_pairs(SAMPLES / "prm800k.jsonl")
    said = [[pair[side][0]["content"].split("\n") for side in ("chosen", "rejected")] for pair in pairs]
    first, second, behind_a_person = said
    assert first == [["Multiplication comes first: 3 * 4 = 12."], ["From left to right: 2 + 3 = 5."]]
    assert second == [[*first[0], "So 2 + 12 = 14."], [*first[0], "So 2 + 12 = 15."]]
    assert behind_a_person[0] == ["Let us count the sides.", "A hexagon has six sides.", "The answer is 6."]


def test_columns_of_another_name_are_mapped(tmp_path):
    rows = [
        {"q": "Hi?", "good": "Hello.", "bad": "No.", "chosen": "other"},
        {"q": "Bye?", "good": "Bye.", "bad": "No."},
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    pairs, _ = data.read_pairs(tmp_path / "rows.parquet", columns)
    assert [pair["chosen"][0]["content"] for pair in pairs] == ["Hello.", "Bye."]
    with pytest.raises(ValueError, match="rows.parquet, line 1, field 'worse': missing, there is .*; name another"):
        data.read_pairs(tmp_path / "rows.parquet", columns | {"rejected": "worse"})


def test_the_study_and_notebooks_take_columns_and_a_run_is_known_by_them(tmp_path):
    """Such data had to be rewritten to be trained on; under two mappings they are two data sets."""
    rows = [{"q": f"How old is the owl {i}?", "good": f"It is {i}.", "bad": "Old."} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    mapped = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    given = ("smoke", "bandit", "0", str(tmp_path / "rows.jsonl"), tmp_path / "runs", 0.0, "{}", False)
    (run,) = runner.asked(*given, columns=json.dumps(mapped))
    first = run.splits(preference=1)["preference"][0]
    assert first["prompt"][0]["content"].startswith("How old") and first["chosen"][0]["content"].startswith("It is")
    (turned,) = runner.asked(*given, columns=json.dumps(mapped | {"chosen": "bad", "rejected": "good"}))
    assert run.key() != turned.key() and identity.parameters(run)["columns"] == mapped
    assert not identity.same(identity.parameters(run), identity.parameters(turned))
    assert "columns" not in identity.parameters(replace(run, columns="")), "records without stay as they were"
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1, field 'worse': missing"):
        runner.asked(*given, columns='{"rejected": "worse"}')
    for text in ("{", "[1]", '{"chosen": 1}'):
        with pytest.raises(ValueError, match="^columns is .*; give our names and those in the files as JSON") as told:
            runner.asked(*given, columns=text)
        assert "\n" not in str(told.value)


def test_what_is_broken_is_named_with_its_place(tmp_path):
    good = (SAMPLES / "ultrafeedback.jsonl").read_text().splitlines()
    (tmp_path / "a.jsonl").write_text(good[0] + "\n\n" + good[1].replace("overall_score", "score") + "\n")
    with pytest.raises(ValueError, match="a.jsonl, line 3, whole record: no 'overall_score', which a record of Ultra"):
        data.read_pairs(tmp_path / "a.jsonl")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(ValueError, match="b.parquet, line 1: cannot be read .*; fetch the file again"):
        data.read_pairs(tmp_path / "b.parquet")


def test_a_name_on_the_hub_is_read_once_and_is_one_error_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match="'some/pairs' does not exist here, and is not to be had from the hub .*; give"
    ):
        data.read_pairs("some/pairs")
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return Dataset.from_json(str(SAMPLES / "preference_700k.jsonl"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for _ in range(2):
        assert data.read_pairs("some/pairs")[0][0] == EGG
    assert asked == [("some/pairs", "train")] and parameters._dataset("some/pairs") == "some/pairs"
    assert not any(map(formats.is_hub_name, ("testbed", "data/samples", "a/b/c", "./a/b", "/a/b", "no/such.jsonl")))


def test_two_processes_that_fetch_one_data_set_do_not_write_over_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows, write = Dataset.from_json(str(SAMPLES / "preference_700k.jsonl")), Dataset.to_parquet

    def slowly(self, path):
        monkeypatch.setattr(Dataset, "to_parquet", write)
        write(self, path)
        formats.from_hub("some/pairs")  # the other process fetches it and is done first

    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows)
    monkeypatch.setattr(Dataset, "to_parquet", slowly)
    file = formats.from_hub("some/pairs")
    assert len(list(formats.records(file))) == len(rows) and [file] == list(file.parent.iterdir())
