"""What would break: a page that shows a choice that tuning did not make, of trials that are not all there, or runs at
another setting than the one it names."""

from dataclasses import asdict

import pytest

from report import foretold, own_settings
from study import choosing
from study.methods import METHODS
from test_figures import record

GRID = {"kl_coef": (0.1, 0.3, 1.0), "actor_learning_rate": (5e-4, 1e-3)}
PROXY = {0.1: 3.0, 0.3: 2.0, 1.0: 1.0}
TRUTH = {0.1: -9.0, 0.3: 2.0, 1.0: 1.0}


@pytest.fixture
def trials(monkeypatch):
    """Trials of bandit and token, three seeds a setting, one of token's missing; the bandit's proxy likes KL .1 and the
    lower rate, the truth KL .3."""
    monkeypatch.setattr(choosing, "POLICIES", {"ppo": GRID})
    made = [
        {"kind": "policy trial", "method": name, "changes": changes, "seed": seed, "profile": "smoke"}
        | {"params": {"method": asdict(METHODS[name])}, "repetition": 0.5}
        | {"kl": changes["actor_learning_rate"] / changes["kl_coef"]}
        | {"heldout_proxy": PROXY[changes["kl_coef"]] - 100 * changes["actor_learning_rate"]}
        | {"true_return": TRUTH[changes["kl_coef"]] + 100 * changes["actor_learning_rate"] + (seed - 1001)}
        for name in ("bandit", "token")
        for changes in choosing.settings(GRID)
        for seed in choosing.SEEDS
    ]
    return made[:-1]


def test_what_trials_flatter_themselves_by_is_read_at_the_setting_that_runs_had(trials):
    """Trials at another setting say nothing of a run, and a row that lacks a trial is left out."""

    def ended(name: str, **setting) -> dict:
        params = {"method": asdict(METHODS[name]), "profile": setting}
        return {"method": name, "params": params, "final": {"true_return": 1.5}}

    of_all = [ended("bandit", kl_coef=0.3, actor_learning_rate=1e-3)] * 2
    of_all += [ended("token", kl_coef=0.3, actor_learning_rate=1e-3)]
    elsewhere = [ended("bandit", kl_coef=0.7, actor_learning_rate=1e-3)]
    (line,) = own_settings.flattered(trials, {"all": of_all, "elsewhere": elsewhere, "none": []}).to_dict("records")
    assert (line["setting"], line["rows"], line["rows above zero"]) == ("all", 1, 1)
    assert line["trials less other seeds, median (credit)"] == pytest.approx(2.1 - 1.5)


def test_the_choices_shown_are_those_of_tuning_and_a_row_without_all_its_trials_has_none(trials):
    found = own_settings.means(trials)
    assert set(found.method) == {"bandit"} and len(found) == 6
    (row,) = own_settings.chosen(trials).to_dict("records")
    made = choosing.choices(trials)
    assert made["choices"] == {"bandit": {"kl_coef": 0.1, "actor_learning_rate": 5e-4}}
    assert row["by the proxy"] == "0.1* at 0.0005*"
    assert row["true return, by the proxy (credit)"] == pytest.approx(-8.95)
    assert made["by_truth"] == {"bandit": {"kl_coef": 0.3, "actor_learning_rate": 1e-3}}
    assert row["by the truth"] == "0.3 at 0.001*", "of three coefficients the middle one, of two rates the last"
    assert row["true return, by the truth (credit)"] == pytest.approx(2.1)


def test_what_ppo_makes_is_drawn_without_rejection_sampling_which_has_a_rate_of_its_own(trials, monkeypatch):
    """It was drawn among them, at coefficients that PPO was never given, under a caption that names PPO alone."""
    grid = {"kl_coef": (0.1, 2.0), "online_learning_rate": (5e-4,)}
    monkeypatch.setattr(choosing, "POLICIES", {"ppo": GRID, "rs": grid})
    rs = {"method": "rs", "params": {"method": asdict(METHODS["rs"])}}
    tried = [(changes, seed) for changes in choosing.settings(grid) for seed in choosing.SEEDS]
    found = trials + [trials[0] | rs | {"changes": changes, "seed": seed} for changes, seed in tried]
    assert set(choosing.choices(found)["choices"]) == {"bandit", "rs"}
    assert set(own_settings.means(found).method) == {"bandit"}


def test_caution_takes_what_strays_least_of_all_that_is_not_told_from_the_best(trials):
    assert choosing.choices(trials)["cautious"]["bandit"] == {"kl_coef": 0.1, "actor_learning_rate": 5e-4}
    for t in trials:  # seed 1000 likes KL .3, and 1001 and 1002 .1, by enough to leave the mean open; nobody likes 1.0
        if t["changes"]["kl_coef"] == 0.3:
            t["heldout_proxy"] += {1000: 3.0, 1001: 0.0, 1002: 0.0}[t["seed"]] - 0.1
    made = choosing.choices(trials)
    assert made["choices"]["bandit"]["kl_coef"] == 0.1
    assert made["cautious"]["bandit"] == {"kl_coef": 0.3, "actor_learning_rate": 5e-4}
    for t in trials:  # a judge whose level differs by seed tells settings apart all the same
        t["heldout_proxy"] += 50 * (t["seed"] - 1000)
    assert choosing.choices(trials) == made
    for t in trials:  # a large coefficient that holds nothing back is no caution
        t["kl"] = 1 / t["kl"]
    assert choosing.choices(trials)["cautious"]["bandit"]["kl_coef"] == 0.1


def test_what_a_proxys_choice_costs_is_read_off_the_truth_of_the_same_settings(trials):
    def scored(trial):
        other = {key: trial[key] for key in ("method", "changes", "seed", "profile", "params")}
        scores = {"bandit": trial["heldout_proxy"], "segment": trial["true_return"]}
        return other | {"kind": "proxy trial", "proxies": scores}

    records = trials + [scored(t) for t in trials]
    frame = own_settings.by_proxies(records)
    (row,) = frame.to_dict("records")
    assert row["by segment"] == "0.00 (1.00)", "a judge that agrees with the truth costs nothing"
    assert row["by bandit"].startswith("11.05 (-0.")
    assert frame.attrs["repeated"] == 0
    assert own_settings.by_proxies(trials).empty
    further = {"changes": {"kl_coef": 0.03, "actor_learning_rate": 5e-4}, "true_return": 9.0}
    wider = own_settings.by_proxies(records + [t | further for t in trials[:3]])
    assert wider.equals(frame), "what no other judge has scored is none of the best that they could have chosen"


def test_what_was_tried_beyond_the_grid_is_chosen_of_too_once_it_has_all_its_seeds(trials):
    """Else a best that lies beyond would be shown and not taken, or one lucky seed there would be."""
    assert own_settings.beyond(trials).empty
    (edge,) = own_settings.chosen(trials).to_dict("records")
    further = {"changes": {"kl_coef": 0.03, "actor_learning_rate": 5e-4}, "heldout_proxy": 3.5, "true_return": 0.5}
    worse = {"changes": {"kl_coef": 0.03, "actor_learning_rate": 1e-3}, "heldout_proxy": 1.0, "true_return": 2.0}
    tried = [t | further for t in trials[:2]] + [t | worse for t in trials[:3]]
    tried += [t | further for t in trials if t["method"] == "token"][:3]
    (row,) = own_settings.beyond(trials + tried).to_dict("records")
    assert (row["beyond"], row["settings"]) == ("KL 0.03", 1), "a seed is missing at the other rate"
    assert choosing.choices(trials + tried)["choices"] == choosing.choices(trials)["choices"]

    tried.append(trials[2] | further)
    (row,) = own_settings.beyond(trials + tried).to_dict("records")
    assert row["settings"] == 2
    assert (row["proxy (nats), highest there"], row["true return (credit), highest there"]) == (3.5, 2.0)
    assert row["proxy (nats), of the grid"] == pytest.approx(2.95)
    assert row["true return (credit), of the grid"] == pytest.approx(2.1)
    (moved,) = own_settings.chosen(trials + tried).to_dict("records")
    assert edge["by the proxy"] == "0.1* at 0.0005*" and moved["by the proxy"] == "0.03* at 0.0005*"
    assert edge["by the truth"] == moved["by the truth"] == "0.3 at 0.001*", "which no further rate has"


def test_the_figure_rings_what_each_judge_chooses_and_crosses_where_the_proxys_choice_ends(trials):
    figure, _ = own_settings.trials(own_settings.means(trials))
    marks = [
        [(line.get_marker(), line.get_xydata()[0]) for line in ax.lines if len(line.get_xydata()) == 1]
        for ax in figure.axes
    ]
    (left,), (ring, cross) = marks
    assert left[0] == ring[0] == "o" and cross[0] == "x"
    assert list(left[1]) == pytest.approx([0, 2.95]) and list(ring[1]) == pytest.approx([1, 2.1])
    assert list(cross[1]) == [0, own_settings.CUT], "an end far below stands at the edge"
    assert figure.axes[1].get_ylim()[0] == own_settings.CUT, "what loops does not flatten the others"


def test_rows_paid_once_per_answer_are_drawn_apart_from_those_paid_inside_it(trials):
    """Twelve lines in one panel could not be told apart; here a proxy that takes one kind too far is seen to."""
    found = own_settings.means([*trials, trials[-1] | {"seed": choosing.SEEDS[-1]}])
    figure, numbers = own_settings.trials(found)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0::2] == ["once per answer, by the proxy", "inside it, by the proxy"]
    assert [{line.get_label() for line in ax.lines} - {"_"} for ax in figure.axes[1::2]] == [
        {"Bandit (sequence)"},
        {"Token"},
    ]
    assert figure.axes[1].get_ylim() == figure.axes[3].get_ylim(), "one scale for both"
    assert len(numbers) == 2 * 2 * len(GRID["kl_coef"])


def test_runs_by_the_truth_are_those_at_its_setting(trials):
    def ended(**changes):
        return [record("bandit", seed, changes=changes) for seed in (0, 1)]

    plain, chosen = ended(), ended(kl_coef=0.3, actor_learning_rate=1e-3)
    records = plain + ended(kl_coef=0.1, actor_learning_rate=5e-4) + chosen + trials
    assert foretold.at_choices(records, "by_truth") == chosen
    short = ended(kl_coef=0.3, actor_learning_rate=1e-3, lam=0.8)
    assert foretold.at_choices(records + short, "by_truth", lam=0.8) == short, "the same with a shorter reach"
    assert foretold.at_choices(records, "by_truth", lam=0.8) == []
    assert foretold.at_choices(plain + chosen, "by_truth") == [], "without trials there is no choice"
    tuned = [r | {"params": r["params"] | {"tuned": True}} for r in ended(kl_coef=0.1, actor_learning_rate=5e-4)]
    assert foretold.at_choices(records + tuned, "cautious") == tuned, "caution keeps what the proxy chose"
    told = foretold.again(records + tuned).about
    assert "own settings by caution against the proxy's" in set(told)


def test_answers_are_described_per_choice_and_a_choice_without_runs_has_no_line():
    by = {"one for all": [record("bandit", seed) for seed in (0, 1)], "by the proxy": [record("token", 0)]}
    for name in own_settings.ANSWERS:
        for seed, r in enumerate(by["one for all"]):
            r["final"][name] = seed + 1.0
    (row,) = own_settings.answers(by).to_dict("records")
    assert row.pop("setting") == "one for all" and set(row.values()) == {1.5}
