"""Edit labels beside human error spans: exact on answers counted by hand, and above controls that know nothing."""

import copy
import gzip
import json
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer
from tokenizers.normalizers import Lowercase
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from study.measures.edit_labels import ALIGNMENTS, edited
from study.measures.human_spans import agreement, in_spans, main, read
from study.profiles import models_folder
from study.records import ROOT, read_records

SHARED = Path(__file__).parents[3] / "shared" / "data"
WORDS = "the fox ate two red plums today"
EMOJI = {"answer": "the fox ate 🎉 red plums", "corrected": "the fox ate plums", "missing": 0}
EMOJI["spans"] = [(4, 7, "Irrelevant"), (12, 13, "Redundant")]  # "fox" and the emoji


@pytest.fixture(scope="module")
def words():
    """A tokenizer whose tokens are the words of WORDS with the space before them; all else is bytes."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([WORDS] * 9, vocab_size=400, special_tokens=["<|end|>"], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|end|>")


def released(name: str) -> PreTrainedTokenizerFast:
    folder = SHARED / "tokenizers" / name
    if not folder.exists():
        pytest.skip(f"no tokenizer at {folder}")
    if name == "gpt2":
        bpe = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    return AutoTokenizer.from_pretrained(folder)


def test_precision_and_recall_are_those_counted_by_hand(words):
    tokens = words.convert_ids_to_tokens(words(EMOJI["answer"])["input_ids"])
    assert tokens == ["the", "Ġfox", "Ġate", "Ġ", "ð", "Ł", "İ", "ī", "Ġred", "Ġplums"]
    found = agreement([EMOJI] * 3, words, 0)
    # out go the space, four bytes and " red"; in spans are " fox", which begins before its span, and the four bytes
    assert (found["answers"], found["tokens"], found["negative"], found["base"]) == (3, 30, 18, 0.5)
    assert found["edit"] == {"precision": (4 / 6,) * 3, "recall": (4 / 5,) * 3, "f1": (8 / 11,) * 3}
    assert found["all"] == {"precision": (0.5,) * 3, "recall": (1.0,) * 3, "f1": (2 / 3,) * 3}
    assert found["blocks"] == found["edit"], "where one word after another goes, there is one way to match the rest"
    by_type = {kind: (of["spans"], of["edit"]["recall"][0], of["edit"]["half"]) for kind, of in found["types"].items()}
    assert by_type == {"Irrelevant": (3, 0.0, 0.0), "Redundant": (3, 1.0, 1.0)}
    assert found["missed"] == {" fox": 3}


def test_a_token_is_in_a_span_if_they_share_a_character():
    gpt2 = released("gpt2")
    ids = [*gpt2("a 🎉 bee")["input_ids"], gpt2.eos_token_id]
    assert gpt2.convert_ids_to_tokens(ids) == ["a", "ĠðŁ", "İ", "ī", "Ġbee", "<|endoftext|>"]
    spans = [(2, 3), (1, 2), (4, 5), (3, 4), (0, 1), (0, 7)]  # the emoji, the space before it, "b", its space, "a", all
    text, real, inside = in_spans(gpt2, ids, spans)
    assert text == "a 🎉 bee" and real.tolist() == [True] * 5 + [False]
    of = [[1, 2, 3], [1], [4], [4], [0], [0, 1, 2, 3, 4]]
    assert [[i for i, x in enumerate(row) if x] for row in inside] == of
    assert in_spans(gpt2, ids, [])[2].shape == (0, 6)


def test_what_is_dropped_is_counted_with_its_reason(words):
    none, same = EMOJI | {"corrected": " "}, EMOJI | {"corrected": EMOJI["answer"] + " "}
    out = EMOJI | {"spans": [*EMOJI["spans"], (19, 999, "Irrelevant"), (5, 5, "Irrelevant"), (-1, 2, "Irrelevant")]}
    found = agreement([none, same, out], words, 0)
    assert found["dropped"] == {"empty": 1, "identical": 1, "span out of range": 3} and found["spans"] == 2
    assert found["edit"]["recall"][0] == 4 / 5
    respelt = EMOJI | {"answer": EMOJI["answer"].upper()}  # a tokenizer that rewrites texts moves what spans count
    lower = copy.deepcopy(words)
    lower.backend_tokenizer.normalizer = Lowercase()
    assert agreement([respelt, EMOJI], lower, 0)["dropped"] == {"respelt": 1}
    with pytest.raises(ValueError, match=r"no answer is left \(dropped: {'empty': 1}\); give"):
        agreement([none], words, 0)


def test_answers_without_an_error_have_no_recall(words):
    found = agreement([EMOJI | {"spans": []}, EMOJI | {"spans": [], "corrected": EMOJI["answer"] + " today"}], words, 0)
    assert (found["negative"], found["base"], found["types"], found["edit"]["precision"][0]) == (6, 0, {}, 0)
    assert str(found["edit"]["recall"]) == "(nan, nan, nan)"


def test_a_block_stays_whole_where_the_fewest_edits_break_it(words):
    """Two words out before "ate" and two in behind it: to replace three words is one edit fewer, and loses "ate"."""
    row = {"answer": "the fox two ate", "corrected": "the ate red plums", "spans": [(4, 11, "Irrelevant")]}
    found = agreement([row], words, 0)
    assert found["edit"]["precision"][0] == 2 / 3 and found["blocks"]["precision"][0] == 1
    assert found["edit"]["recall"][0] == found["blocks"]["recall"][0] == 1


def test_random_negatives_are_right_at_the_base_rate(words):
    whole = " ".join([WORDS] * 3)
    rows = [
        {"answer": whole, "corrected": whole[cut:], "spans": [(0, to, "Irrelevant")], "missing": 0}
        for cut in (8, 12, 24) for to in (3, 30, 60)
    ]  # fmt: skip
    found = agreement(rows * 60, words, 1)
    assert found["random"]["precision"][1] < found["expected"] < found["random"]["precision"][2]
    assert found["all"]["recall"] == (1, 1, 1) and found["all"]["precision"][0] == pytest.approx(found["base"])
    assert found == agreement(rows * 60, words, 1) and found["random"] != agreement(rows * 60, words, 2)["random"]
    assert found["edit"] == agreement(rows * 60, words, 1)["edit"]


def record(**other) -> dict:
    error = {"start": 0, "end": 3, "error type": "Irrelevant", "explanation": ""}
    said = {"errors": [error], "missing-info": [{}], "corrected-prediction": "fox"}
    return {"prediction 1": "the fox", "feedback": said | other}


def test_records_are_read_and_bad_ones_named_with_their_line(tmp_path):
    file = tmp_path / "feedback.json.gz"

    def write(text: str):
        with gzip.open(file, "wt", encoding="utf-8") as out:
            out.write(text)

    write(json.dumps([record(), record()], indent=1))
    row = {"answer": "the fox", "corrected": "fox", "spans": [(0, 3, "Irrelevant")], "missing": 1}
    assert read(file) == [row] * 2
    second = json.dumps([record()], indent=1).count("\n") + 1
    write(json.dumps([record(), {"feedback": record()["feedback"]}], indent=1))
    with pytest.raises(ValueError, match=rf"gz: line {second}: record 1: no field 'prediction 1'; mend the record, or"):
        read(file)
    write(json.dumps([record(**{"corrected-prediction": None})]))
    with pytest.raises(ValueError, match="line 1: record 0: 'prediction 1' and 'corrected-prediction' are texts"):
        read(file)
    write(json.dumps([record(errors=[{"start": "0", "end": 3, "error type": "Irrelevant"}])]))
    with pytest.raises(ValueError, match="line 1: record 0: 'start' and 'end' are whole numbers"):
        read(file)
    for text, match in (("{}", "line 1: no list; write"), ("[\n[", r"no JSON \(.*line 2"), ("", "download it again")):
        write(text)
        with pytest.raises(ValueError, match=match):
            read(file)
    file.write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"gz: no JSON \(Not a gzipped file"):
        read(file)


@pytest.mark.parametrize("name", ["gpt2", "phi-3-mini", "qwen2.5"])
def test_edits_of_people_find_what_people_marked(name):
    path = SHARED / "finegrained_rlhf" / "dev_feedback.json.gz"
    if not path.exists():
        pytest.skip(f"no feedback at {path}")
    found = agreement(read(path), released(name), 0)
    assert (found["answers"], found["spans"], found["dropped"]) == (481, 1337, {"empty": 13, "identical": 6})
    edit, placed, every = found["edit"], found["random"], found["all"]
    assert 0.8 < edit["precision"][0] < 0.95 and 0.8 < edit["recall"][0] < 0.95
    assert edit["precision"][1] > placed["precision"][2] and edit["f1"][1] > every["f1"][2] > placed["f1"][0]
    assert placed["precision"][1] < found["expected"] < placed["precision"][2] and every["recall"][0] == 1
    assert found["blocks"]["precision"][1] > edit["precision"][2]
    assert all(of["edit"]["recall"][0] > of["random"]["recall"][0] for of in found["types"].values())


def test_the_command_writes_a_record_of_each_tokenizer_and_no_word_of_the_answers(tmp_path):
    """Missed words are text of other people's data, and the record is published."""
    errors = [{"start": a, "end": b, "error type": kind} for a, b, kind in EMOJI["spans"]]
    said = {"errors": errors, "corrected-prediction": EMOJI["corrected"], "missing-info": []}
    (tmp_path / "feedback.json").write_text(json.dumps([{"prediction 1": EMOJI["answer"], "feedback": said}] * 2))
    main(tmp_path / "feedback.json", [str(models_folder("cpu") / "sft")], 0, tmp_path / "out.jsonl")
    (record,) = read_records(tmp_path / "out.jsonl")
    published = json.loads((ROOT / "data" / "results" / "human_spans.jsonl").read_text().splitlines()[0])
    assert record.keys() == published.keys() and (record["tokenizer"], record["answers"]) == ("sft", 2)
    assert "fox" not in json.dumps(record) and record["edit"]["recall"][0] > record["random"]["recall"][0]


def test_the_pages_sentences_are_those_of_the_record():
    root = Path(__file__).parents[2]
    page = (root / "book" / "labels.md").read_text()
    records = [json.loads(line) for line in (root / "data" / "results" / "human_spans.jsonl").read_text().splitlines()]
    for name, of, gain in (("precision", "blocks", 0.06), ("recall", "blocks", 0.02)):
        assert all(abs(r[of][name][0] - r["edit"][name][0] - gain) < 0.006 for r in records) and f"{gain:g}" in page
    for r in records:  # "nearly as much in precision, and nothing in recall"
        assert abs(r["indel"]["precision"][0] - r["edit"]["precision"][0] - 0.05) < 0.006
        assert abs(r["indel"]["recall"][0] - r["edit"]["recall"][0]) < 0.01
    assert "is 0.63 for each tokenizer" in page and {round(r["expected"], 2) for r in records} == {0.63}


def test_what_the_page_says_of_parts_of_the_answers_is_so_today():
    """Numbers of the page that no record holds: those of answers with and without omissions, of answers without an
    error, of missed words; and where spans count characters of another text."""
    path = SHARED / "finegrained_rlhf" / "dev_feedback.json.gz"
    if not path.exists():
        pytest.skip(f"no feedback at {path}")
    rows, gpt2 = read(path), released("gpt2")
    page = (Path(__file__).parents[2] / "book" / "labels.md").read_text()
    gains = []
    for of in ([r for r in rows if r["missing"]], [r for r in rows if not r["missing"]]):
        found = agreement(of, gpt2, 0)
        gains.append(found["blocks"]["precision"][0] - found["edit"]["precision"][0])
    assert gains[0] > 0.05 > 0.03 > gains[1] and "largest where people also added what was missing" in page
    none = agreement([r for r in rows if not r["spans"]], gpt2, 0)
    assert f"of {none['answers']} that are corrected" in page
    assert f"{none['negative']} of {none['tokens']:,} tokens go" in page
    missed = agreement(rows, gpt2, 0)["missed"]
    assert f"{100 * sum(missed[x] for x in (' the', '.', ',')) / missed.total():.0f}% of the missed tokens" in page


def test_other_ways_to_count_edits_keep_what_both_share():
    """A replacement costs one edit, a move two: what comes back further on is kept only where none is allowed."""
    one, other = [1, 2, 3, 4, 5], [9, 2, 8, 7, 3, 5]
    for name in ALIGNMENTS:
        for here, there in ((one, other), (other, one), (one, one), (one, [6])):
            mine, theirs = edited(name, here, there)
            kept = [[x for x, out in zip(ids, mask) if not out] for ids, mask in ((here, mine), (there, theirs))]
            assert kept[0] == kept[1], "what stays is the same on either side, in the same order"
    assert not edited("edit", one, one)[0].any() and edited("blocks", one, [6])[0].all()
    kept = {name: int((~edited(name, [1, 2, 3, 4, 5], [2, 3, 4, 9, 5])[0]).sum()) for name in ALIGNMENTS}
    assert kept["indel"] == 4 >= kept["edit"], "the longest common subsequence"
