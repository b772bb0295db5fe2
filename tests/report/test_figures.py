"""Figures show what the records say: every method is drawn, axes name their units, intervals are those of `stats`."""

import io
import itertools
import re
from dataclasses import asdict
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from densereward.reward import rewards
from densereward.text.models import build_tokenizer
from report import controls, diagnostics, figures, lines, look, partition_figures, reward_figures, show, strips
from report.notebooks import ROOT
from study import summary
from study.methods import CORE, METHODS
from study.profiles import profile
from study.stats import mean_interval
from testbed import build, describe, oracle, world

LEARNED = tuple(name for name in CORE if METHODS[name].scorer == "bradley-terry")
UNIT = re.compile(r"\(.+\)|rollout|pairs|log p|strongest")


def record(method: str, seed: int, rounds: int = 12, changes: dict | None = None, **more) -> dict:
    """A record in the schema of `record.record`, its numbers made up from method and seed."""
    draw = np.random.default_rng([seed, *map(ord, method)])
    rate, base = draw.uniform(0.5, 1.5), draw.normal(0.1, 0.1)
    made = {
        "kind": "run",
        "method": method,
        "profile": "cpu",
        "dataset": "testbed",
        "seed": seed,
        "params": {
            "method": asdict(METHODS[method]) if method in METHODS else {"name": method},
            "profile": profile("cpu", **(changes or {})).to_dict(),
            "model": None,
        },
        "final": {
            "true_return": base + 2 * rate,
            "true_return_held_out": base + rate,
            "true_return_ordinary": base + 2 * rate,
        },
        "stage_seconds": {"ppo": 50.0},
        "provenance": {"utc": f"2026-01-01T00:00:{seed:02d}", "seconds": 60.0},
    }
    made["final"] |= {"kl": 3 * rate, "length": 40 + 9 * rate, "fact_accuracy": 0.6 + 0.2 * rate, "repetition": 0.4}
    made["final"] |= {"correct": 4.0}
    if method not in ("sft", "dpo"):
        made["curves"] = [
            {
                "rollout": i,
                "true_return": base + 2 * rate * (1 - np.exp(-i / 4)) + draw.normal(0, 0.05),
                "proxy_reward": i * rate,
                "kl": 0.2 * i * rate,
                "length": 40 + i * rate,
                "fact_accuracy": 0.6 + 0.01 * i if i else None,
                "repetition": 0.4,
            }
            for i in range(rounds)
        ]
        made["credit"] = {
            f"{what}_{truth}_{measure}": float(draw.uniform(0, 1))
            for what in ("rewards", "advantages")
            for truth in ("credit", "monte_carlo")
            for measure in ("pearson", "spearman", "kendall", "sign")
        }
        made["gate"] = "failed" if (method, seed) == ("segment", 2) else "passed"
    if method in LEARNED:
        levels = {"style_test": 0.64, "ceiling_test": 0.82, "gate_test": 0.73}
        scores = {name: float(draw.uniform(0.7, 0.8)) for name in ("accuracy_test", "truth_test", "flip_test")}
        made["reward_model"] = {**levels, **scores}
    return {**made, **more}


def records(methods=CORE, seeds=(0, 1, 2), **more) -> list[dict]:
    return [record(method, seed, **more) for method, seed in itertools.product(methods, seeds)]


def svg(figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def drawn_labels(figure) -> set[str]:
    """Everything that a figure names: each line, to its reader or to the pointer, and on the method axis."""
    names = [line.get_label() for ax in figure.axes for line in ax.lines]
    return {*names, *(t.get_text() for t in figure.axes[0].get_yticklabels())}


FIGURES = {
    "curves": (figures.curves, set(CORE) - {"sft", "dpo"}),
    "final_returns": (figures.final_returns, set(CORE)),
    "credit_fidelity": (figures.credit_fidelity, set(CORE) - {"sft", "dpo"}),
    "reward_models": (figures.reward_models, set(LEARNED)),
    "return_against_kl": (figures.return_against_kl, set(CORE) - {"sft", "dpo"}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_method_is_drawn_and_every_axis_has_its_unit(name):
    make, methods = FIGURES[name]
    figure, numbers = make(records())
    ElementTree.fromstring(svg(figure))  # lays out, too: labels exist afterwards
    assert {METHODS[m].label for m in methods} <= drawn_labels(figure)
    assert set(numbers.method) == methods
    for ax in figure.axes:
        for text in filter(None, (ax.get_xlabel(), ax.get_ylabel())):
            assert UNIT.search(text), f"{name}: the axis {text!r} has no unit"
    assert any(ax.get_xlabel() for ax in figure.axes)


def test_a_method_of_ones_own_is_drawn_too():
    """A row that a reader adds to methods.py must appear without an edit here."""
    made = records(("bandit", "mine"))
    assert "mine" in set(figures.final_returns(made)[1].method)
    assert "mine" in drawn_labels(figures.curves(made)[0])


def test_no_two_methods_look_alike():
    looks = [(style["color"], style["marker"]) for style in map(look.style, look.STYLE)]
    assert len(set(looks)) == len(look.STYLE)
    assert set(CORE) <= set(look.STYLE) <= set(METHODS)


def test_intervals_are_t_intervals_over_seeds():
    made = records()
    _, numbers = figures.final_returns(made)
    for method in CORE:
        seeds = [r["final"]["true_return"] for r in made if r["method"] == method]
        row = numbers[(numbers.method == method) & (numbers.measure == "final.true_return")].iloc[0]
        assert (row["mean"], row.low, row.high) == pytest.approx(mean_interval(seeds))
        assert row.seeds == 3
    figure, _ = figures.final_returns(made)
    bars = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(bar, mean_interval(seeds)[1:]) for bar in bars), "the bar is not the interval"


def test_what_lies_beyond_a_cut_axis_stands_at_its_edge_and_two_seeds_have_no_interval():
    made = records(("bandit", "segment"), seeds=(0, 1))
    (low, _, _, high) = sorted(r["final"]["kl"] for r in made)
    edge = (low + high) / 2
    ax = figures.dots(made, {"final.kl": "KL (nats)"}, bounds={"final.kl": (0, edge)})[0].axes[0]
    beyond = sum(r["final"]["kl"] > edge for r in made)
    assert sum(line.get_marker() == ">" for line in ax.lines) == beyond > 0 and ax.get_xlim()[1] == edge
    means = pd.DataFrame([(r["method"], r["final"]["kl"]) for r in made]).groupby(0)[1].mean()
    assert sum("▸" in text.get_text() for text in ax.texts) == (means > edge).sum() > 0
    bars = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
    assert len(bars) == 2 and np.isnan(bars).all()


def test_of_many_lines_the_bandit_and_three_are_named_and_the_others_counted():
    figure, _ = figures.curves(records())
    learned = [text for text in figure.axes[0].texts if text.get_gid() == lines.NAME]
    found = [text.get_text() for text in learned]
    assert len(found) == 5 and "Bandit (sequence)" in found and any(text.endswith(" others") for text in found)


def test_one_seed_has_a_dot_and_no_interval():
    _, numbers = figures.final_returns(records(seeds=(0,)))
    assert numbers.low.isna().all() and numbers["mean"].notna().all()


def test_curves_are_means_with_the_range_over_seeds():
    made = records(("bandit",))
    numbers = summary.curve(made, "true_return").set_index("rollout")
    at = [r["curves"][5]["true_return"] for r in made]
    assert tuple(numbers.loc[5, ["mean", "low", "high"]]) == pytest.approx((np.mean(at), min(at), max(at)))


def test_a_missing_number_leaves_a_gap_and_no_zero():
    """The fact accuracy of a batch without any item is null in the record."""
    assert summary.curve(records(("bandit",)), "fact_accuracy").query("rollout == 0")["mean"].isna().all()


def test_a_run_that_failed_the_gate_is_hollow():
    figure, _ = figures.final_returns(records(("bandit", "segment")))
    seeds = [line for line in figure.axes[0].lines if line.get_linestyle() == "None" and line.get_marker() in "oD"]
    assert sum(line.get_markerfacecolor() == "white" for line in seeds) == 1 and len(seeds) == 6


def test_the_comparison_is_the_fullest_group_and_the_newest_record_of_each_run():
    """Ablations and reruns lie beside the comparison; mixed into it they would count a seed twice."""
    old, rerun = record("bandit", 0), record("bandit", 0, provenance={"utc": "2026-02-01T00:00:00", "seconds": 1.0})
    ablation = records(("bandit", "segment"), changes={"lam": 0.95})
    error = {"kind": "error", "method": "token", "profile": "cpu", "dataset": "testbed", "seed": 0, "params": {}}
    chosen = summary.study([rerun, old, *records(("segment", "sft")), *ablation, error])
    assert len(chosen) == 7
    assert {r["params"]["profile"]["lam"] for r in chosen} == {profile("cpu").lam}
    assert [r["provenance"]["seconds"] for r in chosen if r["method"] == "bandit"] == [1.0]


def test_a_variant_under_the_same_name_is_no_run_of_the_comparison():
    variant = record("segment", 0, provenance={"utc": "2027-01-01T00:00:00", "seconds": 1.0})
    variant["params"]["method"]["segmentation"]["cutoff"] = 2.0
    chosen = summary.study([*records(("bandit", "segment")), variant])
    assert {r["params"]["method"]["segmentation"].get("cutoff") for r in chosen} == {None, 1.75}


def test_a_sweep_holds_what_differs_in_its_settings_alone():
    made = records(("bandit", "segment", "sft"))
    assert summary.varied(made, ("params.profile.lam",)) == [], "nothing was varied"
    other = records(("bandit", "segment"), changes={"lam": 0.95})
    unlike = records(("bandit",), changes={"lam": 0.95, "kl_coef": 0.3})
    found = summary.varied([*made, *other, *unlike], ("params.profile.lam",))
    assert {r["method"] for r in found} == {"bandit", "segment"} and len(found) == 12
    assert {r["params"]["profile"]["kl_coef"] for r in found} == {profile("cpu").kl_coef}


def test_failed_runs_are_listed_until_they_are_made_good():
    """A negative result that no page shows is a result hidden."""
    error = {"kind": "error", "method": "bandit", "dataset": "testbed", "params": {}, "error": "ValueError: x"}
    made = [*records(("bandit", "segment")), {**error, "seed": 0}, {**error, "seed": 9}]
    assert list(summary.failures(made).itertuples(index=False, name=None)) == [
        ("Bandit (sequence)", 9, "ValueError: x"),
        ("Segment (entropy)", 2, "its reward model failed the gate"),
    ]


def test_a_failed_ablation_does_not_hide_behind_the_main_run_of_its_method():
    made = records(("bandit",))
    (ablation,) = records(("bandit",), seeds=(0,), changes={"lam": 0.95})
    error = {name: ablation[name] for name in ("method", "profile", "dataset", "seed", "params")}
    error |= {"kind": "error", "error": "ValueError: x"}
    assert list(summary.failures([*made, error]).what) == ["ValueError: x"]
    assert summary.failures([*made, error, ablation]).empty


def test_contrasts_pair_the_seeds_that_both_have():
    made = records(("bandit", "segment"))[:-1]  # segment lacks the last seed
    row = summary.contrasts(made).iloc[0]
    finals = {(r["method"], r["seed"]): r["final"]["true_return"] for r in made}
    assert row.seeds == 2
    assert row.difference == pytest.approx(np.mean([finals["segment", s] - finals["bandit", s] for s in (0, 1)]))


def test_tables_have_a_row_per_method_and_a_dash_where_nothing_was_measured():
    frame = summary.table(records(), {"final.true_return": "return", "reward_model.accuracy_test": "accuracy"})
    assert list(frame.method) == [METHODS[m].label for m in CORE]
    assert frame.accuracy.isna().sum() == len(CORE) - len(LEARNED)
    assert re.fullmatch(r"-?\d\.\d\d ± \d+\.\d\d", frame["return"][1])


def test_sweeps_draw_each_setting_with_its_own_interval():
    made = [
        r
        for lam, warmup in itertools.product((0.95, 1.0), (0, 4))
        for r in records(("bandit", "segment"), changes={"lam": lam, "critic_warmup": warmup})
    ]
    name, x, panel = "final.true_return", "params.profile.lam", "params.profile.critic_warmup"
    figure, numbers = figures.sweep(made, name, "true return (credit)", x, "lambda of GAE", panel)
    assert len(figure.axes) == 2 and len(numbers) == 8
    seeds = [
        r["final"]["true_return"] for r in made if r["method"] == "segment" and r["params"]["profile"]["lam"] == 1.0
    ]
    row = numbers.query(f"method == 'segment' and `{x}` == 1.0 and `{panel}` == 4").iloc[0]
    assert (row["mean"], row.low, row.high) == pytest.approx(mean_interval(seeds[3:]))


def test_the_tuning_grid_shows_the_mean_by_which_a_setting_is_chosen():
    grid = itertools.product(("bandit", "segment"), (1.0, 4.0))
    trials = [
        {"method": m, "changes": {"rm_scale": s}, "accuracy": 0.6 + s / 100 + (m == "bandit") / 10} for m, s in grid
    ]
    figure, numbers = figures.tuning(trials, "accuracy", "accuracy (share)")
    assert list(numbers.setting.unique()) == ["rm scale 1", "rm scale 4"]
    means = next(line for line in figure.axes[0].lines if line.get_marker() == "|")
    assert list(means.get_xdata()) == pytest.approx([0.66, 0.69])
    for scale, used in {1.0: 0.66, 2.0: float("nan")}.items():
        runs = [{"params": {"profile": {"rm_scale": scale, "kl_coef": 0.1}}}]
        found = summary.tried(trials, runs, "accuracy")
        assert found == {"used": pytest.approx(used, nan_ok=True), "best": pytest.approx(0.69)}


def test_settings_that_older_records_lack_do_not_stop_the_table_of_choices():
    runs = [{"method": "bandit", "params": {"profile": {"kl_coef": 0.1, "actor_learning_rate": 3e-4}}}]
    found = summary.chosen(runs)
    assert found.to_dict("records") == [{"method": "Bandit (sequence)", "kl_coef": 0.1, "actor_learning_rate": 3e-4}]


def test_figures_are_equal_files_on_white_with_text_as_text():
    """A rebuilt book must not differ where nothing changed; text must scale and be searchable."""
    one, two = (svg(figures.final_returns(records())[0]) for _ in range(2))
    assert one == two
    assert ">Segment (entropy)</text>" in one and "fill: #ffffff" in one
    sizes = [float(x) for x in re.findall(r"font-size: ([\d.]+)px", one)]
    assert sizes and min(sizes) >= 9


# --- single stages ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture():
    return describe.answers(world.World(kinds=3), 300, seed=0)


def test_testbed_figures_say_what_the_oracle_says(mixture):
    rows = build.build(world.World(kinds=3), 0, preference=300)["preference"]
    pairs = describe.pairs(rows)
    assert np.mean((np.sign(pairs.gap) + 1) / 2) == pytest.approx(build.ceiling(world.World(kinds=3), rows))
    title = diagnostics.length_gaps(pairs)[0].axes[0].get_title()
    share = float(re.search(r"\((0\.\d+),", title)[1])
    assert abs(share - 0.5) < 3 * (0.25 / 300) ** 0.5, f"length is balanced in expectation, the figure says: {title}"
    shares = describe.shares(mixture)
    assert shares.share.sum() == pytest.approx(1) and set(shares.kind) == set(world.CREDITS)
    for figure, _ in (
        diagnostics.span_shares(shares),
        diagnostics.returns_by_quality(mixture),
        diagnostics.label_noise(pairs, 1.0, {"ceiling": 0.9, "style only": 0.6}),
    ):
        assert figure.axes[0].get_xlabel()


def test_splits_share_no_prompt_and_the_test_split_alone_has_the_held_out_ones():
    frame = describe.splits(world.World(kinds=3)).set_index("split")
    assert (frame["prompts in another split"] == 0).all()
    assert frame["of these held out"].to_dict() == {s: 3 * (s == "test") for s in world.SPLITS}
    assert describe.held_out(world.World(kinds=3)).count(",") == 2


def test_every_kind_of_span_is_explained_and_coloured():
    assert set(describe.KINDS) == set(strips.SPANS) == set(world.CREDITS)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_entropies_above_the_cutoff_are_marked_as_starts():
    tokens = ["a", " $b\x01", " c\n"]  # what a model samples may be no text
    figure, numbers = diagnostics.token_entropies(tokens, torch.tensor([0.1, 2.0, 1.75]), 1.75)
    ElementTree.fromstring(svg(figure))
    assert list(numbers.starts) == [True, True, False]  # the first token always; the cut-off itself is not above it
    assert "nats" in figure.axes[0].get_ylabel()


def test_the_normaliser_figure_draws_the_fit_that_is_used():
    scores, mask = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)), torch.ones(200, 6)
    fitted = rewards.fit_normaliser("regression", scores, mask)
    figure, numbers = diagnostics.normaliser_fit({"segment": (scores, mask.bool(), fitted)})
    line = next(line for line in figure.axes[0].lines if line.get_color() == "black")
    x, y = line.get_data()
    assert np.allclose(y, fitted.w_mean * x + fitted.b_mean)
    assert len(numbers) == 6


def test_cutoffs_and_learning_curves_are_drawn():
    frame = pd.DataFrame(
        {
            "cutoff": [1.5, 2.0],
            "segment_length": [3, 5],
            "precision": [0.8, 0.9],
            "recall": [0.9, 0.5],
        }
    )
    assert len(diagnostics.cutoffs(frame)[0].axes) == 2
    assert len(diagnostics.cutoffs(frame[["cutoff", "segment_length"]])[0].axes) == 1
    metrics = {"bandit": {"curve": [{"pairs": 10, "accuracy": 0.6}], "gate_validation": 0.7}}
    assert "gate" in drawn_labels(diagnostics.learning_curves(metrics)[0])


# --- strips ----------------------------------------------------------------------------------------------------------


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def contrast(colour, other) -> float:
    """WCAG's contrast ratio of two colours [3], 0 to 255."""

    def luminance(c):
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.asarray(c) / 255]
        return np.dot([0.2126, 0.7152, 0.0722], parts)

    low, high = sorted((luminance(colour), luminance(other)))
    return (high + 0.05) / (low + 0.05)


DARK = {
    name: "#121212" if twin.startswith("var") else twin for name, twin in look.DARK.items()
}  # as the theme's ground
GROUNDS = {"light": {name: name for name in DARK}, "dark": DARK}


def mixed(colour: str, twins: dict) -> np.ndarray:
    """What a browser makes of a colour of `strips.tint`, or of a plain one."""
    if not (found := re.fullmatch(r"color-mix\(in srgb, var\(.*?, (#\w+)\) (\d+)%, var\(.*?, (#\w+)\)\)", colour)):
        return rgb(twins[colour])
    return (int(found[2]) * rgb(twins[found[1]]) + (100 - int(found[2])) * rgb(twins[found[3]])) / 100


@pytest.mark.parametrize("twins", GROUNDS.values(), ids=GROUNDS)
def test_strip_text_is_legible_on_every_background(twins):
    used = [strips.tint(x, 1.0) for x in np.linspace(-1, 1, 21)]
    used += [c for c, _ in strips.SPANS.values()] + [*strips.SEGMENTS]
    assert min(contrast(mixed(c, twins), rgb(twins[strips.INK])) for c in used) >= 4.5


@pytest.mark.parametrize("twins", GROUNDS.values(), ids=GROUNDS)
def test_signs_have_colours_of_their_own_and_zero_has_none(twins):
    assert strips.tint(0.0, 1.0) == strips.PAPER == strips.tint(0.0, 0.0)
    red = [np.subtract(*mixed(strips.tint(x, 1.0), twins)[[0, 2]]) for x in (-0.5, 0.5)]
    assert red[0] > 0 > red[1], "below zero is orange, above is blue"


def test_the_page_knows_the_dark_twin_of_every_colour():
    """A colour without its line in the style sheet is that of light mode: black axes on a dark page."""
    css = (ROOT / "book" / "_static" / "book.css").read_text()
    assert dict(re.findall(r"--c(\w{6}): (\S+);", css)) == {name[1:]: twin for name, twin in look.DARK.items()}
    methods = {look.style(name)["color"].lower() for name in METHODS}
    assert methods <= look.DARK.keys()
    assert min(contrast(rgb(DARK[colour]), rgb(DARK["#ffffff"])) for colour in methods) >= 3


def test_paths_in_the_plane_of_kl_are_named_at_their_last_batch():
    made = records(("bandit", "token"), seeds=(0,))
    for r in made:
        for row in r["curves"]:
            row["kl"] = 5.0 - abs(row["rollout"] - 4)  # goes back
    figure, numbers = figures.return_against_kl(made)
    last = numbers[numbers.rollout == numbers.rollout.max()]
    for ax, name in zip(figure.axes, ("true_return", "proxy_reward"), strict=True):
        ends = {text.xy for text in ax.texts if text.get_gid() == lines.NAME}
        assert ends == set(zip(last.kl, last[name], strict=True))


def test_names_of_points_lie_over_no_other_name():
    figure, axes = look.canvas(height=3.4)
    ax = axes[0, 0]
    points = [(0.1 + 0.01 * i, 1.0 + 0.02 * (i % 2), f"Normaliser: number {i}") for i in range(6)]
    ax.plot(*zip(*[point[:2] for point in points], strict=True), "o")
    ax.set(xlim=(-1, 1), ylim=(0, 2))
    look.names(ax, points)
    look.beside(figure)
    texts = ax.texts
    boxes = [Text.get_window_extent(text) for text in texts]  # without its lead
    assert [text.get_text() for text in texts] == [name for *_, name in points]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_names_of_near_points_stand_in_the_order_of_their_heights():
    """As in the figure of wages, where a third name leaves less room."""
    rows = {"segment": (0.2129, 14.96), "interpolation-none": (0.2129, 16.34), "interpolation-repeat": (0.2209, 5.99)}
    rows |= {"token-min": (-0.2016, 0.1777)}
    numbers = pd.DataFrame([(m, x, x - 0.01, x + 0.01, y) for m, (x, y) in rows.items()])
    figure, _ = reward_figures.foretold(numbers.set_axis(["method", "wage", "low", "high", "repetition"], axis=1))
    look.beside(figure)
    heights = {text.get_text(): Text.get_window_extent(text).y0 for text in figure.axes[0].texts}
    assert heights["Segment (entropy)"] < heights["Interpolation: none"]


def test_a_figure_on_a_page_keeps_to_itself():
    """Two figures on one page share its names and styles: what one defines must not change the other, or the page."""
    pages = []
    for height in (1, 2):
        figure, axes = look.canvas()
        axes[0, 0].plot([0, height], marker="o", color="#0072B2")
        pages.append(look.drawing(figure, 'a "line"'))
    ids = [set(re.findall(r'id="([^"]+)"', page)) for page in pages]
    assert all(ids) and not ids[0] & ids[1]
    for page, own in zip(pages, ids, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) == own, "every name that is used is there"
        assert "<style" not in page and 'aria-label="a &quot;line&quot;"' in page
        assert "var(--c0072b2, #0072b2)" in page and "Date" not in page


def test_strips_hold_the_whole_text_and_each_number():
    """What a strip leaves out or escapes wrongly, a reader takes for the model's answer."""
    text = "a <b> & é\nend."
    tokenizer = build_tokenizer([text] * 3, 270)
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    tokens = strips.pieces(tokenizer, ids)
    assert "".join(tokens) == text + strips.END
    page = strips.values("reward", tokens, [0.5] * len(tokens), [0] * len(tokens))
    plain = re.sub(r"<[^>]+>", "", page)
    assert "a &lt;b&gt; &amp; é↵\nend." in plain and page.count("+0.500") == len(tokens)
    assert page.count("border-left") == 1


def test_spans_show_each_credit_of_the_oracle():
    prompt, text = "please name three fruits.", "sure: apple, hammer, zzz."
    page = strips.spans(prompt, text, oracle.parse(prompt, text))
    said = [float(x.replace("−", "-")) for x in re.findall(r"credit (\S+?)\"", page)]
    assert said == [s.credit for s in oracle.parse(prompt, text)]


def test_how_many_scorers_pass_the_gate_is_said_of_those_it_judges():
    made = [
        *records(("bandit", "segment", "tlcr", "bandit-synthetic", "sft")),
        record("bandit", 3) | {"gate": "failed"},
    ]
    assert controls.gate(made).startswith("Of 7 runs whose scorer learns from preference pairs 5 have one that passes")
    assert "the gate asks for 0.73 and labels allow 0.82." in controls.gate(made)
    assert controls.gate(records(("sft", "tlcr"))) == "No run here has a scorer of preference pairs."


def test_every_figure_names_the_commit_of_its_records_or_of_the_code_that_made_it(monkeypatch):
    pages = []
    monkeypatch.setattr(show, "display", lambda bundle, **kwargs: pages.append(bundle["text/html"]))
    records = [{"provenance": {"commit": digit * 40}} for digit in "abbcde"]
    for source in (f"Data: x{show.made_by(records)}.", "Committed scorers of profile cpu.", ""):
        show.figure((look.canvas()[0], pd.DataFrame({"x": [1.0]})), "Nothing.", "Seen in two runs.", source)
    stored, *here = (re.search("<figcaption>(.*?) <a", page)[1] for page in pages)
    named = "aaaaaaa, bbbbbbb, ccccccc and 2 more"
    assert stored == f"Seen in two runs. Data: x, made by commits {named}." and show.made_by([]) == ""
    assert all(re.search(r" Made at commit \w{7}[.,]", caption) for caption in here), here


def test_a_parameter_that_is_none_is_none_and_no_gap_in_measuring(monkeypatch):
    shown = []
    monkeypatch.setattr(show, "display", lambda bundle, **_: shown.append(bundle["text/html"]))
    show.provenance({"provenance": {"commit": "abc"}, "params": {"mask": None, "content": "", "seed": 0, "rows": [1]}})
    assert "Nothing measured" not in shown[0] and shown[0].count(">none<") == 2


def test_a_phone_has_each_panel_below_the_other_with_the_ticks_that_they_share():
    figure, axes = look.canvas(2, 2, sharey="row", sharex=True)
    axes[0, 0].set_yticks([0, 1], ["one", "two"])
    axes[1, 0].set_xlabel("rounds")
    axes[0, 0].set_ylabel("share (of all)")
    axes[0, 1].set_title("a title that is far too long for half a page, and for a phone in one line as well")
    page, phone = look.drawing(figure, "alt").split("<svg")[1:]
    assert ' class="page"' in page and ' class="phone"' in phone and page.count('aria-label="alt"') == 1
    assert page.count(">two<") == 1 and phone.count(">two<") == 2 and phone.count(">share (of all)<") == 2
    assert page.count(">rounds<") == 1 and phone.count(">rounds<") == 2
    heights = [ax.get_position().y0 for ax in axes.T.flat]
    assert heights == sorted(heights, reverse=True), "column after column"
    outer = figure.bbox.expanded(1.01, 1.01)
    assert all(outer.contains(*ax.title.get_window_extent().max) for ax in axes.flat)


@pytest.mark.parametrize("inches, turned, kind", [(4.4, 0, None), (7.4, 0, "page"), (7.4, 90, "wide")])
def test_a_figure_that_a_phone_cannot_hold_is_marked(inches, turned, kind):
    figure = Figure(figsize=(inches, 2))
    figure.subplots().tick_params(axis="x", rotation=turned)
    found = re.search('class="([^"]+)"', look.drawing(figure, "alt").split(">")[0])
    assert (found and found[1]) == kind


def test_more_noise_is_a_stronger_mark_on_either_ground():
    """Greys without a twin were brightest, or not to be seen, on a dark page."""
    for ground, colours in GROUNDS.items():
        seen = [contrast(rgb(colours[x]), rgb(colours["#ffffff"])) for x in partition_figures.STRONGER]
        assert seen == sorted(seen) and seen[0] > 1.3, ground
