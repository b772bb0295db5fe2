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
    heard, on_log = [], CallbackHandler.on_log

    def listened(self, args, state, control, logs):
        heard.append(dict(logs))
        return on_log(self, args, state, control, logs)

    monkeypatch.setattr(CallbackHandler, "on_log", listened)
    toy = scale.toy(Run(profile("smoke"), row=METHODS[name], root=root))
    run = replace(toy, profile=replace(toy.profile, rounds=3))
    curves = load_json(run.policy.path / "curves.json")
    rows = [row for row in heard if "curves/rollout" in row]
    assert [row["curves/rollout"] for row in rows] == [row["rollout"] for row in curves] == [0, 1, 2]
    for row, kept in zip(rows, curves, strict=True):
        assert row["curves/true_return"] == kept["true_return"] and row["curves/length"] == kept["length"]
    assert all("curves/seconds_update" in row for row in rows[:-1]), "a row is told when it is complete"
