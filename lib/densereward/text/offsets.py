"""Where every token lies in the text that it decodes to.

Follows: Hugging Face tokenizers make text of ids by joining the tokens' bytes, so the spans can be read off the bytes,
one token at a time, for byte-level BPE (GPT-2, Qwen, Llama 3) and for sentencepiece-like BPE with byte fallback (Llama
2, Phi-3). The result is checked against `tokenizer.decode`; where they disagree (WordPiece and other decoders that
rewrite text) the spans come from decoding every prefix, which is right for any tokenizer and takes quadratic time.

A character that several tokens share belongs to the token that completes it; those before it own nothing of it. The
spans therefore partition the text: each starts where the one before it ended. Tokens without text (EOS, padding, other
special tokens, ids outside the vocabulary) get an empty span.

Leaves out: offsets of an encoding. A tokenizer gives those itself, but sampled ids need not be what it would encode.

Book: tlcr.md
"""

import codecs
import os
import re

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def token_offsets(tokenizer, ids: list[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of `ids` (special tokens skipped) and one span [start, end) per id, in characters of that text.

    `"".join(text[a:b] for a, b in offsets) == text`. Linear in the number of ids, see the module for the exception.
    """
    ids = [int(i) for i in ids]
    text = _decode(tokenizer, ids)
    ends = _ends_by_bytes(tokenizer, ids, text)
    if ends is None:
        ends = _ends_by_prefixes(tokenizer, ids, text)
    return text, list(zip([0, *ends[:-1]], ends, strict=True)) if ids else []


def _decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _ends_by_bytes(tokenizer, ids, text):
    """Where each token's text ends, or None where the tokens' bytes do not spell `text`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return None
    special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    tokens = [None if i in special else backend.id_to_token(i) for i in ids]
    byte_level = backend.decoder.decode(["Ġ"]) == " "
    pieces = _byte_level(tokens) if byte_level else _byte_fallback(tokens)

    utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")  # holds a character back until its last byte
    chunks = [utf8.decode(piece) for piece in pieces]
    cut_short = utf8.decode(b"", final=True)
    if cut_short:
        chunks[max(i for i, piece in enumerate(pieces) if piece)] += cut_short
    spelled = "".join(chunks)
    stripped = len(spelled) - len(text)  # sentencepiece: the leading space is not part of the text
    if stripped < 0 or spelled[stripped:] != text or spelled[:stripped].strip(" "):
        return None
    ends, position = [], -stripped
    for chunk in chunks:
        position += len(chunk)
        ends.append(max(0, position))
    return ends


# Byte-level BPE writes a byte as a printable character: its Latin-1 one where it has one, else one from U+0100 on
_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
_REST = [b for b in range(256) if b not in _PRINTABLE]
_BYTE_OF = {chr(b): b for b in _PRINTABLE} | {chr(256 + k): b for k, b in enumerate(_REST)}


def _byte_level(tokens):
    """Bytes of byte-level tokens; an added token with characters outside the alphabet stands for itself."""
    pieces = []
    for token in tokens:
        plain = token is not None and all(c in _BYTE_OF for c in token)
        pieces.append(bytes(_BYTE_OF[c] for c in token) if plain else (token or "").encode())
    return pieces


def _byte_fallback(tokens):
    """Bytes of sentencepiece tokens: '▁' is a space, '<0x0A>' a byte; a run of bytes that spells no text is lost."""
    pieces = [(token or "").replace("▁", " ").encode() for token in tokens]
    run = []
    for i, token in [*enumerate(tokens), (len(tokens), "end")]:
        if byte := _BYTE_TOKEN.fullmatch(token or ""):
            run.append(i)
            pieces[i] = bytes.fromhex(byte[1])
        elif token is not None:  # a token without text does not end a run
            if not _is_utf8(b"".join(pieces[j] for j in run)):
                for j in run:
                    pieces[j] = "\ufffd".encode()
            run = []
    return pieces


def _is_utf8(raw):
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _ends_by_prefixes(tokenizer, ids, text):
    """The definition: token i ends where the text of ids[:i + 1] stops agreeing with the whole text."""
    ends, end = [], 0
    for i in range(len(ids)):
        end = max(end, len(os.path.commonprefix([_decode(tokenizer, ids[: i + 1]), text])))
        ends.append(end)
    return ends
