"""Token labels and synthetic pairs: edits that are not minimal, labels on the wrong token, failures that pass as
data."""

from functools import cache

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from densereward.labels import labeling, revision
from densereward.labels import revision_prompt as rp
from densereward.labels.labeling import NEGATIVE, NEUTRAL, POSITIVE, edit_labels
from densereward.labels.revision import Revision, conversations
from densereward.text import models, tokens
from densereward.training import reward_model
from study import methods
from study.profiles import models_folder
from study.stages.preferences import with_entropies
from testbed import build
from testbed.world import World

IDS = st.lists(st.integers(0, 5), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_causal_lm(models_folder("cpu") / "sft")[1]


@pytest.fixture(scope="module")
def bytewise():
    return models.build_tokenizer(["a b"], 261)  # no merges: a token for each byte


@pytest.fixture(scope="module")
def pairs():
    return build.preference_pairs(World(), "preference", 40, np.random.default_rng(0))


@pytest.fixture(scope="module")
def rows(pairs, tokenizer):
    return tokens.tokenize_pairs(pairs, tokenizer, 64, 128)[0]


# --- labels ----------------------------------------------------------------------------------------------------------


def cheapest(rejected: tuple, revised: tuple) -> tuple[int, set]:
    """Least number of edits, and the labels of every alignment that needs no more: the definition, written out."""

    @cache
    def best(i, j):
        if i == j == 0:
            return 0, frozenset({((), ())})
        ways = []
        if i:
            cost, found = best(i - 1, j)
            ways.append((cost + 1, {((*a, NEGATIVE), b) for a, b in found}))
        if j:
            cost, found = best(i, j - 1)
            ways.append((cost + 1, {(a, (*b, POSITIVE)) for a, b in found}))
        if i and j:
            cost, found = best(i - 1, j - 1)
            same = rejected[i - 1] == revised[j - 1]
            left, right = (NEUTRAL, NEUTRAL) if same else (NEGATIVE, POSITIVE)
            ways.append((cost + (not same), {((*a, left), (*b, right)) for a, b in found}))
        least = min(cost for cost, _ in ways)
        return least, frozenset().union(*(found for cost, found in ways if cost == least))

    return best(len(rejected), len(revised))


def test_labels_are_those_of_a_least_alignment_and_of_the_only_one_where_there_is_one():
    draw, unique, several = np.random.default_rng(0), 0, 0
    for _ in range(4000):
        a, b = (tuple(draw.integers(0, 4, draw.integers(1, 8)).tolist()) for _ in range(2))
        _, allowed = cheapest(a, b)
        ours = tuple(tuple(labels.tolist()) for labels in edit_labels(a, b))
        assert ours in allowed, (a, b)
        unique, several = unique + (len(allowed) == 1), several + (len(allowed) > 1)
    assert unique > 1000 and several > 1000  # both kinds were met


@settings(max_examples=500, deadline=None)
@given(IDS, IDS)
def test_negatives_are_deletions_and_replacements_positives_insertions_and_replacements(a, b):
    edits = [edit.tag for edit in Levenshtein.editops(a, b)]
    rejected, revised = edit_labels(a, b)
    assert (rejected == NEGATIVE).sum() == edits.count("delete") + edits.count("replace")
    assert (revised == POSITIVE).sum() == edits.count("insert") + edits.count("replace")
    assert (rejected == NEUTRAL).sum() == (revised == NEUTRAL).sum()
    assert {*rejected.tolist()} <= {NEGATIVE, NEUTRAL} and {*revised.tolist()} <= {NEUTRAL, POSITIVE}
    kept = [[i for i, label in zip(ids, labels) if label == NEUTRAL] for ids, labels in ((a, rejected), (b, revised))]
    assert kept[0] == kept[1], "what is neutral on both sides is one and the same text"
    assert len(edits) == slow_distance(a, b)


def slow_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[:], i
        for j, y in enumerate(b, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
    return row[-1]


@given(IDS)
def test_identical_responses_are_neutral_throughout(ids):
    assert all((labels == NEUTRAL).all() for labels in edit_labels(ids, ids))


def test_of_a_repetition_the_first_mention_stays():
    rejected, revised = edit_labels([7, 1, 7, 1, 9], [7, 1, 9])
    assert rejected.tolist() == [0.5, 0.5, 0, 0, 0.5] and revised.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("sides, name", [(([], [1]), "rejected"), (([1], []), "revised")])
def test_a_side_without_tokens_is_refused_by_name(sides, name):
    with pytest.raises(ValueError, match=f"the {name} response has no token; keep its EOS"):
        edit_labels(*sides)


# --- prompt ----------------------------------------------------------------------------------------------------------


def test_the_prompt_holds_figure_9s_parts_in_its_order():
    prompt = [{"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "hello"), ("user", "fruits?"))]
    (message,) = rp.request(prompt, "THE REJECTED", "THE CHOSEN")
    parts = ["<|Start of Instruction|>", "<|Start of Reasoning|>", "<|End of Reasoning|>", rp.START, rp.END]
    parts += ["<|End of Instruction|>", "<|Start of Context|>", "###Human: hi\n###Assistant: hello\n###Human: fruits?"]
    parts += ["<|End of Context|>", "<|Start of Preferred Response|>", "THE CHOSEN", "<|End of Preferred Response|>"]
    parts += ["<|Start of Non-Preferred Response|>", "THE REJECTED", "<|End of Non-Preferred Response|>"]
    places = [message["content"].index(part) for part in parts]
    assert message["role"] == "user" and places == sorted(places)


def test_texts_with_braces_or_placeholders_go_in_as_they_are():
    text = rp.request([{"role": "user", "content": "{rejected} {x}"}], "{chosen}", "{0}")[0]["content"]
    assert "###Human: {rejected} {x}\n" in text and "\n{0}\n" in text and "\n{chosen}\n" in text


GOOD_TEMPLATE = f"{{reasoning_response}} {rp.START} {rp.END} {{context}} {{chosen}} {{rejected}}"


def test_a_readers_own_prompt_is_used_other_braces_and_all(tmp_path):
    (tmp_path / "prompt.txt").write_text(GOOD_TEMPLATE)
    text = rp.request([{"role": "user", "content": "a"}], "c", "b", rp.load_template(tmp_path / "prompt.txt"))
    assert text[0]["content"] == f"{{reasoning_response}} {rp.START} {rp.END} ###Human: a b c"


@pytest.mark.parametrize(
    "content, why",
    [
        (GOOD_TEMPLATE.replace("{chosen}", ""), "once each"),
        (GOOD_TEMPLATE + "{rejected}", "once each"),
        (GOOD_TEMPLATE.replace(rp.END, ""), "does not name <.End of Modified Response"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_prompt_that_cannot_serve_is_refused_with_its_file_and_the_mend(tmp_path, content, why):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=why) as caught:
        rp.load_template(path)
    assert "mine.txt" in str(caught.value)


# --- replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply, expected",
    [
        (f"because\n{rp.START}\nan apple.\n{rp.END}\n", Revision("an apple.")),
        (f"{rp.START}two\n\nlines{rp.END}", Revision("two\n\nlines")),
        ("an apple.", Revision(None, "markers")),
        (f"{rp.START}\nan apple.", Revision(None, "markers")),
        (f"an apple.\n{rp.END}", Revision(None, "markers")),
        (f"{rp.END}an apple.{rp.START}", Revision(None, "markers")),
        (f"{rp.START}a{rp.END}{rp.START}b{rp.END}", Revision(None, "markers")),
        (f"**{rp.START}**\nan apple.\n**{rp.END}**", Revision("an apple.")),
        (f"### {rp.START}\r\nan apple.\r\n### {rp.END}\r\n", Revision("an apple.")),
        (f"`{rp.START}`an apple.`{rp.END}`", Revision("an apple.")),
        (f"{rp.START}**an apple.**{rp.END}", Revision("**an apple.**")),
        (f"{rp.START}\n- an apple.\n- a pear\n{rp.END}", Revision("- an apple.\n- a pear")),
        (f"{rp.START} \n {rp.END}", Revision(None, "empty")),
        (f"{rp.START}\n\u200b\ufeff\n{rp.END}", Revision(None, "empty")),
        (f"{rp.START}an app\ufffd{rp.END}", Revision(None, "broken")),
        ("", Revision(None, "empty")),
        (f"{rp.START}\na hammer.\n{rp.END}", Revision(None, "identical")),
    ],
)
def test_a_reply_is_read_strictly_or_is_a_failure_with_a_name(reply, expected):
    assert rp.parse(reply, "a hammer. ") == expected


# --- data ------------------------------------------------------------------------------------------------------------


def test_labelled_rows_are_the_tokens_and_their_edits(rows, tokenizer):
    revised = "maybe apple, maybe pear."
    only = rows.select(range(1))
    table, report = labeling.labelled(only, [Revision(revised)], tokenizer, 128)
    sides = {row["side"]: row for row in table}
    assert sides["rejected"]["completion_ids"] == only[0]["rejected_completion_ids"]
    assert sides["revised"]["completion_ids"] == tokens.tokenize_response(tokenizer, revised)
    expected = edit_labels(sides["rejected"]["completion_ids"], sides["revised"]["completion_ids"])
    for side, labels in zip(("rejected", "revised"), expected):
        assert sides[side]["labels"] == labels.tolist() and sides[side]["pair"] == 0
        assert sides[side]["prompt_ids"] == only[0]["prompt_ids"]
        assert sides[side]["labels"][-1] == NEUTRAL, "both end with EOS"
    everything = np.concatenate(expected)
    counted = (report.negative, report.neutral, report.positive)
    assert counted == tuple(int((everything == x).sum()) for x in (NEGATIVE, NEUTRAL, POSITIVE))


@pytest.mark.parametrize("text", ["no, 今天天气很好", "no, 👍🏽 ok", "no,  two  blanks", "noé, naïve"])
def test_where_a_cut_response_was_left_alone_nothing_is_labelled(text):
    """The cut may go through a character or leave a space that no text ends with: nobody edited that."""
    tokenizer = models.build_tokenizer(["yes no maybe, and so on. "] * 50, 300)
    pair = {"prompt": [{"role": "user", "content": "好" * 9}], "chosen": [{"role": "assistant", "content": "so 👍🏽"}]}
    pair["rejected"] = [{"role": "assistant", "content": text}]
    for limit in range(3, 40):
        rows, _ = tokens.tokenize_pairs([pair], tokenizer, limit, limit)
        (shown,) = conversations(rows, tokenizer)
        said = [message["content"] for side in shown.values() for message in side]
        assert not any("\ufffd" in x for x in said), "a reviser would be shown a broken character, and copy it"
        seen = shown["rejected"][0]["content"]
        (rejected, revised), report = labeling.labelled(
            rows, [Revision(seen.replace("no", "yes", 1).strip())], tokenizer, 99
        )
        for row, label, word in ((rejected, NEGATIVE, "no"), (revised, POSITIVE, "yes")):
            assert tokenizer.decode([i for i, x in zip(row["completion_ids"], row["labels"]) if x == label]) in (
                word,
                word[:2],
            )
            assert len(row["labels"]) == len(row["completion_ids"]) and row["labels"][-1] == NEUTRAL
        assert (report.negative, report.positive) == (1, 1)
        same = [revision.checked(seen, seen)]
        with pytest.raises(ValueError, match="identical 1"):
            labeling.labelled(rows, same, tokenizer, 99)


@settings(max_examples=200, deadline=None)
@given(st.text("今天夭ab", min_size=1, max_size=8), st.text("今天夭ab", min_size=1, max_size=8))
def test_a_character_of_several_tokens_is_edited_whole(bytewise, a, b):
    """天 and 夭 share two of their three bytes: an edit of the third alone would teach half a character."""
    ids = [tokens.tokenize_response(bytewise, text) for text in (a, b)]
    labels = labeling.text_labels(*ids, bytewise)
    for side, marked, wanted in zip(ids, labels, edit_labels(list(a) + ["end"], list(b) + ["end"]), strict=True):
        parts = [[i for i, x in zip(side[:-1], marked) if (x == NEUTRAL) == kept] for kept in (True, False)]
        assert not any("\ufffd" in bytewise.decode(part) for part in parts)
        each = [len(tokens.tokenize_response(bytewise, x)) - 1 for x in (a if side is ids[0] else b)]
        assert marked.tolist() == np.repeat(wanted, [*each, 1]).tolist()


def test_without_eos_every_label_but_the_last_stays(rows, tokenizer):
    """tlcr's released code: the discriminator is told nothing of EOS."""
    revisions = [Revision("maybe apple, maybe pear.")] * 3
    (all_of_it, counted), (rest, fewer) = (
        labeling.labelled(rows.select(range(3)), revisions, tokenizer, 128, eos) for eos in (True, False)
    )
    for one, other in zip(all_of_it, rest, strict=True):
        assert other["labels"] == one["labels"][:-1] + [labeling.NO_LABEL]
        assert other["completion_ids"] == one["completion_ids"]
    assert (fewer.negative, fewer.neutral, fewer.positive) == (counted.negative, counted.neutral - 6, counted.positive)


@pytest.mark.parametrize("make", [labeling.labelled, labeling.synthetic_pairs])
def test_a_revision_of_exactly_the_limit_is_kept_and_of_one_token_more_dropped(make, rows, tokenizer):
    """EOS counts: off by one, answers that the policy could write would be lost, or unfinished ones taught."""
    revised = "maybe apple, maybe pear."
    length = len(tokens.tokenize_response(tokenizer, revised))
    two = [Revision(revised), Revision("maybe plum.")]
    assert len(tokens.tokenize_response(tokenizer, "maybe plum.")) < length - 1
    for limit, dropped in ((length, 0), (length - 1, 1)):
        report = make(rows.select(range(2)), two, tokenizer, limit)[1]
        assert (report.kept, report.too_long) == (2 - dropped, dropped)


def test_what_cannot_be_labelled_is_dropped_and_counted_by_kind(rows, tokenizer):
    same = tokenizer.decode(rows[5]["rejected_completion_ids"], skip_special_tokens=True)
    given_ = [Revision(None, kind) for kind in ("markers", "empty", "identical")]
    given_ += [Revision("maybe apple."), Revision("maybe apple, " * 60), Revision(same)]
    for make in (labeling.labelled, labeling.synthetic_pairs):
        table, report = make(rows.select(range(6)), given_, tokenizer, 128)
        found = {k: v for k, v in vars(report).items() if v and k not in ("negative", "neutral", "positive")}
        one_each = dict.fromkeys(("kept", "markers", "empty", "identical", "too_long", "same_tokens"), 1)
        assert found == {"read": 6} | one_each
        assert len(table) == (2 if make is labeling.labelled else 1)
        assert "too long 1" in str(report)
    table, _ = labeling.labelled(rows.select(range(6)), given_, tokenizer, 128)
    assert set(table["pair"]) == {3}, "a row keeps its number"


@pytest.mark.parametrize("make", [labeling.labelled, labeling.synthetic_pairs])
def test_misaligned_revisions_and_revisions_of_nothing_are_refused(make, rows, tokenizer):
    with pytest.raises(ValueError, match="2 rows and 1 revisions"):
        make(rows.select(range(2)), [Revision("a")], tokenizer, 128)
    with pytest.raises(ValueError, match=r"no rows left.*|kept 0.*markers 2"):
        make(rows.select(range(2)), [Revision(None, "markers")] * 2, tokenizer, 128)


@pytest.mark.parametrize("method", ["segment", "token", "bandit"])
def test_synthetic_pairs_go_through_the_preparation_of_reward_models(method, rows, tokenizer):
    revisions = [Revision(f"maybe apple, maybe pear, maybe plum {'would do' * (i % 2)}.") for i in range(8)]
    table, _ = labeling.synthetic_pairs(rows.select(range(8)), revisions, tokenizer, 128)
    assert table["rejected_completion_ids"] == rows.select(range(8))["rejected_completion_ids"]
    torch.manual_seed(0)
    model = models.tiny_llama(tokenizer, 32, 1, heads=2)
    ready = with_entropies(model, tokenizer, table)
    ready = reward_model.with_segments(ready, methods.METHODS[method], tokenizer, 0)
    batch = reward_model.collate(ready.to_list(), tokenizer.pad_token_id)
    revised = tokens.tokenize_response(tokenizer, revisions[0].text)
    assert batch["input_ids"][0, : batch["attention_mask"][0].sum()].tolist()[-len(revised) :] == revised
    assert np.isfinite(reward_model.margins(models.scorer_from(model), ready, tokenizer.pad_token_id)).all()


def test_rows_read_back_are_the_pairs_they_were_made_of(rows, pairs, tokenizer):
    assert conversations(rows, tokenizer) == pairs


def test_what_was_cut_stays_cut_and_turns_stay_apart(tokenizer):
    prompt = [{"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "sure"), ("user", "four tools"))]
    row = {
        "prompt_ids": tokens.tokenize_prompt(tokenizer, prompt),
        "chosen_completion_ids": tokens.tokenize_response(tokenizer, "maybe saw, maybe axe.")[:2]
        + [tokenizer.eos_token_id],
        "rejected_completion_ids": [tokenizer.eos_token_id],
    }
    (read,) = conversations(Dataset.from_list([row]), tokenizer)
    assert read["prompt"] == [{"role": "user", "content": "hi\nsure\nfour tools"}]
    assert read["chosen"][0]["content"] == "maybe saw" and read["rejected"][0]["content"] == ""
