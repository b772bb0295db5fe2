"""What may be asked for: a value that is accepted here and refused there, or refused after an hour, costs a reader's
day."""

import json
import re
from dataclasses import replace

import pytest

from densereward import checked
from densereward.reward import rewards
from study.methods import METHODS, method
from study.profiles import PROFILES, profile
from study.row import TRAINERS, Method
from study.run import Run
from study.stages import policy
from testbed import oracle
from testbed.world import World


@pytest.mark.parametrize(
    "change, says",
    [
        ('{"rounds": "3"}', "rounds is '3'; give a whole number, 1 or more"),
        ('{"rounds": 2.5}', "rounds is 2.5; give a whole number, 1 or more"),
        ('{"rounds": true}', "rounds is True; give a whole number, 1 or more"),
        ('{"rounds": null}', "rounds is None; give a whole number, 1 or more"),
        ('{"rounds": 0}', "rounds is 0; give a whole number, 1 or more"),
        ('{"pairs": 300.0}', "pairs is 300.0; give a whole number, 1 or more"),
        ('{"lam": 2}', "lam is 2; give a number, 0 to 1"),
        ('{"lam": "0.5"}', "lam is '0.5'; give a number, 0 to 1"),
        ('{"kl_coef": -1}', "kl_coef is -1; give a number, 0 or more"),
        ('{"kl_coef": 1e400}', "kl_coef is inf; give a number, 0 or more"),
        ('{"kl_coef": Infinity}', "no JSON (Infinity is no number)"),
        ('{"dpo_beta": -1}', "dpo_beta is -1; give a number above 0"),
        ('{"actor_learning_rate": 0}', "actor_learning_rate is 0; give a number above 0"),
        ('{"heldout_proxy": 1}', "heldout_proxy is 1; give true or false"),
        ('{"minibatches": 3}', "minibatches is 3, of 16 rollouts; give a divisor of them"),
        ('{"critic_warmup": 99}', "critic_warmup is 99, of 3 rounds; give at most 3"),
        ('{"width": 63}', "width is 63; give a multiple of 16"),
        (
            '{"committed_models": "../etc"}',
            "committed_models is '../etc'; give null or one of smoke, brief, small, cpu",
        ),
        ('{"world": 3}', "world is 3; give an object of its fields"),
        ('{"world": {"kind": 3}}', "world has no field 'kind'; it has kinds, parts"),
        ('{"world": {"kinds": "3"}}', "kinds is '3'; give a whole number"),
        ('{"world": {"kinds": 999}}', "parts is 1 and kinds is 999; choose them so that"),
        ('{"world": {"returns": "x"}}', "returns is 'x'; give one of additive, coverage, whole"),
        ('{"foo": 1}', "profile 'smoke' has no field 'foo'"),
        ('{"name": "../../x"}', "profile 'smoke' has no field 'name' to change"),
        ('{"dataset": "x"}', "profile 'smoke' has no field 'dataset'"),
        ("[1]", "change is '[1]': no JSON object; give one such as"),
        ("null", "change is 'null': no JSON object"),
        ("", "change is '': no JSON ("),
        ("{lam: 1}", "change is '{lam: 1}': no JSON ("),
        ("[" * 100_000, "no JSON (maximum recursion depth exceeded"),
    ],
)
def test_a_change_that_cannot_be_is_refused_in_one_line(change, says):
    with pytest.raises(ValueError, match=re.escape(says)) as stop:
        profile("smoke", **checked.as_object(change, "change"))
    assert "\n" not in str(stop.value) and len(str(stop.value)) < 300


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"seed": -1}, "seed is -1; give a whole number, 0 to 2147483647"),
        ({"seed": 2**31}, "seed is 2147483648; give a whole number, 0 to 2147483647"),
        ({"contrast": 2.0}, "contrast is 2.0; give a number, 0 to 1"),
        ({"contrast": float("nan")}, "contrast is nan; give a number, 0 to 1"),
        ({"contrast": 0.3, "dataset": "pairs.jsonl"}, "contrast is 0.3, of pairs.jsonl; only the testbed has"),
        ({"dataset": ""}, "dataset is ''; give 'testbed', a .jsonl"),
        ({"dataset": "null"}, "dataset is 'null'; give 'testbed', a .jsonl"),
        ({"model": " "}, "model is ' '; give the folder of a saved causal LM"),
        ({"profile": "smoke"}, "profile is 'smoke'; give one of profiles.py"),
    ],
)
def test_a_run_that_cannot_be_is_refused_in_one_line(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)) as stop:
        Run(**{"profile": profile("smoke")} | changes)
    assert "\n" not in str(stop.value)
    if changes.keys() == {"seed"}:
        with pytest.raises(ValueError, match=re.escape(says)):
            Run(profile("smoke"), *changes.values())  # by its place


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"noise": -1.0}, "noise is -1.0; give a number, 0 or more"),
        ({"trainer": "sarsa"}, "trainer is 'sarsa'; give one of ppo, dpo"),
        ({"segmentation": "token"}, "segmentation is 'token'; give a dict"),
        ({"segmentation": {"kind": "ngram", "n": 0}}, "segmentation n is 0; give a whole number, 1 or more"),
        (
            {"segmentation": {"kind": "entropy", "cutoff": -1.0}},
            "segmentation cutoff is -1.0; give a number, 0 or more",
        ),
        ({"revisions": {"kind": "oracle", "error": 1.5}}, "revisions error is 1.5; give a number, 0 to 1"),
        ({"options": {"alpha": float("inf")}}, "options alpha is inf; give a number"),
    ],
)
def test_a_row_that_cannot_be_is_refused_in_one_line(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)) as stop:
        replace(METHODS["segment"], **changes)
    assert "\n" not in str(stop.value)


def test_what_rows_and_worlds_may_name_is_what_there_is():
    """A name that the model lacks could not be asked for; one that the code lacks would fail after training."""
    assert set(TRAINERS) == {*policy.TRAINERS, "none"}
    for how in (*rewards.INTERPOLATIONS, "decided"):
        method("segment", interpolation=how)
    for returns in oracle.RETURNS:
        World(returns=returns)
    with pytest.raises(ValueError, match=re.escape("give one of " + ", ".join(oracle.RETURNS))):
        World(returns="none")


def test_whole_numbers_are_numbers_and_equal_settings_are_one_run():
    one, other = (Run(profile("smoke", lam=lam, kl_coef=kl)) for lam, kl in ((1, 0), (1.0, 0.0)))
    assert one == other and json.dumps(one.profile.to_dict()) == json.dumps(other.profile.to_dict())


def test_lists_name_what_is_wrong_in_them_and_hold_everything_once():
    assert checked.listed(" sft,bandit, sft", "methods") == ["sft", "bandit"] and checked.seeds("0,0, 1") == [0, 1]
    for text, says in (
        ("", "seeds is ''; give one or more, separated by commas"),
        ("0,,1", "seeds is '0,,1'; give one or more"),
        ("1.5", "seeds is '1.5'; give whole numbers"),
        ("0,-1", "seed is -1; give a whole number, 0 to"),
        ("9" * 5000, "give whole numbers, separated by commas"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)) as stop:
            checked.seeds(text)
        assert len(str(stop.value)) < 200


def test_every_profile_and_row_that_is_committed_passes():
    assert all(replace(p) == p for p in PROFILES.values()) and all(replace(row) == row for row in METHODS.values())
    assert Method.__dataclass_fields__.keys() == METHODS["sft"].__dict__.keys()
