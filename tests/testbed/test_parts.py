"""Prompts that ask for several kinds at once: parts that shared a count, or a prompt that changed its split, would
spoil every longer answer."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.identity import completed, parameters
from study.methods import METHODS
from study.profiles import PROFILES
from study.run import Run
from test_testbed import kinds
from testbed import build, describe, monte_carlo, oracle
from testbed import world as w
from testbed.world import World

SEVERAL = "please name three fruits, four tools and three clothes for a picnic."
WORLDS = {parts: World(kinds=5, parts=parts) for parts in (1, 2, 3, 4)}
POOLS = {parts: w.prompts(world, "test") for parts, world in WORLDS.items()}


def draw(parts, seed):
    """A test prompt, what it asks for, and a generator for what comes next."""
    rng = np.random.default_rng(seed)
    prompt = POOLS[parts][int(rng.integers(len(POOLS[parts])))]
    return prompt, oracle.ask(prompt), rng


any_parts = given(st.sampled_from(list(WORLDS)), st.integers(0, 10**6))


def test_a_prompt_asks_for_as_many_kinds_as_the_world_has_parts():
    assert oracle.ask(SEVERAL) == {"fruits": 3, "tools": 4, "clothes": 3}
    assert list(oracle.ask(SEVERAL)) == ["fruits", "tools", "clothes"]
    for parts, pool in POOLS.items():
        assert {len(oracle.ask(prompt)) for prompt in pool} == {parts}
        assert {kind for prompt in pool for kind in oracle.ask(prompt)} == set(WORLDS[parts].asked)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_further_parts_move_no_prompt_to_another_split_and_are_never_held_out(parts):
    world, pools = WORLDS[parts], {}
    for split in w.SPLITS:
        pools[split], before = w.prompts(world, split), w.prompts(replace(world, parts=parts - 1), split)
        for more, fewer in zip(pools[split], before, strict=True):
            asked = list(oracle.ask(more).items())
            assert asked[:-1] == list(oracle.ask(fewer).items())
            assert not any(w.held_out(*part) for part in asked[1:])
        assert any(map(monte_carlo.is_held_out, pools[split])) == (split == "test")
    assert sum(map(len, pools.values())) == len(set().union(*pools.values()))
    held = describe.splits(world).set_index("split")["of these held out"]
    assert held.to_dict() == {split: 5 * (split == "test") for split in w.SPLITS}


@settings(max_examples=100, deadline=None)
@any_parts
def test_an_answer_to_several_kinds_is_read_without_junk_and_wrong_is_what_was_not_asked_for(parts, seed):
    prompt, asked, rng = draw(parts, seed)
    text = w.answer(asked, 0.7, WORLDS[parts], rng)
    spans = oracle.parse(prompt, text)
    assert "".join(text[s.start : s.end] for s in spans) == text and not any(s.kind == "junk" for s in spans)
    for kind, number in asked.items():
        right = [s.item for s in spans if s.kind == "correct" and w.KIND_OF[s.item] == kind]
        assert len(set(right)) == len(right) <= number
        named = {s.item for s in spans if s.item and w.KIND_OF[s.item] == kind}
        assert len(right) == min(number, len(named)), "every kind is counted for itself"
    for s in spans:
        assert s.item is None or (s.kind == "wrong") == (w.KIND_OF[s.item] not in asked)


@settings(max_examples=60, deadline=None)
@any_parts
def test_items_of_the_kinds_asked_for_earn_full_credit_in_any_order(parts, seed):
    prompt, asked, rng = draw(parts, seed)
    items = rng.permutation([item for kind, number in asked.items() for item in w.ITEMS[kind][:number]])
    text = ", ".join(items) + "."
    assert oracle.true_return(prompt, text) == len(items) == sum(asked.values())
    assert oracle.true_return(prompt, text, "whole") == 3 and oracle.summary(prompt, text)["covered"] == 1
    assert oracle.true_return(prompt, ", ".join(items[1:]) + ".", "whole") == 0, "one is missing"
    best = w.answer(asked, 1.0, replace(WORLDS[parts], repeats=0.0), rng)
    assert {s.kind for s in oracle.parse(prompt, best)} <= {"correct", "not_asked", "off_topic", "repetition"} | {
        "greeting", "closing",
    }, "repetition: of a remark only"  # fmt: skip


def test_more_of_one_kind_does_not_make_up_for_another():
    text = "apple, pear, plum, lemon; saw, scarf. truck."
    assert kinds(text, SEVERAL) == ["correct"] * 3 + ["not_asked"] + ["correct"] * 2 + ["wrong"]
    assert oracle.lacking(SEVERAL, ["apple", "pear", "plum", "lemon", "saw", "scarf"]) == {
        "fruits": 0, "tools": 3, "clothes": 2,
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@any_parts
def test_an_exchange_puts_in_what_was_not_asked_for_or_what_is_short(parts, seed):
    prompt, asked, rng = draw(parts, seed)
    text = w.answer(asked, 0.7, WORLDS[parts], rng)
    for only in ("correct", "wrong"):
        before = oracle.parse(prompt, text)
        changed = build.swap_items(prompt, text, 1, rng, only=(only,))
        after = oracle.parse(prompt, changed)
        pairs = [(s, t) for s, t in zip(before, after, strict=True) if s.item != t.item]
        assert len(pairs) == any(s.kind == only and not s.misspelt for s in before)
        for s, t in pairs:
            assert text[: s.start] + text[s.end :] == changed[: t.start] + changed[t.end :]
            short = any(oracle.lacking(prompt, [x.item for x in before if x.kind == "correct"]).values())
            assert s.kind == only and (t.kind == "wrong") == (only == "correct")
            assert t.kind == "correct" or not (short and only == "wrong")


def test_pairs_of_several_kinds_have_more_spans_and_labels_as_exact():
    pairs = build.preference_pairs(WORLDS[3], "preference", 300, np.random.default_rng(0), contrast=0.2)
    assert 0.8 < build.ceiling(WORLDS[3], pairs) < 0.98
    spans = [np.mean(describe.answers(WORLDS[parts], 200, seed=0)["spans"]) for parts in WORLDS]
    assert all(1.8 < spans[parts - 1] / spans[0] * 2 / parts < 2.2 for parts in WORLDS), spans


@pytest.mark.parametrize("kinds, parts", [(3, 0), (3, 4), (7, 2), (6, 6), (0, 0)])
def test_a_world_that_cannot_ask_for_so_many_kinds_is_refused(kinds, parts):
    with pytest.raises(ValueError, match=f"parts is {parts} and kinds is {kinds}; choose them so that 1 <= parts"):
        World(kinds=kinds, parts=parts)


def test_parts_tell_models_and_records_apart_and_an_older_record_has_one():
    one, two = (Run(replace(PROFILES["cpu"], world=World(kinds=3, parts=parts))) for parts in (1, 2))
    assert one.key(seeded=False) != two.key(seeded=False)
    now = parameters(one.of(METHODS["bandit"]))
    older = json.loads(json.dumps(now))
    del older["profile"]["world"]["parts"]
    assert completed(older) == completed(now) != completed(parameters(two.of(METHODS["bandit"])))
