"""The testbed: what a reader must be able to rely on before any comparison made on it means something."""

import hashlib
import itertools
import json
import re
import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from study.profiles import PROFILES
from study.records import ROOT
from testbed import build, monte_carlo, oracle, truth
from testbed import world as w
from testbed.world import World

PROMPT = "please name three fruits for a picnic."
WORLD = World(kinds=6)


def kinds(response, prompt=PROMPT):
    return [s.kind for s in oracle.parse(prompt, response)]


def test_every_kind_of_span_is_read_and_credited_as_documented():
    text = "sure: maybe apple, hammer would do. maybe apple; pear and plum, lemon, the river is quiet at night"
    text += ", blorb. hope that helps."
    spans = oracle.parse(PROMPT, text)
    assert [s.kind for s in spans] == [
        "greeting", "correct", "wrong", "repetition", "correct", "correct", "not_asked", "off_topic", "junk", "closing",
    ]  # fmt: skip
    assert [s.credit for s in spans] == [w.CREDITS[s.kind] for s in spans]
    assert oracle.true_return(PROMPT, text) == pytest.approx(sum(s.credit for s in spans))


def test_misspelling_truncation_and_emptiness_cost_what_the_table_says():
    assert oracle.true_return(PROMPT, "apple.") == w.CREDITS["correct"]
    assert oracle.true_return(PROMPT, "appke.") == w.CREDITS["correct"] + w.MISSPELT
    assert oracle.true_return(PROMPT, "apple") == w.CREDITS["correct"] + w.UNFINISHED
    assert oracle.true_return(PROMPT, "") == w.EMPTY
    assert kinds("good luck with it, apple.") == ["off_topic", "correct"], "a closing at the start answers nothing"


def test_the_page_has_the_credits_and_the_splits_of_the_code():
    page = (ROOT / "book" / "testbed.md").read_text().replace("−", "-")
    assert all(re.search(rf"^\| {kind} \| {worth:g} \|", page, re.M) for kind, worth in w.CREDITS.items())
    assert all(f"({share:.0%})" in page for share in w.SPLITS.values())


def test_a_remark_said_twice_is_a_repetition_and_so_is_a_greeting():
    """Else a policy could fill an answer with one remark at the price of new ones."""
    remark = w.REMARKS[0]
    assert kinds(f"apple, {remark}, {remark}, {w.REMARKS[1]}.") == ["correct", "off_topic", "repetition", "off_topic"]
    assert kinds("sure: apple, sure.")[0] == "greeting" and kinds(f"{remark}, apple, {remark}.")[2] == "repetition"


def test_endless_junk_costs_without_end():
    assert oracle.true_return(PROMPT, "x" * 480 + ".") < 2 * oracle.true_return(PROMPT, "x" * 240 + ".") + 1


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=120), st.text(alphabet="apler,.; andhmsut:!", max_size=120)))
def test_any_text_is_covered_by_spans_character_by_character(text):
    spans = oracle.parse(PROMPT, text)
    assert [s.start for s in spans] == [0, *(s.end for s in spans[:-1])]
    assert spans[-1].end == len(text)
    assert all(s.end > s.start for s in spans) or not text


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_what_the_generator_writes_the_oracle_reads_without_junk(seed):
    rng = np.random.default_rng(seed)
    kind = list(w.ITEMS)[seed % 6]
    text = w.answer({kind: 4}, 0.7, WORLD, rng)
    assert "junk" not in kinds(text, f"please name four {kind}.")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_tokens_are_given_to_the_span_that_holds_them(seed):
    text = w.answer({"fruits": 3}, 0.7, WORLD, np.random.default_rng(seed))
    spans = oracle.parse(PROMPT, text)
    cuts = sorted({0, len(text), *np.random.default_rng(seed).integers(1, len(text), 12).tolist()})
    offsets = [*zip(cuts, cuts[1:], strict=False), (0, 0)]  # any tokenisation, then an EOS without characters
    held = oracle.token_spans(spans, offsets)
    for (_, end), index in zip(offsets[:-1], held[:-1], strict=True):
        assert spans[index].start < end <= spans[index].end
    assert held[-1] == len(spans) - 1


def test_prompts_of_all_splits_are_disjoint_and_held_out_combinations_are_in_the_test_split_only():
    pools = {split: w.prompts(WORLD, split) for split in w.SPLITS}
    assert sum(map(len, pools.values())) == len(set().union(*pools.values()))
    for split, pool in pools.items():
        assert any(map(monte_carlo.is_held_out, pool)) == (split == "test")
    shares = {split: len(pool) for split, pool in pools.items()}
    assert shares["sft"] > shares["preference"] > shares["ppo"] > shares["test"] > shares["validation"] > 200


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_as_many_answers_repeat_something_as_the_world_says(share):
    """Answers without a wrong item, so that whatever is repeated counts as a repetition."""
    draw = np.random.default_rng(0)
    texts = [w.answer({"fruits": 3}, 1.0, World(kinds=6, repeats=share), draw) for _ in range(800)]
    found = np.mean([any(s.kind == "repetition" for s in oracle.parse(PROMPT, text)) for text in texts])
    assert found == share if share in (0.0, 1.0) else abs(found - share) < 0.06


def test_the_book_says_how_many_prompts_a_run_of_ppo_has():
    """All of its split, and some of them twice: 2,048 rollouts are not as many prompts."""
    p = PROFILES["cpu"]
    pool, wanted = w.prompts(p.world, "ppo"), p.rounds * p.rollouts
    rows = build.build(p.world, 0, ppo=wanted)["ppo"]
    assert len({row["prompt"][-1]["content"] for row in rows}) == len(pool) < wanted
    assert f"and {len(pool):,} prompts for {wanted:,} rollouts" in (ROOT / "book" / "deviations.md").read_text()


def test_the_data_of_committed_records_do_not_drift():
    """The whole of a small build, in one hash: whatever moves a draw makes older records those of other data."""
    rows = build.build(World(kinds=3), 0, contrast=0.2, sft=20, preference=20, ppo=20, validation=10, test=10)
    found = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert found == "5a26adf89f71e8b3baa4e599ea94f9616ce3a191894fb63af439094df3a35ca9"


def test_length_says_nothing_about_the_label():
    """The longer answer wins half of the pairs, and, at equal true return, has no odds of its own: labels are exact."""
    pairs = build.preference_pairs(WORLD, "preference", 3000, np.random.default_rng(0))
    longer, gaps = [], []
    for p in pairs:
        prompt, a, b = p["prompt"][0]["content"], p["chosen"][0]["content"], p["rejected"][0]["content"]
        longer.append(np.sign(len(a) - len(b)))
        gaps.append(oracle.true_return(prompt, a) - oracle.true_return(prompt, b))
    longer, gaps = np.array(longer), np.array(gaps)
    assert abs((longer > 0).mean() - (longer < 0).mean()) < 0.04
    residual = np.mean(longer * (1 - expit(gaps)))  # score of a Bradley-Terry model with a length term, at zero
    assert abs(residual) < 4 * np.std(longer * (1 - expit(gaps))) / len(pairs) ** 0.5


def test_a_repetition_costs_as_much_in_pairs_as_between_any_two_answers():
    """Leaving pairs out to balance lengths halved the evidence against it: -.30 to -.13 per further repetition. In the
    comparison's world, over several draws: one draw of 4,000 pairs lies within .05 of the mean."""
    gaps, more = [], []
    world, draws = PROFILES["brief"].world, map(np.random.default_rng, range(4))
    for p in itertools.chain(*(build.preference_pairs(world, "preference", 4000, rng) for rng in draws)):
        prompt, texts = p["prompt"][0]["content"], [p[side][0]["content"] for side in ("chosen", "rejected")]
        returns, spans = zip(*((oracle.true_return(prompt, t), oracle.parse(prompt, t)) for t in texts), strict=True)
        gaps.append(returns[0] - returns[1])
        more.append(np.subtract(*(sum(s.kind == "repetition" for s in part) for part in spans)))
    gaps, more = np.array(gaps), np.array(more)
    assert (gaps * np.sign(more)).sum() / np.abs(more).sum() < -0.25


def test_labels_follow_the_true_return_with_the_noise_that_is_reported():
    pairs = build.preference_pairs(WORLD, "preference", 600, np.random.default_rng(0))
    assert 0.8 < build.ceiling(WORLD, pairs) < 0.92
    sharp = build.preference_pairs(World(kinds=6, temperature=0.01), "preference", 200, np.random.default_rng(0))
    assert build.ceiling(WORLD, sharp) > 0.95  # a tie counts one half


def test_style_alone_does_not_tell_a_right_item_from_a_wrong_one():
    """Not in items, not in repetitions (only right items can be credited as such), not in items beyond the number."""
    right, wrong = "apple and pear; apple. plum, lemon.", "saw and drum; saw. coat, goat."
    assert kinds(right) != kinds(wrong)
    assert build.style_features(PROMPT, right) == build.style_features(PROMPT, wrong)
    assert build.style_features(PROMPT, right) != build.style_features(PROMPT, right.replace("apple. ", "grape. "))


def test_an_exchanged_item_changes_that_credit_and_nothing_else():
    rng = np.random.default_rng(0)
    text = "sure: apple, pear would do. plum."
    changed = build.swap_items(PROMPT, text, 1, rng, only=("correct",))
    before, after = oracle.parse(PROMPT, text), oracle.parse(PROMPT, changed)
    assert [s.kind != t.kind for s, t in zip(before, after, strict=True)].count(True) == 1
    assert oracle.true_return(PROMPT, text) - oracle.true_return(PROMPT, changed) == pytest.approx(2.0)


def test_an_equal_score_is_no_drop():
    """Pairs of scores, before and after: lower, equal, higher. A scorer that sees no difference flips nothing."""
    assert truth._drops(np.array([2.0, 1.0, 1.0, 1.0, 0.0, 1.0, 3.0, 3.0])) == 0.25
    assert truth._drops(np.zeros(6)) == 0.0 and truth._drops(np.zeros(0)) is None


def test_returns_that_are_no_sum_over_spans():
    complete, faulty = "apple, pear and plum.", "apple, pear, plum and hammer."
    assert oracle.true_return(PROMPT, complete, "coverage") == oracle.true_return(PROMPT, complete) + 2
    assert oracle.true_return(PROMPT, faulty, "coverage") == oracle.true_return(PROMPT, faulty)
    assert [oracle.true_return(PROMPT, t, "whole") for t in (complete, faulty, "apple")] == [3.0, 0.0, -1.0]


def test_an_item_too_many_has_one_price_and_nothing_else_changes():
    """What the map varies. The prompt asks for three fruits: a fourth and one said twice cost alike, a wrong item and a
    remark said twice cost what they do; credits of spans add up to the return."""
    text = "apple, pear, plum, lemon, apple, hammer, the weather is lovely today, the weather is lovely today."
    plain = oracle.true_return(PROMPT, text)
    for name, price in oracle.PRICES.items():
        assert oracle.true_return(PROMPT, text, name) == pytest.approx(plain + 1.2 + 2 * price)
        credits = [oracle.credit(span, price) for span in oracle.parse(PROMPT, text)]
        assert sum(credits) == pytest.approx(oracle.true_return(PROMPT, text, name))
    assert set(oracle.RETURNS) == set(typing.get_args(typing.get_args(w.Returns)[0]))


def test_a_seed_redraws_preferences_but_never_the_fine_tuning_data():
    sizes = {"sft": 20, "preference": 20, "ppo": 20}
    one, same, two = (build.build(WORLD, seed, **sizes) for seed in (0, 0, 1))
    assert one == same
    assert one["sft"] == two["sft"]
    assert one["preference"] != two["preference"] and one["ppo"] != two["ppo"]


def test_contrast_pairs_differ_in_items_only():
    pairs = build.preference_pairs(WORLD, "preference", 50, np.random.default_rng(0), contrast=1.0)
    for p in pairs:
        prompt = p["prompt"][0]["content"]
        a, b = (oracle.parse(prompt, p[side][0]["content"]) for side in ("chosen", "rejected"))
        assert len(a) == len(b) and 1 <= sum(s.item != t.item for s, t in zip(a, b, strict=True)) <= 2


def test_a_prompt_of_another_world_is_refused_by_name():
    with pytest.raises(ValueError, match="not a testbed prompt: 'what is love'"):
        oracle.parse("what is love", "apple.")
