"""Revisers: one that spoils what was good, mends by accident, tells the truth unasked, or counts otherwise than it
does."""

import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densereward.labels import revision
from densereward.labels.clauses import clause_reviser, clauses
from densereward.labels.revision import Revision, checked, revise_rows, totals
from testbed import build, oracle
from testbed import world as w
from testbed.revise import GOOD, oracle_reviser
from testbed.world import World

PROMPT = "please name three fruits for a picnic."
MESSAGES = build.messages(PROMPT)
CHOSEN = "maybe cherry, maybe mango, maybe grape."
PERFECT = oracle_reviser(0, 0.0)


def good(span) -> bool:
    return span.kind in GOOD and not span.misspelt


def words_of(text, span) -> str:
    """The clause of a span, without joint and full stop."""
    clause = text[span.start : span.end]
    joint = oracle._JOINT.match(clause)
    return clause[joint.end() if joint else 0 :].strip().removesuffix(".").strip()


def contains_in_order(needles: list, hay: list) -> bool:
    rest = iter(hay)
    return all(needle in rest for needle in needles)


@st.composite
def answers(draw):
    """Answers of the world, sound, cut off, or with characters strewn in."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    text = w.answer({"fruits": int(rng.integers(3, 7))}, float(rng.choice([0.1, 0.4, 0.95])), World(kinds=6), rng)
    how = draw(st.sampled_from(["sound", "cut", "strewn", "doubled", "spaced"]))
    where = int(rng.integers(len(text) + 1))
    if how == "cut":
        return text[:where]
    if how == "strewn":
        return text[:where] + draw(st.text("ab ,.;:!\n", max_size=60)) + text[where:]
    if how == "spaced":
        return "".join(c + " " * int(rng.random() < 0.05) for c in text)
    return text + " " + text if how == "doubled" else text


def several(parts: int, seed: int) -> tuple[str, list[str]]:
    """A prompt that asks for so many kinds, and two answers to it."""
    world, rng = World(kinds=5, parts=parts), np.random.default_rng(seed)
    prompt = rng.choice(w.prompts(world, "validation"))
    return str(prompt), [w.answer(oracle.ask(prompt), float(rng.choice([0.1, 0.4, 0.95])), world, rng) for _ in "ab"]


# --- the oracle, always right ----------------------------------------------------------------------------------------


@settings(max_examples=600, deadline=None)
@given(st.one_of(answers(), st.text("aple,.; andhmsut:!", max_size=150)), answers())
def test_without_errors_no_defect_is_left_and_no_good_span_touched(rejected, chosen):
    revised = PERFECT(MESSAGES, rejected, chosen)
    rejected = rejected.strip()  # spaces at the ends do not count
    text = rejected if revised.failure == "identical" else revised.text
    before, after = oracle.parse(PROMPT, rejected), oracle.parse(PROMPT, text)
    assert all(map(good, after)), text
    assert text.endswith(".")
    assert sum(span.kind == "correct" for span in after) == 3
    kept = [words_of(rejected, span) for span in before if good(span)]
    assert contains_in_order(kept, [words_of(text, span) for span in after])
    assert revised.counts.get("kept", 0) == len(kept)


@pytest.mark.parametrize(
    "rejected, revised",
    [
        ("sure: maybe apple, hammer would do. pear; drum.", "sure: maybe apple, cherry would do. pear."),
        ("hammer and apple, pear; plum.", "apple, pear; plum."),  # three right items are there: the wrong one goes
        ("of course! it is almost noon, apple, pear; plum.", "of course! apple, pear; plum."),
        ("apple, maybe apple, maybe apple, pear.", "apple, maybe cherry, pear."),
        ("apple, pear, plum, lemon, mango. good luck with it.", "apple, pear, plum. good luck with it."),
        ("appke, pear, plum.", "apple, pear, plum."),
        ("apple, pear, plum", "apple, pear, plum."),
        ("blorb, apple, pear, plum.", "apple, pear, plum."),
        ("sure: blorb, apple, pear, plum.", "sure: apple, pear, plum."),
        ("hope that helps, apple, pear, plum.", "apple, pear, plum."),
        ("apple, pear, plum  and drum.", "apple, pear, plum."),
        (" sure:, hammer; apple, pear, plum. ", "sure: apple, pear, plum."),
        ("pear, " + "y" * 24 + "i would say apple is a good choice, plum.",
         "pear, i would say apple is a good choice, plum."),
    ],
)  # fmt: skip
def test_a_defect_is_exchanged_left_out_or_spelt_right_and_nothing_else_happens(rejected, revised):
    assert PERFECT(MESSAGES, rejected, CHOSEN).text == revised


def test_missing_items_are_the_chosen_ones_first_and_come_before_a_closing():
    text = PERFECT(MESSAGES, "maybe apple; good luck with it.", "drum, cherry and apple; mango.").text
    assert [s.item for s in oracle.parse(PROMPT, text)] == ["apple", "cherry", "mango", None]
    assert text.startswith("maybe apple, ") and text.endswith("; good luck with it.")
    poor = [s.item for s in oracle.parse(PROMPT, PERFECT(MESSAGES, "apple.", "drum.").text)]
    assert poor[0] == "apple" and len(set(poor)) == 3 and set(poor) <= set(w.ITEMS["fruits"])


def test_a_lonely_closing_ends_the_answer_that_is_put_before_it():
    text = PERFECT(MESSAGES, "hope that helps.", CHOSEN).text
    assert [s.kind for s in oracle.parse(PROMPT, text)] == ["correct"] * 3 + ["closing"]


def test_a_clean_and_complete_answer_is_a_failure_not_a_label():
    found = PERFECT(MESSAGES, "apple, pear, plum.", CHOSEN)
    assert (found.text, found.failure, found.counts["kept"]) == (None, "identical", 3)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([1, 2, 3, 4]), st.integers(0, 10**6))
def test_every_kind_that_was_asked_for_is_made_complete(parts, seed):
    prompt, (rejected, chosen) = several(parts, seed)
    revised = PERFECT(build.messages(prompt), rejected, chosen)
    text = rejected.strip() if revised.failure == "identical" else revised.text
    assert oracle.true_return(prompt, text, "whole") == 3, text
    counts, before = revised.counts, oracle.parse(prompt, rejected.strip())
    assert counts.get("kept", 0) == sum(map(good, before))
    places = counts.get("kept", 0) + counts.get("mended", 0) + counts["added"]
    assert places >= sum(s.item is not None for s in oracle.parse(prompt, text))


def test_a_wrong_item_gives_way_to_any_kind_that_is_short():
    prompt = "please name three fruits and three tools."
    rejected, chosen = "apple, drum, saw, apple, pear, plum, lemon.", "drill, axe."
    revised = PERFECT(build.messages(prompt), rejected, chosen)
    assert revised.text == "apple, drill, saw, axe, pear, plum."


# --- the oracle, erring ----------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(answers(), answers(), st.integers(0, 5))
def test_always_erring_it_mends_nothing_and_leaves_nothing_good_alone(rejected, chosen, seed):
    found = oracle_reviser(seed, 1.0)(MESSAGES, rejected, chosen)
    before = oracle.parse(PROMPT, rejected.strip())
    counts = Counter(found.counts)
    assert counts["mended"] == counts["kept"] == counts["added"] == counts["stops"] == 0
    assert counts["missed"] == sum(not good(span) for span in before)
    assert counts["broken"] + counts["rewritten"] == sum(map(good, before))
    if found.text:
        missed = [words_of(rejected.strip(), span) for span in before if not good(span) and span.item]
        rest = found.text
        for clause in missed:
            assert clause in rest, "what is missed stays as it is, and in its place"
            rest = rest[rest.index(clause) + len(clause) :]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([2, 3, 4]), st.integers(0, 10**6), st.sampled_from([0.3, 1.0]))
def test_what_it_breaks_is_of_no_kind_that_was_asked_for(parts, seed, error):
    prompt, (rejected, chosen) = several(parts, seed)
    found = oracle_reviser(seed, error)(build.messages(prompt), rejected, chosen)
    before, after = oracle.parse(prompt, rejected.strip()), oracle.parse(prompt, found.text or rejected.strip())
    if error == 1.0:  # every right item is broken or kept in other words, and nothing is made up for
        assert len(after) <= len(before)
        assert found.counts.get("mended", 0) == found.counts["added"] == 0
    worse = sum(s.kind in ("wrong", "off_topic") for s in after) - sum(s.kind in ("wrong", "off_topic") for s in before)
    assert worse <= found.counts.get("broken", 0)


def test_broken_costs_and_rewritten_does_not():
    text, seen = "sure: maybe apple, maybe pear, maybe plum. good luck with it.", Counter()
    before = oracle.parse(PROMPT, text)
    for seed in range(200):
        found = oracle_reviser(seed, 0.3)(MESSAGES, text, CHOSEN)
        if found.failure:
            continue
        after = oracle.parse(PROMPT, found.text)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if words_of(text, a) != words_of(found.text, b)]
        worse = [b.kind in ("wrong", "off_topic") for a, b in changed]
        assert sum(worse) == found.counts.get("broken", 0)
        assert len(worse) - sum(worse) == found.counts.get("rewritten", 0)
        assert all(b.kind == a.kind and b.item == a.item for (a, b), bad in zip(changed, worse) if not bad)
        seen.update(a.kind for a, _ in changed)
    assert set(seen) == set(GOOD)


def test_errors_are_as_frequent_as_they_are_told_to_be_and_counts_add_up():
    pairs, error = build.preference_pairs(World(), "preference", 300, np.random.default_rng(0)), 0.2
    found = totals(revise_rows(oracle_reviser(0, error), pairs))
    spans, wrong = found["spans"], found["missed"] + found["broken"] + found["rewritten"]
    assert spans == wrong + found["kept"] + found["mended"]
    assert abs(wrong - error * spans) < 4 * (error * (1 - error) * spans) ** 0.5
    pieces = found["broken"] + found["rewritten"]
    assert abs(found["broken"] - pieces / 2) < 4 * (pieces / 4) ** 0.5
    asked = found["added"] + found["left_out"]  # sound answers end with a full stop: only items are missing
    assert abs(found["left_out"] - error * asked) < 4 * (error * (1 - error) * asked) ** 0.5
    assert found["read"] == 300 == found["revised"] + found.get("failed: identical", 0)


def test_what_it_misses_it_takes_for_right_and_does_not_make_up_for():
    for seed in range(40):
        found = oracle_reviser(seed, 0.5)(MESSAGES, "apple, hammer, hammer.", CHOSEN)
        more = found.counts["added"] + found.counts["left_out"]
        assert found.counts.get("missed", 0) + found.counts.get("mended", 0) == 2 and more == 0
        items = [s.item for s in oracle.parse(PROMPT, found.text or "apple, hammer, hammer.")]
        assert items.count("hammer") >= found.counts.get("missed", 0) and len(items) == 3


def test_a_missing_full_stop_is_a_defect_like_others():
    ends = [oracle_reviser(seed, 0.5)(MESSAGES, "apple, drum", CHOSEN) for seed in range(60)]
    assert {bool(r.counts["stops"]) for r in ends} == {True, False}
    assert all(r.text.endswith(".") == bool(r.counts["stops"]) for r in ends if r.text)


def test_a_seed_and_the_row_alone_decide():
    pairs = build.preference_pairs(World(), "preference", 40, np.random.default_rng(0))
    first = revise_rows(oracle_reviser(3), pairs)
    assert revise_rows(oracle_reviser(3), pairs[::-1], workers=4) == first[::-1]
    assert revise_rows(oracle_reviser(4), pairs) != first


def test_a_rate_that_is_no_probability_and_a_foreign_prompt_are_refused():
    with pytest.raises(ValueError, match="error is 1.5"):
        oracle_reviser(0, 1.5)
    with pytest.raises(ValueError, match="not a testbed prompt: 'hello'"):
        PERFECT(build.messages("hello"), "apple.", CHOSEN)


# --- text alone ------------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text("ab ,.;:!?\nnd", max_size=80), st.text(max_size=40)))
def test_clauses_joined_again_are_the_text(text):
    assert "".join(map("".join, clauses(text))) == text


def test_clauses_are_cut_where_the_module_says():
    text = "Sure! here you go: one, two and three. is 3.5 more; so?"
    assert clauses(text) == [
        ("Sure!", " "), ("here you go:", " "), ("one", ", "), ("two", " and "), ("three", ". "),
        ("is 3.5 more", "; "), ("so?", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rejected, chosen, revised",
    [
        ("apple, hammer and pear.", "pear; plum and apple.", "apple, plum and pear."),  # "plum" for "hammer"
        ("apple, saw, drum, pear.", "Pear, apple; plum.", "apple, plum, pear."),  # nothing is left for "drum"
        ("apple, pear, apple.", "apple. plum. pear.", "apple, pear, plum."),  # of what is said once too often
        ("sure: saw.", "hi: of course! plum, pear.", "hi: plum."),  # like ends for like; "pear" is not added
        ("sure: saw, apple.", "plum, apple.", "plum, apple."),  # no opener to take: dropped
        ("apple, drum.", "apple.", "apple."),  # the last joint stays the last
    ],
)  # fmt: skip
def test_what_the_chosen_response_shares_stays_and_the_rest_gives_way_to_it(rejected, chosen, revised):
    assert clause_reviser()([], rejected, chosen).text == revised


@settings(max_examples=300, deadline=None)
@given(answers(), answers())
def test_a_reviser_without_knowledge_says_nothing_that_neither_response_says(rejected, chosen):
    found = clause_reviser()([], rejected, chosen)
    counts = Counter(found.counts)
    assert counts["clauses"] == counts["shared"] + counts["replaced"] + counts["dropped"]
    if found.text:
        assert all(word.strip(",.;") in rejected + chosen for word in found.text.split())
    assert clause_reviser()([], rejected, rejected).failure in ("identical", "empty")


def test_a_reviser_without_knowledge_loads_nothing_of_the_testbed():
    check = "import sys, densereward.labels.clauses; print([m for m in sys.modules if m.startswith('testbed')])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- batches ---------------------------------------------------------------------------------------------------------


def test_empty_and_unchanged_texts_are_failures_and_totals_count_them():
    found = [checked(" a ", "b", {"x": 2}), checked(" \n", "b", {"x": 1}), checked("b ", " b"), checked("c", "b")]
    assert found == [Revision("a", None, {"x": 2}), Revision(None, "empty", {"x": 1}), Revision(None, "identical"),
                     Revision("c")]  # fmt: skip
    assert totals(found) == {"read": 4, "revised": 2, "failed: empty": 1, "failed: identical": 1, "x": 3}


def test_an_error_ends_the_batch_before_the_rest_is_paid_for(monkeypatch):
    gate, seen = threading.Event(), []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            gate.set()
            super().shutdown(wait=True)

    def reviser(prompt, rejected, chosen):
        seen.append(rejected)
        if rejected == "0":
            raise RuntimeError("no space left")
        gate.wait(60)
        return Revision("x")

    monkeypatch.setattr(revision, "ThreadPoolExecutor", Pool)
    rows = [{"prompt": [], "chosen": [{"content": "c"}], "rejected": [{"content": str(i)}]} for i in range(50)]
    with pytest.raises(RuntimeError, match="no space left"):
        revise_rows(reviser, rows)
    assert len(seen) <= 2
