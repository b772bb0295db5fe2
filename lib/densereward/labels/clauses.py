"""A reviser without knowledge: it edits the rejected response by the text of the chosen one alone.

A control of this study, in no paper: how far do token labels get whose reviser knows nothing but the preference label?
It reads no prompt, has no vocabulary and draws nothing at random. What it does, exactly:

1. Both texts are cut into clauses: behind a run of commas, semicolons or full stops (a clause's joint) and around the
   word "and" (a joint too), and behind a run of colons, exclamation or question marks, which stay with the clause; all
   where a space or the end follows.
2. A clause of the rejected response is shared if the chosen one has it too, the case of letters aside; each
   clause of the chosen response answers for one, so that of a clause said more often than there, the further ones are
   not shared.
3. Shared clauses stay. Every other one is replaced by the first clause of the chosen response that is not shared, not
   yet used, and ends like it (with or without a mark such as a colon); where none is left, it is dropped. Nothing is
   added. Joints are those of the rejected response, the last one included.

Left out: any notion of which clauses mean the same in other words.

Book: tlcr.md
"""

import re
from collections import Counter

from densereward.labels.revision import Reviser, Revision, checked

_JOINT = re.compile(r"(?P<joint>[,;.]+(?:\s+|$)|\s+and\s+)|(?<=[:!?])(?P<space>\s+)")


def clauses(text: str) -> list[tuple[str, str]]:
    """(clause, what joins it to the next one) of a text, in order; joined again they are the text. Only the last
    clause's joint can be empty."""
    found, start = [], 0
    for cut in _JOINT.finditer(text):
        found.append((text[start : cut.start()], cut[0]))
        start = cut.end()
    return found + ([(text[start:], "")] if start < len(text) else [])


def clause_reviser() -> Reviser:
    """The reviser that the module describes. `counts`: clauses (of the rejected response), shared, replaced, dropped.
    Without a shared clause the revision is chosen text in the rejected one's joints."""

    def revise(prompt: list[dict], rejected: str, chosen: str) -> Revision:
        ours, theirs = clauses(rejected), [clause for clause, _ in clauses(chosen)]
        theirs_left = Counter(map(_key, theirs))
        kept, counts = [], Counter(clauses=len(ours))
        for clause, _ in ours:  # first what is shared, so that no replacement uses it up
            kept.append(theirs_left[_key(clause)] > 0)
            theirs_left[_key(clause)] -= kept[-1]
        pools = {True: [], False: []}
        for clause in theirs:
            if theirs_left[_key(clause)] > 0:
                theirs_left[_key(clause)] -= 1
                pools[_marked(clause)].append(clause)
        out = []
        for (clause, joint), shared in zip(ours, kept, strict=True):
            pool = pools[_marked(clause)]
            fate = "shared" if shared else "replaced" if pool else "dropped"
            counts[fate] += 1
            if fate != "dropped":
                out.append((clause if shared else pool.pop(0), joint))
        text = "".join(map("".join, out[:-1])) + (out[-1][0] + ours[-1][1] if out else "")
        return checked(text, rejected, dict(counts))

    return revise


def _key(clause: str) -> str:
    return " ".join(clause.casefold().split())


def _marked(clause: str) -> bool:
    return clause.rstrip().endswith((":", "!", "?"))
