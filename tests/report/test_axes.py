"""What would break: an average of the map that is none, or whose interval takes what seeds share for evidence."""

import itertools

import numpy as np
import pandas as pd
import pytest

from report import axes, density_map
from report.density_map import AXES, GRID

OVER = ("lam", "price")
TOKEN, SEGMENT, DENSE = ("token", "bandit"), ("segment", "bandit"), ("oracle-dense", "oracle-sequence")


def frame_of(gain, seeds=(0, 1)) -> pd.DataFrame:
    """A run of every row in every cell; `gain`(cell, seed) of each finer row over the bandit and the truth at the end,
    which are worth 3."""
    runs = itertools.product({m for pair in density_map.GAINS.values() for m in pair}, GRID, seeds)
    end = ("bandit", "oracle-sequence")
    rows = [(m, *cell, seed, 3 + (m not in end) * gain(dict(zip(AXES, cell)), seed)) for m, cell, seed in runs]
    return pd.DataFrame(rows, columns=["method", *AXES, "seed", "value"])


def test_an_average_is_the_mean_of_its_cells_at_every_choice():
    frame = frame_of(lambda cell, seed: cell["horizon"] + cell["price"] - cell["lam"] + seed)
    whole = density_map.gains(frame, TOKEN)
    for count in (1, 2):
        for over in itertools.combinations(AXES, count):
            found = axes.averages(frame, TOKEN, over)
            rest = [axis for axis in AXES if axis not in over]
            assert np.allclose(found.set_index(rest).gain, whole.groupby(rest).gain.mean()), over
            assert set(found.seeds) == {2} and np.allclose(found.high - found.gain, found.gain - found.low)


def test_what_a_seed_does_to_all_cells_alike_does_not_average_out():
    draw = np.random.default_rng(0)
    noise = {(*cell, seed): draw.normal() for cell in GRID for seed in (0, 1)}
    alone = frame_of(lambda cell, seed: 1 + 0.1 * noise[*cell.values(), seed])
    alike = frame_of(lambda cell, seed: 1 + 0.1 * (1 if seed else -1))
    width = [axes.averages(frame, SEGMENT, OVER).eval("high - low").mean() for frame in (alone, alike)]
    single = (density_map.gains(alike, SEGMENT).eval("high - low")).mean()
    assert width[0] < 0.5 * width[1] and width[1] > 0.9 * single


def test_a_large_average_does_not_widen_a_small_one():
    frame = frame_of(lambda cell, seed: (20 if cell["horizon"] == 1 else 0.2) * (1 + 0.1 * seed))
    found = axes.averages(frame, TOKEN, OVER).set_index(["horizon", "pairs"])
    assert set(found.verdict) == {"ahead"} and found.high[2, 500] < 1 < found.low[1, 500]


def test_one_seed_claims_nothing_and_a_missing_run_is_no_average():
    assert set(axes.averages(frame_of(lambda cell, seed: 1.0, (0,)), TOKEN, OVER).verdict) == {"leans ahead"}
    frame = frame_of(lambda cell, seed: 1.0)
    lost = (frame[AXES] == [1, 500, 1.0, 0.2]).all(axis=1) & (frame.method == "token")
    found = axes.averages(frame[~(lost & (frame.seed == 1))], TOKEN, OVER).set_index(["horizon", "pairs"])
    assert found.seeds[1, 500] == 1 and set(found.drop(index=(1, 500)).seeds) == {2}
    assert (1, 500) not in axes.averages(frame[~lost], TOKEN, OVER).set_index(["horizon", "pairs"]).index


def test_the_page_has_a_cell_for_every_choice():
    found = axes.cells(frame_of(lambda cell, seed: cell["price"]))
    assert len({tuple(cell[:5]) for cell in found}) == len(found) == 5 * (32 + 16 + 16 + 16 + 8 + 3 * 8 + 3 * 4)
    place = list(density_map.GAINS.values()).index(TOKEN)
    alone = next(cell for cell in found if cell[:5] == [place, 0, 1, 0, 3])  # one kind, 500 pairs, lambda 1, +0.2
    assert alone[5] == "+0.20" and list(density_map.GROUND)[alone[8]] == "ahead"


@pytest.mark.parametrize(
    ("axis", "level", "word"), [("pairs", 4000, "4,000"), ("price", -1.0, "−1"), ("price", 0.0, "0")]
)
def test_levels_are_worded_as_on_the_figure(axis, level, word):
    assert density_map.word(axis, level) == word


def test_rows_that_learn_from_no_pairs_count_once_and_stand_at_every_number_of_them():
    frame = frame_of(lambda cell, seed: cell["price"] + 0.1 * seed)
    assert len(density_map.gains(frame, DENSE)) == 16 and set(axes.averages(frame, DENSE, ("pairs",)).seeds) == {2}
    place = list(density_map.GAINS.values()).index(DENSE)
    found = {tuple(cell[1:5]): cell[5:] for cell in axes.cells(frame) if cell[0] == place}
    assert all(
        found[h, 0, lam, price] == found[h, 1, lam, price] for h in (0, 1) for lam in (0, 1) for price in range(4)
    )
