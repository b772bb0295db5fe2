"""The revision prompt, its strict reading, and the reviser that asks an external model.

Follows tlcr Section 4.1 and Appendix A: the inputs, their order and the markers are Figure 9's, the words are ours. To
use the paper's own words, copy them into a text file and read it with `load_template`. Unlike the released code, which
keeps a reply without markers whole, such a reply is a failure: asked for again, counted, and never a label.

Left out: examples in the prompt, the one-line preamble of Figure 9, and repairing replies.

Book: tlcr.md
"""

import re
from collections import Counter
from pathlib import Path

from densereward.labels.llm import Chat
from densereward.labels.revision import Reviser, Revision, checked

START, END = "<|Start of Modified Response|>", "<|End of Modified Response|>"
TEMPLATE = f"""\
<|Start of Instruction|>
You see a conversation, a reply to it that people preferred and one that they did not prefer. Turn the non-preferred \
reply into one that they would prefer. Say first what makes it the weaker one and how that can be mended, then give \
the mended reply. Keep strictly to this form:
<|Start of Reasoning|>
(your reasons)
<|End of Reasoning|>

{START}
(the mended reply)
{END}
Leave everything that can stay as it is and where it is: the fewer edits, the better.
<|End of Instruction|>

<|Start of Context|>
{{context}}
<|End of Context|>

<|Start of Preferred Response|>
{{chosen}}
<|End of Preferred Response|>

<|Start of Non-Preferred Response|>
{{rejected}}
<|End of Non-Preferred Response|>"""
_PLACEHOLDER = re.compile(r"\{(context|chosen|rejected)\}")
# A marker on a line of its own with what decorates it, or decorated alike on both sides.
_START, _END = (
    re.compile(rf"^[ \t>#*_`~-]*{marker}[ \t\r*_`:~]*$|(?P<mark>[*_`]{{0,3}}){marker}(?P=mark)", re.MULTILINE)
    for marker in map(re.escape, (START, END))
)
# Reasoning amid a reply that drafts a response between the markers; what stands in front `Chat` leaves out.
_DRAFT = re.compile(
    rf"<(think|thinking)>(?:(?!</\1>).)*?(?:{re.escape(START)}|{re.escape(END)}).*?(?:</\1>|\Z)", re.DOTALL
)
_SPEAKERS = {"user": "###Human", "assistant": "###Assistant", "system": "###System"}


def load_template(path: str | Path) -> str:
    """A revision prompt from a text file: {context}, {chosen} and {rejected} once each, and both markers of the revised
    response named; other braces are text. ValueError, naming file and mend, for anything else."""
    try:
        template = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"revision prompt '{path}' cannot be read ({problem}); give a text file in UTF-8") from problem
    found = _PLACEHOLDER.findall(template)
    if sorted(found) != ["chosen", "context", "rejected"]:
        raise ValueError(f"revision prompt '{path}' has {found}; write {{context}}, {{chosen}}, {{rejected}} once each")
    if missing := [marker for marker in (START, END) if marker not in template]:
        raise ValueError(f"revision prompt '{path}' does not name {missing[0]}; ask for the reply between both markers")
    return template


def request(prompt: list[dict], rejected: str, chosen: str, template: str = TEMPLATE) -> list[dict]:
    """The messages that ask for a revision: one user turn. Texts that hold braces or markers go in as they are."""
    context = "\n".join(f"{_SPEAKERS[message['role']]}: {message['content']}" for message in prompt)
    texts = {"context": context, "chosen": chosen, "rejected": rejected}
    return [{"role": "user", "content": _PLACEHOLDER.sub(lambda found: texts[found[1]], template)}]


def parse(reply: str, rejected: str) -> Revision:
    """The revised response in a reply, or the kind of failure: "markers" unless there is one start marker with one end
    marker behind it, "empty" (a reply without any text too), "identical", "broken". What sets a marker in bold, as
    code or as a heading goes with it; a draft amid reasoning is no response."""
    if not reply.strip():
        return checked("", rejected)
    reply = _DRAFT.sub("", reply)
    if (reply.count(START), reply.count(END)) != (1, 1):
        return Revision(None, "markers")
    start, end = _START.search(reply), _END.search(reply)
    if end.start() < start.end():
        return Revision(None, "markers")
    return checked(reply[start.end() : end.start()], rejected)


def llm_reviser(chat: Chat, template: str = TEMPLATE, attempts: int = 3) -> Reviser:
    """A reviser that asks `chat`, again for each failure that another reply may mend, at most `attempts` times; the
    last failure is the row's.

    `counts`: replies, and malformed ones by kind ("malformed: markers"), those of rows that came right in the end too.
    `spent()` of the reviser says what was. Raises what `chat.ask` raises.
    """

    def revise(prompt: list[dict], rejected: str, chosen: str) -> Revision:
        counts, messages = Counter(), request(prompt, rejected, chosen, template)
        for attempt in range(attempts):
            reply = chat.ask(messages, attempt)
            found = Revision(None, reply.outcome) if reply.outcome else parse(reply.text, rejected)
            counts["replies"] += 1
            if found.failure is None:
                break
            counts[f"malformed: {found.failure}"] += 1
            if found.failure in ("over_context", "unanswered"):
                break
        return Revision(found.text, found.failure, dict(counts))

    if attempts < 1:
        raise ValueError(f"attempts is {attempts}; ask once at least")
    revise.spent = chat.budget.__str__
    return revise
