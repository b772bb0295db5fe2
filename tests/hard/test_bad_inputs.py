"""Whatever cannot be is refused in one line that says what is wrong and what to do, before any work."""

import json
import math
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bad_inputs
from bad_inputs import Unclear, said
from densereward import checked
from densereward.seeding import rng
from densereward.text import data
from densereward.text.models import build_tokenizer, tiny_llama
from study.profiles import Profile, profile
from study.records import read_records
from testbed.world import World

ROOT = bad_inputs.ROOT


def refused(inputs) -> int:
    """How many inputs were refused; those that were refused otherwise than in one line fail the test."""
    unclear, found = [], 0
    for what, call in inputs:
        try:
            found += said(call) is not None
        except Unclear as problem:
            unclear.append(f"{what}: {problem}")
    assert not unclear, "\n".join(unclear)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["please name four fruits. apple, pear, plum and lemon."] * 4, 300)
    tiny_llama(tokenizer, 32, 1, heads=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind", ["fields", "notebooks", "commands", "records", "settings_files", "models", "data_files"]
)
def test_bad_inputs_are_refused_in_one_line(kind, model, tmp_path, monkeypatch, count):
    warnings.simplefilter("ignore")
    made = {
        "fields": ("fields of a profile", bad_inputs.fields, 400),
        "notebooks": ("parameters of notebooks", bad_inputs.notebooks, 600),
        "commands": ("command lines", lambda: bad_inputs.commands(monkeypatch), 230),
        "records": ("files of records", lambda: bad_inputs.records(tmp_path, record()), 90),
        "settings_files": ("files of settings", lambda: bad_inputs.settings_files(tmp_path, monkeypatch), 70),
        "models": ("folders of models", lambda: bad_inputs.model_folders(tmp_path, model, rng(0, "damage")), 120),
        "data_files": ("files of data", lambda: bad_inputs.data_files(tmp_path), 60),
    }
    what, inputs, least = made[kind]
    found = refused(inputs())
    assert found >= least, "the table has shrunk, or what cannot be is taken"
    count(f"bad inputs: {what}", found, "one line each, with the mend")


def record() -> dict:
    return json.loads((ROOT / "data" / "results" / "small" / "runs.jsonl").read_text().splitlines()[0])


NUMBERS = st.integers() | st.floats() | st.booleans() | st.none() | st.text()
ANY = st.recursive(NUMBERS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3), max_leaves=6)
DRAWN = {"max_examples": 150, "deadline": None, "derandomize": True, "suppress_health_check": [*HealthCheck]}


def test_any_value_for_any_field_is_taken_or_refused_in_one_line(tmp_path, count):
    """Drawn, where the tables list: profiles and worlds, a changed place of a record, a line of data."""
    refusals: set = set()
    fields = st.sampled_from(sorted(Profile.__dataclass_fields__)), st.sampled_from(sorted(World.__dataclass_fields__))

    def note(what, call) -> None:
        if (line := said(call)) is not None:
            refusals.add((str(what), line))

    @settings(**DRAWN)
    @given(fields[0] | st.text(), fields[1] | st.text(), ANY, st.booleans())
    def of_a_profile(name, inner, value, nested):
        change = json.dumps({"world": {inner: value}} if nested else {name: value})
        note(change, lambda: profile("smoke", **checked.as_object(change, "change")))

    @settings(**DRAWN)
    @given(st.lists(st.integers(0, 9), max_size=4), ANY)
    def of_a_record(way, value):
        changed = record()
        at = changed
        for turn in way:  # down to some place of it
            if isinstance(at, dict) and at:
                key = sorted(at)[turn % len(at)]
                if not isinstance(at[key], dict):
                    break
                at = at[key]
        if isinstance(at, dict) and at:
            at[sorted(at)[len(way) % len(at)]] = value
        path = tmp_path / "runs.jsonl"
        path.write_text(json.dumps(changed) + "\n")  # NaN and Infinity too
        from study.identity import check_record

        note(changed, lambda: read_records(path, check_record))

    @settings(**DRAWN)
    @given(ANY, ANY, ANY)
    def of_a_line_of_data(prompt, chosen, rejected):
        path = tmp_path / "pairs.jsonl"
        path.write_text(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")
        note((prompt, chosen, rejected), lambda: data.read_pairs(path))

    of_a_profile(), of_a_record(), of_a_line_of_data()
    assert len(refusals) > 200
    count("bad inputs: drawn at random", len(refusals), "one line each, with the mend")


def test_what_is_no_clear_refusal_is_seen():
    """The judge itself: a traceback, another type, several lines or no mend are none."""
    for error in (
        KeyError("x"),
        TypeError("give another"),
        ValueError("bad"),
        ValueError("no\ngive another"),
        OSError("give x"),
    ):
        with pytest.raises(Unclear):
            said(lambda error=error: (_ for _ in ()).throw(error))
    assert said(lambda: math.pi) is None
