"""What would break: a cell of the map that holds other runs than its own, an interval that claims what seeds do not."""

import numpy as np
import pandas as pd
import pytest

from report import density_map
from study.density_cells import METHODS_OF_MAP, cells, changes, methods
from study.identity import of_testbed
from study.methods import METHODS
from study.profiles import profile

UNITS = [
    {"parts": parts, "returns": f"excess{price:+.1f}", "seed": seed, "unit": 2.0}
    for parts in (1, 2)
    for price in (-1.0, -0.2, 0.0, 0.2)
    for seed in (0, 1)
]


def made(worth, seeds=(0, 1)) -> list[dict]:
    """A record of each run of the map; `worth`(method, cell, seed) is its true return."""
    found = {}
    for cell in cells():
        for name in methods(cell["pairs"]):
            params = of_testbed(profile("cpu", **changes(**cell)), METHODS[name])
            for seed in seeds:
                final = {"true_return": worth(name, cell, seed)}
                final["kl"] = 0.0 if name == "sft" else 30.0 if name == "segment" else 3.0
                record = {"kind": "run", "method": name, "seed": seed, "params": params, "final": final}
                found[name, *cell.values(), seed] = record
    return list(found.values())


def bent(name: str, cell: dict, seed: int) -> float:
    """Segments lose ten credits at a price of -1 and gain one at +0.2; the truth is best everywhere."""
    noise = 0.01 * np.random.default_rng([seed, len(name), *(abs(int(10 * x)) for x in cell.values())]).normal()
    by = {"sft": 0.0, "oracle-dense": 3.0, "oracle-sequence": 2.5}.get(name, 2.0)
    return by + noise + ({-1.0: -10.0, 0.2: 1.0}.get(cell["price"], 0.0) if name == "segment" else 0.0)


def test_every_cell_holds_its_own_runs():
    frame = density_map.returns(
        made(lambda name, cell, seed: cell["horizon"] + cell["pairs"] + cell["price"] - cell["lam"]), UNITS
    )
    learned = frame[frame.method.isin(("bandit", "segment", "token"))]
    own = learned.horizon + learned.pairs + learned.price - learned.lam
    assert np.allclose(learned["value"], own) and len(learned) == 2 * 3 * len(cells())
    assert set(frame.groupby("method").size()) == {2 * len(cells())} and set(frame.method) == set(METHODS_OF_MAP)


@pytest.mark.parametrize("other", [{"rounds": 128}, {"kl_coef": 0.0}, {"lam": 0.9}, {"world": {"returns": "whole"}}])
def test_runs_of_other_settings_are_not_the_maps(other):
    """A control with more rounds would else take the place of a cell's own run."""
    found = made(bent)
    last = found[-1]
    params = of_testbed(profile("cpu", **changes(**cells()[-1]) | other), METHODS[last["method"]])
    strange = [*found, last | {"params": params, "final": {"true_return": 99.0}}, last | {"kind": "error"}]
    assert density_map.returns(strange, UNITS).equals(density_map.returns(found, UNITS))


def test_verdicts_follow_the_gains_and_collapse_does_not_hide_small_ones():
    frame = density_map.returns(made(bent), UNITS)
    found = density_map.gains(frame, ("segment", "bandit")).set_index("price").verdict
    assert set(found[-1.0]) == {"behind"} and set(found[0.2]) == {"ahead"} and "ahead" not in set(found[-0.2])
    told = density_map.counts(frame).set_index("gain").ahead
    assert told["Truth in time, less bandit"] == told["Truth at the end, less bandit"] == 32
    assert told["Truth in time, less at the end"] == 16, "what learns from no pairs counts once"


def test_the_kl_penalty_is_in_the_unit_of_the_rewards():
    frame = density_map.returns(made(bent), UNITS).groupby("method")[["value", "regularised"]].mean()
    penalty = frame["value"] - frame["regularised"]  # coefficient .1, a deviation of 2 credits
    assert penalty.round(9).to_dict() == dict.fromkeys(METHODS_OF_MAP, 0.6) | {"sft": 0, "segment": 6}


def test_one_seed_claims_nothing():
    frame = density_map.returns(made(bent, seeds=(0,)), UNITS)
    assert set(density_map.gains(frame, ("segment", "bandit")).verdict) == {"leans behind", "level", "leans ahead"}


def test_expectations_count_the_cells_they_speak_of():
    told = density_map.foretold(density_map.returns(made(bent), UNITS)).set_index("foretold")
    assert dict(told.cells)["1. truth in time above SFT"] == 16  # it learns from no pairs: each run counts once
    assert pd.isna(told.loc["4. tokens level or behind", "chance by a coin"])  # a coin has no side and a half
    level = told.loc["7. at λ 1 the truths are level on average"]  # half a credit apart here
    assert (level.cells, level.came) == (1, 0) and pd.isna(level["chance by a coin"])
    assert dict(told.cells)["7. truth at the end above the bandit at λ 1"] == 16
    assert (told.came <= told.cells).all() and told.loc["3. segments behind at −1", "came"] == 8
    assert told.loc["3. segments behind at −1", "chance by a coin"] == "0.004", "half to the power of eight"
    part = density_map.returns([r for r in made(bent) if r["method"] != "token"], UNITS)
    assert density_map.foretold(part).set_index("foretold").cells["4. tokens level or behind"] == 0


def test_the_figure_has_a_number_in_every_cell():
    drawn, numbers = density_map.figure(density_map.returns(made(bent), UNITS))
    assert len(numbers) == 3 * len(cells()) + 16
    assert [sum("." in text.get_text() for text in ax.texts) for ax in drawn.axes] == [len(cells())] * 4
