"""Token spans: sentence boundaries, edit labels and the coloured strips are wrong by a token if these are."""

from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from densereward.text.offsets import token_offsets

TOKENIZERS = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizers"
NAMES = ["small", "gpt2", "qwen2.5", "phi-3-mini"]
SAMPLES = [
    "Hello there. How are you? Fine...",
    "  two leading spaces,\n\na blank line\tand a tab \n",
    "你好。今天天气很好！我们走吧？",
    "naïve café – “quoted” …",
    "family 👨‍👩‍👧‍👦 flag 🇯🇵 party🎉🎉 end",
    "مرحبا؟ नमस्ते। 안녕하세요.",
    "e\u0301 combining, zero\u200bwidth, replacement \ufffd itself",
]


@cache
def load(name: str) -> PreTrainedTokenizerFast:
    """A BPE trained here, or a published tokenizer; its test is skipped where there are no files."""
    if name == "small":
        bpe = ByteLevelBPETokenizer()
        bpe.train_from_iterator(SAMPLES * 2, vocab_size=330, special_tokens=["<|pad|>", "<|end|>"], show_progress=False)
        return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    folder = TOKENIZERS / name
    if not folder.is_dir():
        pytest.skip(f"no {name} tokenizer beside the repository ({folder.name})")
    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|end|>")
    bpe = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def reference(tokenizer, ids) -> list[int]:
    """Slow and obvious: decode every prefix; a token ends where that stops agreeing with the whole.

    What was agreed on stays so: byte fallback takes characters back while the next one is incomplete.
    """
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    ends = []
    for i in range(len(ids)):
        prefix = tokenizer.decode(ids[: i + 1], skip_special_tokens=True)
        agreed = 0
        while agreed < min(len(prefix), len(whole)) and prefix[agreed] == whole[agreed]:
            agreed += 1
        ends.append(max([agreed, *ends[-1:]]))
    return ends


def only_by_bytes():
    return patch(
        "densereward.text.offsets._ends_by_prefixes", side_effect=AssertionError("fell back to the quadratic path")
    )


def check_partition(tokenizer, ids):
    text, offsets = token_offsets(tokenizer, ids)
    assert text == tokenizer.decode(ids, skip_special_tokens=True)
    assert len(offsets) == len(ids)
    assert "".join(text[a:b] for a, b in offsets) == text
    position = 0
    for a, b in offsets:
        assert a == position and b >= a
        position = b
    return text, offsets


TEXT = st.one_of(st.sampled_from(SAMPLES), st.text(max_size=30), st.text("aé。…🎉 \n.你▁Ġ", max_size=20))


@pytest.mark.parametrize("name", NAMES)
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_every_token_owns_the_characters_it_completes(name, text):
    """Any script and emoji, on real tokenizers, equals decoding every prefix; in one decode, or it crawls."""
    tokenizer = load(name)
    ids = encode(tokenizer, text)
    with only_by_bytes():
        whole, offsets = check_partition(tokenizer, ids)
    if "\ufffd" not in whole:  # a partial character decodes to U+FFFD, which the reference cannot tell from a real one
        assert [b for _, b in offsets] == reference(tokenizer, ids)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_junk_that_a_policy_samples_has_offsets_too(name, data):
    """Sampled ids need not spell UTF-8 nor be in the vocabulary (models pad it): the slices are the text."""
    tokenizer = load(name)
    ids = data.draw(st.lists(st.one_of(st.integers(0, 300), st.integers(0, len(tokenizer) + 40)), max_size=25))
    with only_by_bytes():
        check_partition(tokenizer, ids)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_inside_a_character_are_empty_and_before_it(name):
    """One emoji over several tokens: a boundary may not fall inside it, nor may it be counted twice."""
    tokenizer = load(name)
    text, offsets = check_partition(tokenizer, encode(tokenizer, "a 🧿b"))
    assert text == "a 🧿b"
    inside = [(a, b) for a, b in offsets if a == 2]
    assert len(inside) > 1 and inside[-1][1] > 2 and all(span == (2, 2) for span in inside[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_have_no_text(name):
    """EOS is scored but is not text: it must not shift the spans of the others, wherever it stands."""
    tokenizer = load(name)
    ids = encode(tokenizer, "Hello 你好.")
    eos = tokenizer.eos_token_id
    text, offsets = check_partition(tokenizer, [*ids[:1], eos, *ids[1:], eos, eos])
    assert text == "Hello 你好."
    assert [b - a for a, b in (offsets[1], offsets[-1], offsets[-2])] == [0, 0, 0]
    assert offsets[:1] + offsets[2:-2] == token_offsets(tokenizer, ids)[1]
    emoji = encode(tokenizer, "🧿")
    with only_by_bytes():
        assert check_partition(tokenizer, [*emoji[:-1], eos, emoji[-1]])[0] == tokenizer.decode(emoji)


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_character_belongs_to_its_last_byte(name):
    """A completion cut at the length limit, amid an emoji: the replacement character is not given to EOS."""
    tokenizer = load(name)
    ids = encode(tokenizer, "ok 🧿")[:-1]
    text, offsets = check_partition(tokenizer, [*ids, tokenizer.eos_token_id])
    assert text.startswith("ok ") and text.endswith("\ufffd")
    assert offsets[-1] == (len(text), len(text)) and offsets[-2][1] == len(text) > offsets[-2][0]


def test_added_tokens_that_are_not_special_keep_their_text():
    """A tool-call marker added to the vocabulary is text that the reader sees, with its spaces and accents."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=load("small").backend_tokenizer, eos_token="<|end|>")
    tokenizer.add_tokens(["<appel é>"])
    with only_by_bytes():
        text, offsets = check_partition(tokenizer, encode(tokenizer, "so <appel é> now."))
    assert text == "so <appel é> now." and "<appel é>" in [text[a:b] for a, b in offsets]


def test_any_other_decoder_takes_the_slow_path():
    """WordPiece rewrites spaces and joins punctuation as it decodes: still exact."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[PAD]"], show_progress=False)
    backend.train_from_iterator(["hello there, we do not know."], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    ids = encode(tokenizer, "hello there, we know.")
    text, offsets = check_partition(tokenizer, ids)
    assert text == "hello there, we know."
    assert [b for _, b in offsets] == reference(tokenizer, ids)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", SAMPLES[:5])
def test_the_slow_path_agrees_with_the_fast_one(name, text):
    """The same text must not be cut differently because a tokenizer's decoder is a rarer one."""
    ids = encode(load(name), text)
    with patch("densereward.text.offsets._ends_by_bytes", return_value=None):
        slow = token_offsets(load(name), ids)
    assert slow == token_offsets(load(name), ids)


def test_an_empty_completion_has_no_spans():
    assert token_offsets(load("small"), []) == ("", [])
