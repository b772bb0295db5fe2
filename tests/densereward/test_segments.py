"""Segments: a boundary off by one token reads every score, and pays every reward, at the wrong place."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densereward.reward.segments import (
    BOUNDARIES,
    SPLITTERS,
    at_ends,
    bandit,
    entropy,
    ngram,
    random,
    segment,
    segment_ends,
    segment_ids,
    segment_lengths,
    sentence,
    spread,
    start_rate,
    token,
    without_eos,
)
from densereward.text.offsets import token_offsets
from test_offsets import NAMES, encode, load

ROWS = [
    {"kind": "bandit"},
    {"kind": "token"},
    {"kind": "ngram", "n": 3},
    {"kind": "random", "rate": 0.3},
    {"kind": "entropy", "cutoff": 1.0},
    {"kind": "sentence"},
]
ROW_IDS = [row["kind"] for row in ROWS]
EOS = 1  # of the small tokenizer


@st.composite
def batches(draw):
    """Completions of 1 to 12 tokens, with and without EOS, and rubbish on the padding."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    width, seed = max(lengths) + draw(st.integers(0, 2)), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(2, 300, mask.shape, generator=generator)
    splitters = torch.tensor(encode(load("small"), ".?!\n。…"))[torch.randint(0, 9, mask.shape, generator=generator)]
    ids = torch.where(torch.rand(mask.shape, generator=generator) < 0.4, splitters, ids)
    for row, length in enumerate(lengths):
        if draw(st.booleans()):
            ids[row, length - 1] = EOS
    entropies = 2 * torch.rand(mask.shape, generator=generator)
    entropies[mask == 0] = float("nan")
    return {"mask": mask, "completion_ids": ids, "entropies": entropies, "seed": seed}


def cut(row, batch, **more):
    """Segment ids of a batch by a row of the methods table, the generator fresh from the batch's seed."""
    inputs = {name: value for name, value in batch.items() if name != "seed"}
    generator = torch.Generator().manual_seed(batch["seed"])
    return segment(**row, **inputs, tokenizer=load("small"), generator=generator, **more)


def reference_ids(row, batch, eos):
    """Slow and obvious: walk over the tokens of each completion, counting up where one starts a segment."""
    result = []
    generator = torch.Generator().manual_seed(batch["seed"])
    lengths = batch["mask"].sum(1).tolist()
    ids = [row_ids[:n] for row_ids, n in zip(batch["completion_ids"].tolist(), lengths)]
    if eos == "released" and row["kind"] != "bandit":
        ids = [row_ids[:-1] if row_ids[-1] == EOS and len(row_ids) > 1 else row_ids for row_ids in ids]
    draws = iter(torch.rand(sum(map(len, ids)), generator=generator).tolist())
    for b, row_ids in enumerate(ids):
        text, offsets = token_offsets(load("small"), row_ids)
        number, numbers = -1, []
        for t in range(len(row_ids)):
            draw = next(draws)
            if row["kind"] == "token":
                starts = True
            elif row["kind"] == "ngram":
                starts = t % row["n"] == 0
            elif row["kind"] == "random":
                starts = draw < row["rate"]
            elif row["kind"] == "entropy":
                starts = batch["entropies"][b, t].item() > row["cutoff"]
            elif row["kind"] == "sentence" and t > 0:
                a, z = offsets[t - 1]
                run_ends = [i for i in range(a, z) if text[i] in SPLITTERS and text[i + 1 : i + 2] not in [*SPLITTERS]]
                starts = z < len(text) and bool(run_ends)
            else:
                starts = False
            number += starts or t == 0
            numbers.append(number)
        result.append(numbers + [-1] * (batch["mask"].shape[1] - len(numbers)))
    return result


@pytest.mark.parametrize("row", ROWS, ids=ROW_IDS)
@given(batch=batches(), eos=st.sampled_from(["paper", "released"]))
@settings(max_examples=40, deadline=None)
def test_every_segmentation_equals_a_walk_over_the_tokens(row, batch, eos):
    assert cut(row, batch, eos=eos).tolist() == reference_ids(row, batch, eos)


@pytest.mark.parametrize("row", ROWS, ids=ROW_IDS)
@given(batch=batches())
@settings(max_examples=25, deadline=None)
def test_segments_partition_the_completion(row, batch):
    """No token unscored, none scored twice, at least one segment in every row, none on padding."""
    ids = cut(row, batch)
    for numbers, length in zip(ids.tolist(), batch["mask"].sum(1).tolist()):
        steps = [b - a for a, b in zip(numbers, numbers[1:length])]
        assert numbers[0] == 0 and set(steps) <= {0, 1} and set(numbers[length:]) <= {-1}
    assert segment_lengths(ids).sum(1).tolist() == batch["mask"].sum(1).tolist()


@pytest.mark.parametrize("row", ROWS, ids=ROW_IDS)
@given(batch=batches(), more=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_padding_never_leaks(row, batch, more):
    """The same completions in a wider batch, with other rubbish on the padding, are cut the same."""
    before, width = cut(row, batch), batch["mask"].shape[1]
    wide = {name: torch.nn.functional.pad(batch[name], (0, more)) for name in ("mask", "completion_ids", "entropies")}
    wide["completion_ids"][wide["mask"] == 0] = encode(load("small"), ".")[0]
    wide["entropies"][wide["mask"] == 0] = 99.0
    after = cut(row, wide | {"seed": batch["seed"]})
    assert torch.equal(after[:, :width], before) and (after[:, width:] == -1).all()


@given(batch=batches(), row=st.sampled_from(ROWS), eos=st.sampled_from(["paper", "released"]))
@settings(max_examples=60, deadline=None)
def test_gather_and_spread_equal_loops(batch, row, eos):
    """A segment's score is the one at its last token, and all its tokens get it; scores on padding are never read."""
    ids = cut(row, batch, eos=eos)
    token_scores = torch.randn(ids.shape, generator=torch.Generator().manual_seed(batch["seed"]))
    token_scores[ids < 0] = float("nan")
    scores, mask = at_ends(token_scores, ids)
    ends, lengths, tokens = segment_ends(ids), segment_lengths(ids), spread(scores, ids)
    assert scores.shape == mask.shape == lengths.shape == (len(ids), int(ids.max()) + 1)
    for b, numbers in enumerate(ids.tolist()):
        for s in range(scores.shape[1]):
            members = [t for t, number in enumerate(numbers) if number == s]
            assert mask[b, s] == bool(members) and lengths[b, s] == len(members)
            assert scores[b, s] == (token_scores[b, members[-1]] if members else 0)
        for t, number in enumerate(numbers):
            assert ends[b, t] == (number >= 0 and number not in numbers[t + 1 :])
            assert tokens[b, t] == (scores[b, number] if number >= 0 else 0)


def test_gradients_reach_the_scores_at_segment_ends_only():
    """A reward model trained through at_ends must not learn from tokens that the segmentation leaves out."""
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    ids = segment_ids(ngram(mask, 2), mask)
    token_scores = torch.zeros(2, 5, requires_grad=True)
    at_ends(token_scores, ids)[0].sum().backward()
    assert token_scores.grad.tolist() == [[0, 1, 0, 1, 0], [0, 1, 0, 1, 1]]


# --- entropy


@given(batch=batches())
@settings(max_examples=40, deadline=None)
def test_extreme_cutoffs_are_token_and_bandit(batch):
    """segment-ppo Appendix D implements its two baselines by the cut-offs 0 and 1000."""
    entropies, mask = batch["entropies"] + 1e-6, batch["mask"]
    assert torch.equal(entropy(entropies, mask, 0), token(mask))
    assert torch.equal(entropy(entropies, mask, 1000), bandit(mask))


def test_cutoff_is_strict_and_decided_in_float32():
    """A tie is no start; an excess that float32 cannot see is none either, or float64 callers cut differently."""
    mask = torch.ones(1, 4, dtype=torch.long)
    entropies = torch.tensor([[0.0, 1.75, 1.7500001, 1.0]])
    assert entropy(entropies, mask, 1.75).tolist() == [[True, False, True, False]]
    entropies = torch.tensor([[0.0, 0.1 + 1e-10, 0.1001, 0.1]], dtype=torch.float64)
    assert entropy(entropies, mask, 0.1).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("cutoff", [-0.1, float("nan")])
def test_bad_cutoffs_are_refused(cutoff):
    with pytest.raises(ValueError, match="cut-off"):
        entropy(torch.ones(1, 2), torch.ones(1, 2), cutoff)


def test_bad_entropies_are_refused_by_row():
    """NaN compares as 'no start': without this, a broken model gives long segments and no error."""
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]])
    entropies = torch.ones(3, 3)
    entropies[0, 2] = float("nan")
    entropy(entropies, mask, 1.0)
    entropies[1, 2] = float("nan")
    with pytest.raises(ValueError, match="row 1.*not finite"):
        entropy(entropies, mask, 1.0)
    with pytest.raises(ValueError, match=r"\[3, 2\].*\[3, 3\]"):
        entropy(entropies[:, :2], mask, 1.0)
    with pytest.raises(ValueError, match="float32"):
        entropy(torch.ones(3, 3, dtype=torch.bfloat16), mask, 1.0)


# --- sentences


def sentences_of(name, text):
    """Text of each segment of `text`, EOS included in the tokens."""
    tokenizer = load(name)
    ids = torch.tensor([[*encode(tokenizer, text), tokenizer.eos_token_id]])
    numbers = segment(kind="sentence", mask=torch.ones_like(ids), completion_ids=ids, tokenizer=tokenizer)[0].tolist()
    whole, offsets = token_offsets(tokenizer, ids[0].tolist())
    pieces = [""] * (max(numbers) + 1)
    for number, (a, b) in zip(numbers, offsets):
        pieces[number] += whole[a:b]
    return pieces


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "expected",
    [
        ["Hello there.", " How are you?", " Fine"],
        ["Wait...", " what?!", " Yes:", " a;", " b,", " c}", " d"],
        ["One.\n\n", "Two\n", "Three!"],
        ["你好。", "今天天气很好！", "我们走吧？"],
        ["苹果，", "梨；", "橘子：", "都好……", "真的"],
        ["全角．", "終わり｝", "次、", "先｡", "後"],
        ["🎉🎉!", " 🧿."],
        ["no splitter at all"],
    ],
    ids=lambda pieces: pieces[0][:8],
)
def test_sentences_end_after_their_splitters(name, expected):
    """On real tokenizers, ASCII and full-width, where a character may be three tokens; a final EOS is no sentence."""
    assert sentences_of(name, "".join(expected)) == expected


def test_a_splitter_amid_a_token_ends_the_segment_after_that_token():
    """Tokens are not cut: the one token '."' ends its segment, quote and all, and the next token starts one."""
    tokenizer = load("gpt2")
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(["Ġsee", '."', "Ġnow", '."'])])
    assert sentence(ids, torch.ones_like(ids), tokenizer).tolist() == [[True, False, True, False]]


def test_a_completion_of_eos_only_is_one_sentence():
    ids = torch.tensor([[EOS, 0, 0]])
    assert sentence(ids, torch.tensor([[1, 0, 0]]), load("small")).tolist() == [[True, False, False]]


# --- EOS


MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
ENDING = SimpleNamespace(eos_token_id=EOS)
IDS = torch.tensor([[5, 6, 7, EOS, 0], [EOS, 0, 0, 0, 0], [5, EOS, 7, 8, 9], [5, EOS, EOS, 0, 0]])


def test_eos_as_in_the_paper_is_in_the_last_segment():
    ids = segment(kind="ngram", n=2, mask=MASK, completion_ids=IDS)
    assert ids.tolist() == [[0, 0, 1, 1, -1], [0, -1, -1, -1, -1], [0, 0, 1, 1, 2], [0, 0, -1, -1, -1]]
    assert segment_ends(ids)[0].tolist() == [False, True, False, True, False]


def test_eos_as_released_is_in_no_segment():
    """Row 1 is only EOS and keeps it; row 2 is truncated and loses nothing; row 3 has EOS as padding too."""
    ids = segment(kind="ngram", n=2, eos="released", mask=MASK, completion_ids=IDS, tokenizer=ENDING)
    assert ids.tolist() == [[0, 0, 1, -1, -1], [0, -1, -1, -1, -1], [0, 0, 1, 1, 2], [0, -1, -1, -1, -1]]
    assert segment_ends(ids)[0].tolist() == [False, True, True, False, False]
    several = without_eos(IDS, MASK, [EOS, 9])
    assert several.sum(1).tolist() == [3, 1, 4, 1]


def test_bandit_as_released_is_scored_at_eos():
    ids = segment(kind="bandit", eos="released", mask=MASK, completion_ids=IDS, tokenizer=ENDING)
    assert torch.equal(ids, segment(kind="bandit", mask=MASK))


def test_released_eos_without_an_eos_id_is_refused():
    """Without the id, nothing would be dropped, silently."""
    with pytest.raises(ValueError, match="eos_token_id"):
        segment(kind="token", eos="released", mask=MASK, completion_ids=IDS)
    with pytest.raises(ValueError, match="eos_token_id"):
        segment(kind="token", eos="released", mask=MASK, tokenizer=ENDING)
    with pytest.raises(ValueError, match="choose paper or released"):
        segment(kind="bandit", eos="neither", mask=MASK)


# --- random


def test_random_starts_come_at_the_matched_rate():
    """The control must cut as often as the segmentation that it is compared with, or it measures segment length."""
    mask = (torch.arange(200) < torch.randint(100, 201, (400, 1), generator=torch.Generator().manual_seed(0))).long()
    entropies = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1))
    rate = start_rate(segment(kind="entropy", cutoff=0.85, mask=mask, entropies=entropies))
    assert rate == pytest.approx(0.15, abs=0.01)
    drawn = segment(kind="random", rate=rate, mask=mask, generator=torch.Generator().manual_seed(2))
    assert start_rate(drawn) == pytest.approx(rate, abs=0.01)
    again = segment(kind="random", rate=rate, mask=mask, generator=torch.Generator().manual_seed(2))
    other = segment(kind="random", rate=rate, mask=mask, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again) and not torch.equal(drawn, other)


def test_start_rate_counts_no_first_token_and_no_padding():
    assert start_rate(torch.tensor([[0, 0, 1, 2, -1], [0, -1, -1, -1, -1]])) == pytest.approx(2 / 3)
    assert start_rate(torch.tensor([[0, -1]])) == 0


# --- the dispatcher and bad input


def test_a_new_boundary_is_one_function(monkeypatch):
    """A reader adds a boundary in one notebook cell, and its parameter; first token and padding are seen to."""

    def marker(completion_ids, marker_id=7):
        return completion_ids == marker_id

    monkeypatch.setitem(BOUNDARIES, "marker", marker)
    assert segment(kind="marker", mask=MASK[:1], completion_ids=IDS[:1]).tolist() == [[0, 0, 1, 1, -1]]
    assert segment(kind="marker", marker_id=0, mask=MASK[:1], completion_ids=IDS[:1]).tolist() == [[0, 0, 0, 0, -1]]
    monkeypatch.setitem(BOUNDARIES, "marker", lambda mask: mask)
    with pytest.raises(ValueError, match="return bool"):
        segment(kind="marker", mask=MASK)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kind": "sentences"}, "unknown segmentation 'sentences'; choose one of bandit"),
        ({"kind": "ngram", "n": 2, "cutoff": 1.0}, "no parameter 'cutoff'"),
        ({"kind": "ngram"}, "needs 'n'"),
        ({"kind": "entropy", "cutoff": 1.0, "entropies": None}, "needs 'entropies'"),
        ({"kind": "ngram", "n": 0}, "n is 0"),
        ({"kind": "ngram", "n": 2.5}, "n is 2.5"),
        ({"kind": "random", "rate": 1.5, "generator": torch.Generator()}, "rate is 1.5"),
    ],
)
def test_a_bad_row_is_refused_in_one_line(row, message):
    with pytest.raises(ValueError, match=message):
        segment(**row, mask=MASK)


@pytest.mark.parametrize("row", ROWS, ids=ROW_IDS)
def test_empty_and_left_padded_completions_are_refused_by_row(row):
    """An empty completion has no segment to score; left padding would shift every boundary."""
    batch = {"completion_ids": IDS[:2], "entropies": torch.ones(2, 5), "seed": 0}
    with pytest.raises(ValueError, match="row 1: the completion is empty"):
        cut(row, batch | {"mask": torch.tensor([[1, 1, 1, 1, 0], [0, 0, 0, 0, 0]])})
    with pytest.raises(ValueError, match="row 0: a real token follows padding"):
        cut(row, batch | {"mask": torch.tensor([[0, 1, 1, 1, 1], [1, 0, 0, 0, 0]])})


def test_scores_of_the_whole_sequence_are_refused():
    """Scores of prompt and completion would be read at the prompt's positions."""
    with pytest.raises(ValueError, match="completion's tokens only"):
        at_ends(torch.zeros(4, 9), segment_ids(token(MASK), MASK))


def test_random_needs_its_rate_between_0_and_1():
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(random(MASK, 0, generator), bandit(MASK))
    assert torch.equal(random(MASK, 1, generator), token(MASK))
