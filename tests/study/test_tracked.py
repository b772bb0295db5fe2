"""What would break: a tracker that a run reports to and that never hears of the curves that records keep."""

from dataclasses import replace

import pytest
from transformers.trainer_callback import CallbackHandler

from study import scale
from study.cache import load_json
from study.methods import METHODS
from study.profiles import profile
from study.run import Run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tracked")


@pytest.mark.parametrize("name", ["bandit", "grpo", "online-dpo"])  # each kind of trainer that keeps curves
def test_a_tracker_hears_every_row_of_the_curves(name, root, monkeypatch):
    heard, call_event = [], CallbackHandler.call_event

    def listened(self, event, *rest, **also):
        heard.append(dict(also["logs"])) if event == "on_log" else None
        return call_event(self, event, *rest, **also)

    monkeypatch.setattr(CallbackHandler, "call_event", listened)
    toy = scale.toy(Run(profile("smoke"), row=METHODS[name], root=root))
    every = {"policy": {"logging_strategy": "steps", "logging_steps": 1}}
    run = replace(toy, profile=replace(toy.profile, rounds=3, trl=every))
    curves = load_json(run.policy.path / "curves.json")
    rows = [row for row in heard if "curves/rollout" in row]
    assert [row["curves/rollout"] for row in rows] == [row["rollout"] for row in curves] == [0, 1, 2]
    for row, kept in zip(rows, curves, strict=True):
        assert row["curves/true_return"] == kept["true_return"] and row["curves/length"] == kept["length"]
    assert all("curves/seconds_update" in row for row in rows[:-1]), "a row is told when it is complete"
    losses = [row for row in heard if "loss" in row]
    assert len(losses) >= 3 and len(losses) % 3 == 0, "every update's own log is told beside them"
