"""Preference data: what is kept, dropped or refused, who ends up in which split, and which token ids come out."""

import gzip
import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from densereward.text import data, models, tokens
from study.cache import load_json
from study.profiles import models_folder, profile
from study.run import Run
from study.stages import preferences, sft
from testbed import build, world

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "data" / "samples" / "hh_rlhf.jsonl"
HH = ROOT.parent / "shared" / "data" / "hh_rlhf"  # real data lie beside the checkout, or nowhere
PHI3 = ROOT.parent / "shared" / "data" / "tokenizers" / "phi-3-mini"

USER, BOT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
GOOD = {"chosen": "\n\nHuman: hi\n\nAssistant: hello", "rejected": "\n\nHuman: hi\n\nAssistant: go away"}


def says(role: str, content: str) -> dict:
    return {"role": role, "content": content}


SYSTEM, LONG = says("system", "Be brief."), "What is the best way to boil an egg, and why?"


def write(folder: Path, *records, name: str = "pairs.jsonl") -> Path:
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    blob = b"\n".join(lines) + b"\n"
    (folder / name).write_bytes(gzip.compress(blob) if name.endswith(".gz") else blob)
    return folder / name


def pair_of(record: dict) -> tuple[dict | None, data.Report]:
    report = data.Report()
    return data.to_pair(record, report), report


@pytest.fixture(scope="module")
def pairs():
    return data.read_pairs(SAMPLES)[0]


@pytest.fixture(scope="module")
def tokenizer(pairs):
    return models.build_tokenizer([m["content"] for p in pairs for m in p["prompt"] + p["chosen"] + p["rejected"]], 400)


# ---- records ----


def test_samples_hold_one_of_each_defect_and_the_report_adds_up():
    pairs, report = data.read_pairs(SAMPLES)
    found = {name: n for name, n in asdict(report).items() if n}
    assert found == {
        "read": 32,
        "kept": 28,
        "identical": 1,
        "early_divergence": 1,
        "not_a_reply": 1,
        "empty": 1,
        "merged_turns": 1,
    }
    assert len(pairs) == 28
    assert str(report) == "read 32, kept 28, identical 1, early divergence 1, not a reply 1, empty 1, merged turns 1"


def test_neighbouring_turns_of_one_role_become_one_message_as_templates_want_alternating_roles(pairs):
    said = next(pair["prompt"] for pair in pairs if "planet" in pair["prompt"][0]["content"])
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert said[1]["content"] == "Let me think.\n\nSaturn, as far as I know."


def test_every_pair_has_one_shared_prompt_that_ends_with_the_user(pairs):
    for pair in pairs:
        roles = [message["role"] for message in pair["prompt"]]
        assert roles[-1] == "user" and all(a != b for a, b in zip(roles, roles[1:]))
        assert [m["role"] for m in pair["chosen"] + pair["rejected"]] == ["assistant"] * 2
        assert pair["chosen"] != pair["rejected"]
        assert all(m["content"] and m["content"] == m["content"].strip() for m in pair["prompt"] + pair["chosen"])


contents = st.text().map(str.strip).filter(lambda text: not data.TURN.search(text))


@given(st.lists(st.tuples(st.sampled_from(["Human", "Assistant"]), contents), min_size=1))
@example([("Human", "0\r\n0")])
def test_parsing_gives_back_the_turns_of_any_rendered_dialogue(turns):
    text = "".join(f"\n\n{name}: {said}" for name, said in turns)
    told = [(data.ROLES[name], said.replace("\r\n", "\n")) for name, said in turns]  # one kind of line end
    assert [(m["role"], m["content"]) for m in data.parse(text)] == told


def test_a_marker_within_a_line_or_after_one_newline_is_text():
    said = "Play it like this:\nHuman: knock knock\nAssistant: who is there? Human: me"
    assert data.parse(f"\n\nHuman: {said}\n\nAssistant: ok")[0]["content"] == said


@pytest.mark.parametrize(
    ("chosen", "rejected", "fate"),
    [
        (
            "\n\nHuman: a\n\nAssistant: b",
            "\n\nHuman: a\n\nAssistant: b ",
            "identical",
        ),  # blanks at the end do not count
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: x\n\nAssistant: c", "early_divergence"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "early_divergence"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c\n\nHuman: d", "not_a_reply"),
        ("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "\n\nHuman: a\n\nAssistant: b\n\nAssistant: d", "not_a_reply"),
        ("\n\nAssistant: b", "\n\nAssistant: c", "not_a_reply"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: ", "empty"),
        ("\n\nHuman: \n\nAssistant: b", "\n\nHuman: \n\nAssistant: c", "empty"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: \u200b\ufeff", "empty"),
    ],
)
def test_a_record_that_is_no_pair_is_counted_under_its_one_reason(chosen, rejected, fate):
    pair, report = pair_of({"chosen": chosen, "rejected": rejected})
    assert pair is None
    assert {name: n for name, n in asdict(report).items() if n} == {"read": 1, fate: 1}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
        {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " hello", "rejected": " go away"},
        {"prompt": [USER], "chosen": [BOT], "rejected": [{"role": "assistant", "content": "go away"}]},
        {"chosen": [USER, BOT], "rejected": [USER, {"role": "assistant", "content": "go away"}]},
        {"prompt": "hi", "chosen": [USER, BOT], "rejected": [USER, {"role": "assistant", "content": "go away"}]},
        {**GOOD, "margin": 2.5, "source": None},
        {"prompt": "Human: hi\n\nAssistant:", "chosen": "hello", "rejected": "go away"},
        {"prompt": "\r\n\r\nHuman: hi\r\n\r\nAssistant:", "chosen": " hello", "rejected": " go away"},
        {"prompt": "\n\nHuman: hi", "chosen": "\n\nAssistant: hello", "rejected": "\n\nAssistant: go away"},
        {
            "prompt": "Human: hi\n\nAssistant:",
            "chosen": [BOT],
            "rejected": [{"role": "assistant", "content": "go away"}],
        },
        {side: text.strip() for side, text in GOOD.items()},
        {side: text.replace("\n", "\r\n") for side, text in GOOD.items()},
        {**GOOD, "prompt": "hi"},
        {**GOOD, "prompt": " hi\n"},
        {**GOOD, "prompt": [USER]},
        {**GOOD, "prompt": "\n\nHuman: hi\n\nAssistant:"},
        {"prompt": "hi", "chosen": "Human: hi\n\nAssistant: hello", "rejected": "Human: hi\n\nAssistant: go away"},
        {**GOOD, "prompt": None},
        {**GOOD, "prompt": ""},
        {**GOOD, "prompt": []},
        {"prompt": "hi", "chosen": "hello", "rejected": "go away", "system": "", "history": [], "input": None},
    ],
)
def test_all_accepted_formats_give_the_same_pair(record):
    assert pair_of(record)[0] == pair_of(GOOD)[0]
    assert pair_of(GOOD)[0] == {
        "prompt": [USER],
        "chosen": [BOT],
        "rejected": [{"role": "assistant", "content": "go away"}],
    }


TURNS = [USER, says("assistant", "yes?"), says("user", "why?")]


@pytest.mark.parametrize(
    ("prompt", "before", "expected"),
    [
        ("hi", [SYSTEM, USER], [SYSTEM, USER]),
        ("why?", TURNS, TURNS),
        ("hi", TURNS, TURNS),
        ("why?", [SYSTEM, *TURNS], [SYSTEM, *TURNS]),
        (TURNS, TURNS, TURNS),
        (TURNS, [TURNS[-1]], TURNS),
        (TURNS, [], TURNS),
        ([SYSTEM, USER], [USER], [SYSTEM, USER]),
        ([SYSTEM, USER], [SYSTEM, USER], [SYSTEM, USER]),
        ([SYSTEM, *TURNS], [TURNS[-1]], [SYSTEM, *TURNS]),
        (TURNS[:2], [TURNS[2]], TURNS),
        ("\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: why?\n\nAssistant:", [SYSTEM, *TURNS], [SYSTEM, *TURNS]),
    ],
)
def test_a_prompt_that_the_answers_repeat_is_taken_once_and_in_its_place(prompt, before, expected):
    sides = {"chosen": [*before, BOT], "rejected": [*before, says("assistant", "go away")]}
    pair, report = pair_of({"prompt": prompt, **sides})
    assert pair["prompt"] == expected and pair["chosen"] == [BOT]
    assert report.prompts_repeated == (before not in ([], [TURNS[2]]) or before == [TURNS[2]] and prompt != TURNS[:2])


def test_a_column_for_the_system_turn_is_not_lost():
    for record in ({"prompt": "hi", "chosen": "hello", "rejected": "no"}, {**GOOD}, {"prompt": [SYSTEM, USER], **GOOD}):
        for name in ("system", "system_prompt"):
            assert pair_of({**record, name: " Be brief. "})[0]["prompt"] == [SYSTEM, USER]


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (b'{"chosen": "x", ', "whole record"),
        (b'{"chosen": "\xff"}', "whole record"),
        (["chosen", "rejected"], "whole record"),
        ({"chosen": GOOD["chosen"]}, "field 'rejected': missing"),
        ({**GOOD, "chosen": 7}, "field 'chosen'"),
        (b'{"chosen": NaN, "rejected": "x"}', "field 'chosen': found nan"),
        ({**GOOD, "rejected": None}, "field 'rejected': found None"),
        ({**GOOD, "rejected": "\n\nHuman: hi"}, "field 'rejected': no Assistant turn"),
        ({**GOOD, "rejected": "a reply alone"}, "field 'rejected': starts with"),
        ({**GOOD, "chosen": "text before\n\nHuman: hi\n\nAssistant: hello"}, "field 'chosen': starts with"),
        ({**GOOD, "chosen": []}, "field 'chosen': found []"),
        ({**GOOD, "chosen": [USER, {"role": "tool", "content": "x"}]}, "field 'chosen[1]'"),
        ({**GOOD, "chosen": [USER, {"role": "assistant", "content": [1]}]}, "field 'chosen[1].content'"),
        ({"prompt": 1.5, "chosen": "a", "rejected": "b"}, "field 'prompt'"),
        (
            b'{"chosen": "\\n\\nHuman: \\ud83d\\n\\nAssistant: a", "rejected": "x"}',
            "field 'chosen': half of a surrogate",
        ),
        (b'{"chosen": "x", "chosen": "y", "rejected": "z"}', "whole record: field 'chosen' stands there twice"),
        (b"[" * 100_000 + b"]" * 100_000, "whole record: nested too deeply"),
        (b'{"chosen": ' + b"9" * 5000 + b"}", "whole record: Exceeds the limit"),
        ({"prompt": " Human: hi Assistant:", "chosen": " hello", "rejected": " no"}, "field 'prompt': ' Human: hi"),
        (
            {"prompt": "Human: hi", "chosen": "hello", "rejected": "no"},
            "field 'prompt': 'Human: hi' holds a turn's name",
        ),
        (
            {"prompt": "Be kind.\n\nHuman: hi\n\nAssistant:", "chosen": "a", "rejected": "b"},
            "field 'prompt': 'Be kind.",
        ),
        (
            {"prompt": [says("user", "Human: hi\nAssistant:")], "chosen": "a", "rejected": "b"},
            "field 'prompt': 'Human: hi",
        ),
        (
            {"prompt": "hi", "chosen": "Assistant: a", "rejected": "Assistant: b"},
            "field 'chosen': 'Assistant: a' holds",
        ),
        (
            {"prompt": "ho", "chosen": GOOD["chosen"], "rejected": GOOD["rejected"]},
            "field 'chosen': begins with another",
        ),
        ({"prompt": "hi there", "chosen": [USER, BOT], "rejected": [USER, BOT]}, "field 'chosen': begins with another"),
        (
            {"prompt": LONG, "chosen": LONG + " a", "rejected": LONG + " b"},
            "field 'chosen': both replies repeat the prompt",
        ),
        ({"prompt": "hi", "chosen": "a", "rejected": "b", "history": [["q", "a"]]}, "field 'history': would be lost"),
        ({"prompt": "hi", "chosen": "a", "rejected": "b", "images": ["x.png"]}, "field 'images': would be lost"),
        ({"prompt": "hi", "chosen": "a", "rejected": "b", "system": 3}, "field 'system': found 3"),
        ({"prompt": [SYSTEM, USER], "chosen": "a", "rejected": "b", "system": "x"}, "field 'system': differs"),
        (
            {"prompt": [says("system", "x"), USER], "chosen": [SYSTEM, USER, BOT], "rejected": "b"},
            "field 'chosen': has another",
        ),
    ],
)
def test_a_malformed_record_stops_with_file_line_field_and_mend(tmp_path, record, field):
    """Rather than being learnt as something else than it says."""
    path = write(tmp_path, GOOD, b"", record, GOOD)
    with pytest.raises(ValueError) as error:
        data.read_pairs(path)
    message = str(error.value)
    assert message.startswith(f"{path}, line 3, {field}")
    assert "; " in message and "\n" not in message


def test_a_damaged_download_names_the_file_and_the_line(tmp_path):
    path = write(tmp_path, *[{**GOOD, "n": random.Random(i).random()} for i in range(2000)], name="cut.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz, line \d\d+: cannot be read .*fetch the file again"):
        data.read_pairs(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz, line 1: cannot be read"):
        data.read_pairs(path)


def test_a_folder_is_searched_to_the_bottom_and_other_files_are_left_alone(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    write(tmp_path / "a" / "b", GOOD, name="test.jsonl.gz")
    write(tmp_path, {**GOOD, "rejected": "\n\nHuman: hi\n\nAssistant: no"}, name="z.jsonl")
    write(tmp_path, b"not a record", name="LICENSE")
    pairs, report = data.read_pairs(tmp_path)
    assert [pair["rejected"][0]["content"] for pair in pairs] == ["go away", "no"] and report.kept == 2


def other(n: int) -> dict:
    return {**GOOD, "rejected": f"\n\nHuman: hi\n\nAssistant: no {n}"}


def test_equal_pairs_count_once_as_copies_would_shrink_every_standard_error(tmp_path):
    write(tmp_path, GOOD, other(1), {**GOOD, "id": 2}, {"prompt": "hi", "chosen": "hello ", "rejected": "go away"})
    (tmp_path / "train").mkdir()
    write(tmp_path / "train", GOOD, other(2))
    swapped = {"chosen": GOOD["rejected"], "rejected": GOOD["chosen"]}  # a label that disagrees is no copy
    write(tmp_path / "train", swapped, name="more.jsonl")
    pairs, report = data.read_pairs(tmp_path)
    assert (report.read, report.kept, report.duplicates) == (7, 4, 3) and len(pairs) == 4
    assert "duplicates 3" in str(report)


def test_linked_folders_are_read_once_and_hidden_files_are_not_data(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "data"
    elsewhere.mkdir()
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    write(elsewhere, GOOD, name="PAIRS.JSONL")
    write(folder, other(1))
    write(folder, b"\0\5\26\7", name="._pairs.jsonl")  # what macOS leaves beside a file
    write(folder / ".ipynb_checkpoints", other(2))
    (folder / "linked").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    pairs, report = data.read_pairs(folder)
    assert sorted(pair["rejected"][0]["content"] for pair in pairs) == ["go away", "no 1"]
    assert (report.read, report.duplicates, report.hidden_files) == (2, 0, 2) and "hidden files 2" in str(report)
    for name in ("gone.jsonl", "gone"):
        (folder / name).symlink_to(tmp_path / "nowhere")
        with pytest.raises(ValueError, match=f"{name}' is a link to nothing; mend or remove it"):
            data.read_pairs(folder)
        (folder / name).unlink()


def test_prompts_that_are_all_too_long_are_counted_with_the_mend():
    data.refuse_long_prompts([200, 12, 300], 128)
    data.refuse_long_prompts([], 128)
    with pytest.raises(ValueError, match=r"all 2 prompts exceed 128 tokens \(shortest 200.*raise max_prompt_length"):
        data.refuse_long_prompts([300, 200], 128)


def test_no_model_is_trained_for_prompts_that_are_all_too_long(tmp_path, monkeypatch):
    """It took the SFT model and a reward model to find out, and a division by zero to say so."""
    words = "word " * 300
    records = [{"prompt": f"{i} {words}", "chosen": f"yes {i}", "rejected": "no"} for i in range(80)]
    run = Run(profile("smoke"), dataset=str(write(tmp_path, *records)), root=tmp_path / "runs")
    work = pytest.fail
    monkeypatch.setattr(models, "tiny_llama", lambda *a, **k: work("a model was made"))
    why = r"all \d+ prompts exceed 64 tokens \(shortest \d\d\d.*raise max_prompt_length"
    with pytest.raises(ValueError, match=why):
        sft.sft_model(run)
    vars(run)["sft"] = models_folder("cpu") / "sft"
    monkeypatch.setattr(preferences, "with_entropies", lambda *a, **k: work("a model was run"))
    with pytest.raises(ValueError, match=why):  # with a model of the reader's own there is no SFT
        preferences.preferences(run)


def test_what_was_dropped_is_printed_and_kept_with_the_preferences(tmp_path, capsys):
    path = write(tmp_path, *[json.loads(line) for line in SAMPLES.read_text().splitlines()] * 2)
    run = Run(profile("smoke"), dataset=str(path), root=tmp_path / "runs")
    vars(run)["sft"] = models_folder("cpu") / "sft"
    made = run.preferences
    read = load_json(made.path / "report.json")["read"]
    assert (read["read"], read["kept"], read["duplicates"]) == (64, 28, 28)
    assert "data: read 64, kept 28, identical 2" in capsys.readouterr().out


def test_a_path_without_pairs_says_what_is_accepted(tmp_path):
    for path in (tmp_path / "nothing", tmp_path, write(tmp_path, GOOD, name="pairs.csv")):
        with pytest.raises(ValueError, match=r"give 'testbed', a \.jsonl, \.jsonl\.gz or \.parquet file, a folder"):
            data.load(str(path))
    with pytest.raises(ValueError, match="no usable pair .*identical 1"):
        data.read_pairs(write(tmp_path, {**GOOD, "rejected": GOOD["chosen"]}))


REAL = {  # totals as published; 36 identical pairs and 17 early divergences in all
    "helpful-base": {"read": 2354, "kept": 2339, "identical": 2, "early_divergence": 9, "empty": 4, "merged_turns": 6},
    "harmless-base": {"read": 2312, "kept": 2303, "early_divergence": 5, "empty": 4, "merged_turns": 4},
    "helpful-online": {"read": 1137, "kept": 1129, "identical": 2, "not_a_reply": 2, "empty": 4},
    "helpful-rejection-sampled": {"read": 2749, "kept": 2714, "identical": 32, "early_divergence": 3},
}


@pytest.mark.skipif(not HH.exists(), reason=f"no HH-RLHF test sets at {HH}")
def test_the_real_test_sets_are_read_and_counted():
    for name, expected in REAL.items():
        report = data.read_pairs(HH / name)[1]
        assert {key: n for key, n in asdict(report).items() if n} == expected, name
    parts, report = data.load(str(HH), seed=1)
    assert (report.read, report.kept, report.identical, report.early_divergence) == (8552, 8485, 36, 17)
    assert {name: len(part) for name, part in parts.items()} == {
        "sft": 1387, "preference": 2932, "ppo": 2928, "validation": 451, "test": 787, "gold": 2928
    }  # fmt: skip


def test_what_is_not_held_out_is_split_as_tlcr_splits_it():
    learnt = [data.SHARES[name] for name in ("sft", "preference", "ppo")]
    assert [share / sum(learnt) for share in learnt] == pytest.approx([0.2, 0.4, 0.4])
    assert sum(data.SHARES.values()) == pytest.approx(1) and min(data.SHARES.values()) >= 0.05


# ---- splits ----


def openings(split) -> set[str]:
    return {row["prompt"][0]["content"] for row in split}


def many(n: int) -> list[dict]:
    """n conversations, each judged after its first and after its second turn, as in HH-RLHF."""
    reply, other = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
    first = [[{"role": "user", "content": f"question {i}"}] for i in range(n)]
    second = [[*prompt, reply, {"role": "user", "content": "why?"}] for prompt in first]
    return [{"prompt": prompt, "chosen": [reply], "rejected": [other]} for prompt in first + second]


def test_no_conversation_is_in_two_splits_and_none_is_lost():
    parts = data.splits(many(400), seed=0)
    assert tuple(parts) == data.PARTS
    gold = parts.pop("gold")
    assert (
        sum(len(openings(part)) for part in parts.values()) == len(set().union(*map(openings, parts.values()))) == 400
    )
    for name, part in parts.items():
        assert abs(len(part) / 800 - data.SHARES[name]) < 0.06
        assert len(part) == 2 * len(openings(part))
    assert parts["sft"].column_names == ["prompt", "completion"] and parts["ppo"].column_names == ["prompt"]
    assert parts["test"].column_names == gold.column_names == ["prompt", "chosen", "rejected"]
    judged, rolled_out = ({str(row["prompt"]) for row in part} for part in (gold, parts["ppo"]))
    assert judged == rolled_out, "the judge's pairs are not those of the prompts that are rolled out"
    assert openings(gold).isdisjoint(openings(parts["preference"])), "the judge learns from what the judged learn from"


def test_a_seed_or_more_data_or_another_file_order_never_moves_a_prompt_to_another_split():
    pairs = many(300)
    one, other = data.splits(pairs, seed=0), data.splits(random.Random(0).sample(pairs, 500) + many(600), seed=9)
    for name in one:
        assert openings(one[name]) <= openings(other[name])


def test_equal_seeds_give_equal_rows_and_seeds_only_reorder_preference_and_ppo():
    pairs = many(300)
    shuffled = random.Random(0).sample(pairs, len(pairs))
    one, same, other = data.splits(pairs, 0), data.splits(shuffled, 0), data.splits(pairs, 1)
    for name in one:
        assert one[name].to_list() == same[name].to_list()
        assert (one[name].to_list() == other[name].to_list()) == (name not in ("preference", "ppo"))


def test_a_prompt_judged_twice_is_rolled_out_once():
    pairs = many(300)
    assert data.splits(pairs + pairs, 0)["ppo"].to_list() == data.splits(pairs, 0)["ppo"].to_list()


def test_the_split_of_a_prompt_is_pinned():
    parts = data.splits(many(120), 0)
    assert openings(parts["validation"]) == {"question 83"}
    numbers = (1, 27, 51, 62, 67, 70, 75, 77, 81, 85, 94, 99, 103, 104, 106, 107)
    assert openings(parts["test"]) == {f"question {i}" for i in numbers}


def test_too_little_data_for_every_split_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="split 'sft' has no rows|split 'preference' has no rows"):
        data.load(str(write(tmp_path, GOOD)))


def test_sizes_choose_splits_cap_them_and_are_checked():
    parts, _ = data.load(str(SAMPLES), seed=3, preference=2, sft=10**6)
    full, _ = data.load(str(SAMPLES), seed=3)
    assert set(parts) == {"preference", "sft"} and set(full) == set(data.PARTS)
    assert parts["preference"].to_list() == full["preference"].to_list()[:2] and len(parts["sft"]) == len(full["sft"])
    for sizes in ({"train": 5}, {"test": 0}, {"test": 0.5}):
        with pytest.raises(ValueError, match="size .* give one of sft"):
            data.load(str(SAMPLES), **sizes)


def test_the_testbed_comes_in_the_same_columns_with_the_same_report():
    sizes = {"sft": 5, "preference": 6, "ppo": 3, "validation": 2, "test": 2}
    parts, report = build.load(world.World(), 1, **sizes)
    real, _ = data.load(str(SAMPLES), **dict.fromkeys(sizes, 5))
    assert {name: len(part) for name, part in parts.items()} == sizes
    assert {name: part.features for name, part in parts.items()} == {name: part.features for name, part in real.items()}
    assert report == data.Report(read=10, kept=10)


def test_the_testbed_goes_through_the_same_checks_and_keeps_its_columns(monkeypatch):
    pair = {**pair_of(GOOD)[0], "gap": 1.0}
    built = {name: [pair, {**pair, "rejected": pair["chosen"]}] for name in ("preference", "validation", "test")}
    built |= {"sft": [{"prompt": [USER], "completion": [BOT]}], "ppo": [{"prompt": [USER]}]}
    monkeypatch.setattr(build, "build", lambda *settings, **sizes: built)
    parts, report = build.load(world.World(), 0)
    assert parts["test"].to_list() == [pair] and parts["sft"].to_list() == built["sft"]
    assert (report.read, report.kept, report.identical) == (6, 3, 3)
    built["ppo"] = [{"prompt": [USER]}, {"prompt": None}]
    with pytest.raises(ValueError, match="split 'ppo', row 1, field 'prompt'"):
        build.load(world.World(), 0)


# ---- token ids ----


def test_prompt_and_completion_ids_are_those_of_the_rendered_template(pairs, tokenizer):
    rows, report = tokens.tokenize_pairs(pairs, tokenizer, 10**4, 10**4)
    assert report == data.Report(read=28, kept=28)
    for pair, row in zip(pairs, rows):
        for side in ("chosen", "rejected"):
            text = tokenizer.apply_chat_template(pair["prompt"] + pair[side], tokenize=False)
            assert (
                tokenizer(text, add_special_tokens=False)["input_ids"]
                == row["prompt_ids"] + row[f"{side}_completion_ids"]
            )


@pytest.mark.skipif(not PHI3.exists(), reason=f"no Phi-3 tokenizer at {PHI3}")
def test_the_same_with_the_chat_template_of_phi_3(pairs):
    tokenizer = AutoTokenizer.from_pretrained(PHI3)
    tokenizer.eos_token = "<|end|>"
    for pair in pairs:
        prompt = tokens.tokenize_prompt(tokenizer, pair["prompt"])
        reply = tokens.tokenize_response(tokenizer, pair["chosen"][0]["content"])
        text = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, tokenize=False)
        text += pair["chosen"][0]["content"] + "<|end|>"
        assert prompt + reply == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(prompt + reply) == text.replace("<|end|>\n", "<|end|>").replace("|>\n", "|>")
        assert reply[-1] == 32007 and 32007 not in reply[:-1]


def test_a_reply_that_spells_eos_keeps_its_text_and_ends_once(tokenizer):
    ids = tokens.tokenize_response(tokenizer, "never write <|end|> yourself")
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]) == "never write <|end|> yourself"


def test_replies_read_together_are_those_read_one_by_one(tokenizer, pairs):
    texts = [pair["chosen"][0]["content"] for pair in pairs] + ["never write <|end|> yourself", " ", "a\n\nb"]
    alone = [tokens.tokenize_response(tokenizer, text) for text in texts]
    assert tokens.tokenize_responses(tokenizer, texts) == alone
    assert tokens.tokenize_responses(tokenizer, []) == []


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 40))
def test_cuts_keep_the_end_of_the_prompt_the_start_of_the_reply_and_eos(pairs, tokenizer, max_prompt, max_completion):
    whole, _ = tokens.tokenize_pairs(pairs[:6], tokenizer, 10**4, 10**4)
    try:
        cut, report = tokens.tokenize_pairs(
            [{**p, "i": i} for i, p in enumerate(pairs[:6])], tokenizer, max_prompt, max_completion
        )
    except ValueError:  # nothing left: that both replies of all pairs start alike is rare but possible
        assert max_completion < 4
        return
    prompts_cut = responses_cut = 0
    for row in cut:
        full = whole[row["i"]]
        assert row["prompt_ids"] == full["prompt_ids"][-max_prompt:]
        prompts_cut += row["prompt_ids"] != full["prompt_ids"]
        for side in ("chosen_completion_ids", "rejected_completion_ids"):
            assert row[side][:-1] == full[side][:-1][: max_completion - 1] and row[side][-1] == tokenizer.eos_token_id
            assert len(row[side]) <= max_completion
            responses_cut += row[side] != full[side]
        assert row["chosen_completion_ids"] != row["rejected_completion_ids"]
    assert (report.read, report.kept, report.same_tokens) == (6, len(cut), 6 - len(cut))
    assert (report.prompts_cut, report.responses_cut) == (prompts_cut, responses_cut)


def test_pairs_that_cutting_makes_equal_are_dropped_and_their_cuts_are_not_counted(tokenizer):
    same = {"prompt": [USER], "chosen": [{"role": "assistant", "content": "one two three four"}]}
    same["rejected"] = [{"role": "assistant", "content": "one two three five"}]
    rows, report = tokens.tokenize_pairs([same, pair_of(GOOD)[0]], tokenizer, 50, 6)
    assert (report.read, report.kept, report.same_tokens) == (2, 1, 1) and len(rows) == 1
    assert report.responses_cut == sum(len(tokens.tokenize_response(tokenizer, t)) > 6 for t in ("hello", "go away"))
    with pytest.raises(ValueError, match="no rows left"):
        tokens.tokenize_pairs([same], tokenizer, 50, 6)
    for limits in ((0, 6), (5, 1)):
        with pytest.raises(ValueError, match="max_prompt_length >= 1"):
            tokens.tokenize_pairs([same], tokenizer, *limits)


def test_a_template_that_refuses_the_roles_or_a_missing_eos_is_one_clear_error(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="refuses the roles user, user .*must alternate"):
        tokens.tokenize_prompt(tokenizer, [USER, USER])
    other = models.build_tokenizer(["a b"], 300)
    other.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        tokens.tokenize_response(other, "hello")


def test_sft_rows_train_on_the_reply_alone_in_trls_trainer(tokenizer, tmp_path):
    from trl import SFTConfig, SFTTrainer

    parts, _ = data.load(str(SAMPLES))
    rows, report = tokens.tokenize_sft(parts["sft"], tokenizer, 30, 20)
    assert report.kept == len(parts["sft"]) == len(rows) and report.prompts_cut and report.responses_cut
    args = SFTConfig(
        str(tmp_path),
        completion_only_loss=True,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    model = models.tiny_llama(tokenizer, 16, 1)
    trainer = SFTTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer)
    whole = 0
    for row, text, prepared in zip(rows, parts["sft"], trainer.train_dataset):
        reply = tokens.tokenize_response(tokenizer, text["completion"][0]["content"])[:20]
        assert [i for i in prepared["labels"] if i != -100] == reply == row["input_ids"][-len(reply) :]
        assert row["completion_mask"] == [0] * (len(row["input_ids"]) - len(reply)) + [1] * len(reply)
        whole += reply[-1] == tokenizer.eos_token_id
    assert whole == len(rows) - report.responses_cut  # only whole replies teach the model to stop


def test_batches_pad_prompts_left_and_completions_right():
    rows = [{"prompt_ids": [5], "completion_ids": [6, 7, 1]}, {"prompt_ids": [8, 9], "completion_ids": [1]}]
    batch = tokens.collate_prompt_completion(rows, pad_id=0)
    assert batch["prompt_ids"].tolist() == [[0, 5], [8, 9]] and batch["prompt_mask"].tolist() == [[0, 1], [1, 1]]
    assert batch["completion_ids"].tolist() == [[6, 7, 1], [1, 0, 0]]
    assert batch["completion_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert all(tensor.dtype == torch.long for tensor in batch.values())
    masks = tokens.collate_prompt_completion([{"prompt_ids": [0], "chosen": [0]}], 0, "chosen")["completion_mask"]
    assert masks.tolist() == [[1]]  # a real token that looks like padding stays real
