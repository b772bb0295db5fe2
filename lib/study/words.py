"""What tables and figures call the things that are measured, and how their numbers are written: shared by what measures
and what draws."""

import re

SIDES = ("chosen", "rejected")
TRUTH = "true return"  # stands among the ways to pay an answer
AT_END = ", paid at the end"  # behind the name of a way to pay: the same total, at the last token
EDITS = ("new right item", "greeting", "off-topic remark", "wrong item", "repetition")  # one more clause, by what it is
DECISIONS = {"threshold": "two ways (Eq. 13)", "three-way": "three ways (Eq. 17)", "schmitt": "with memory"}
PARTITIONS = {  # name: how figures print it
    "sequence": "Sequence",
    "sentence": "Sentence",
    "ngram": "Fixed step (n-gram)",
    "entropy": "Entropy segment",
    "token": "Token",
    "threshold": "Adaptive (Eq. 13)",
    "three-way": "Adaptive, offset (Eq. 17)",
    "schmitt": "Adaptive, with memory",
    "search": "Change points, noisy",
    "spans": "True spans",
    "optimal": "Optimal (Eq. 12)",
}


def minus(text: str) -> str:
    """The text with a true minus before its numbers, and none before a zero; for readers, not for files."""
    text = re.sub(r"(?<![\w.-])[-−](?=0*\.?0+(?![.\d]))", "", text)
    return re.sub(r"(?<![\w.-])-(?=\.?\d)", "−", text)
