"""What an endpoint said: a reply, the outcome of one question, or why there is neither.

Servers agree on little: errors inside status 200, texts in parts, null for text, other words for one end.

Book: judging.md
"""

import json
import re
from typing import NamedTuple

OUTCOMES = ("cut", "filtered", "refused", "over_context", "unanswered")  # what they mean: labeling.Report
# What servers call the end of a whole reply and of another one; a finish_reason in neither list is no answer.
WHOLE = ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "tool_calls", "function_call")
ENDS = dict.fromkeys(("length", "max_tokens", "model_length"), "cut") | {"refusal": "refused"}
ENDS |= dict.fromkeys(("content_filter", "safety", "recitation", "prohibited_content", "sensitive"), "filtered")
# What servers say of one question; each of the words was seen in an error of at least one of them.
OVER_CONTEXT = re.compile(
    r"context[ _]?(length|window|size)|(prompt|input|message)\S*( \([^)]*\))? (is |are )?too long|longer than the model"
    r"|maximum (number of tokens|prompt length)|must have less than \d+ tokens|reduce the length"
    r"|string_above_max_length|range of input length|tokens\W+max_new_tokens\W+must be"
    r"|too many tokens(?!,? (per|in a|please)\b)",  # which limits a rate
    re.IGNORECASE,
)
FILTERED = re.compile(
    r"content[ _](filter|management|policy)|responsible ?ai|data_inspection|inappropriate content|flagged"
    r"|requires moderation|safety system|content exists risk",
    re.IGNORECASE,
)
NO_COMPLETION = "got no chat completion"
THOUGHTS = re.compile(r"<(/?)(?:think|thinking|thought|reasoning|seed:think)>|\[(/?)THINK\]|◁(/?)think▷")


class LLMError(RuntimeError):
    """The endpoint or the reply cache cannot be used; the text says what to mend."""


class Reply(NamedTuple):
    """The text that came, and None for a whole answer, else a key of OUTCOMES."""

    text: str
    outcome: str | None = None


class Failed(Exception):
    """A request without a reply: what was said of it, the HTTP status (None where none came), the endpoint's code, the
    seconds it asks to wait, and whether the status stood inside a reply of status 200."""

    def __init__(self, said: str, status: int | None = None, code=None, after: str = "", inside: bool = False):
        super().__init__(said)
        self.said, self.status, self.code, self.after, self.inside = said, status, code, after, inside


def without_thoughts(text: str) -> str:
    """A reply without the reasoning in front of it (`<think>...</think>`, also without its opening tag, as templates
    that write it for the model leave it); nothing where the reasoning has no end."""
    tags = list(THOUGHTS.finditer(text))
    closing_tags = [tag for tag in tags if any(tag.groups())]
    leads = bool(tags) and not text[: tags[0].start()].strip() and tags[0] not in closing_tags
    if leads or (closing_tags and len(closing_tags) == len(tags)):
        return text[closing_tags[-1].end() :] if closing_tags else ""
    return text


def read_body(body: bytes, weighed: bool = False) -> Reply:
    """The reply in what an endpoint sent with status 200, or (weighed) its log-probabilities. Raises Failed where
    there is none."""
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        broken = body.lstrip()[:1] in (b"", b"{")  # else it is a page, of another kind of server
        raise Failed(NO_COMPLETION + ", but broken JSON" * broken, 200, inside=broken) from None
    if not isinstance(sent, dict) or not {"choices", "error"} & sent.keys():
        raise Failed(NO_COMPLETION, 200)
    choices = sent.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if error := sent.get("error") or choice.get("error"):
        error = error if isinstance(error, dict) else {"message": error}
        code = error.get("code")
        status = int(code) if str(code).isdigit() else 200
        raise Failed(f"error inside a reply of status 200: {error.get('message')}", status, code, inside=True)
    message = choice.get("message")
    reason = str(choice.get("finish_reason") or "").lower()
    outcome = None if reason in WHOLE else ENDS.get(reason, "unanswered")
    if outcome is None and not isinstance(message, dict):
        raise Failed(f"a reply without a message (choices: {choices!r:.60})", 200, inside=True)
    if outcome == "unanswered":
        raise Failed(f"a reply that ended with finish_reason {reason!r:.60}", 200, inside=True)
    message = message if isinstance(message, dict) else {}
    outcome = outcome or ("refused" if message.get("refusal") else None)
    text = json.dumps(_alternatives(choice)) if weighed else _text(message.get("content")) or _arguments(message)
    return Reply(text, outcome)


def usage(body: bytes) -> tuple[int, int] | None:
    """(tokens in, tokens out) that a body was paid for by its own account; None where it has a choice and none."""
    try:
        sent = json.loads(body)
        if not sent.get("choices"):
            return 0, 0
        return int(sent["usage"]["prompt_tokens"]), int(sent["usage"]["completion_tokens"])
    except (KeyError, TypeError):
        return None
    except (ValueError, RecursionError, AttributeError):  # no reply at all
        return 0, 0


def told(body: bytes, status: int) -> str:
    """A body's HTTP status and what it says of itself, as JSON: status, model, finish_reason, usage, and null for what
    it does not say."""
    try:
        sent = json.loads(body)
        choice = (sent.get("choices") or [{}])[0]
        facts = {"model": sent.get("model"), "finish_reason": choice.get("finish_reason"), "usage": sent.get("usage")}
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError):  # no reply at all
        facts = dict.fromkeys(("model", "finish_reason", "usage"))
    return json.dumps({"status": status} | facts)


def _arguments(message: dict) -> str:
    """The arguments of a message's first tool call, which is its answer where it has no text."""
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else None
    function = call.get("function") if isinstance(call, dict) else None
    return _text(function.get("arguments")) if isinstance(function, dict) else ""


def _alternatives(choice: dict) -> list[dict[str, float]]:
    """The likeliest words in place of each token of a reply; none where the endpoint told none."""
    try:
        tokens = choice["logprobs"]["content"]
        return [{one["token"]: float(one["logprob"]) for one in token["top_logprobs"]} for token in tokens]
    except (KeyError, TypeError, ValueError):
        return []


def _text(content: object) -> str:
    """The text of a message's content: text, null, or a list of parts, of which those of reasoning are left out. Half a
    surrogate pair, which no file can hold, becomes a question mark. Raises Failed for anything else."""
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]
        content = "".join(_text(p.get("text")) for p in parts if p.get("type") in (None, "text", "output_text"))
    if not isinstance(content or "", str):
        raise Failed(f"a reply whose content is {content!r:.60}", 200, inside=True)
    return (content or "").encode(errors="replace").decode()


def may_pass(failed: BaseException) -> bool:
    """Whether asking again may help: rate limits, timeouts, lost connections, 5xx, and what is no reply in a reply of
    status 200; not a used-up quota, and not what is a question's outcome."""
    if not isinstance(failed, Failed) or outcome_of(failed) not in (None, "unanswered"):
        return False
    return not _for_all(failed) and (failed.inside or failed.status in (None, 200, 408, 429) or failed.status >= 500)


def _for_all(failed: Failed) -> bool:
    """Whether every question would fail so until somebody mends key, credit or address."""
    return failed.code == "insufficient_quota" or failed.status in (401, 402, 403, 404)


def outcome_of(failed: Failed) -> str | None:
    """The outcome of the one question that failed so, or None where others would too."""
    said = f"{failed.code} {failed.said}"
    if failed.status in (200, 400, 403, 413, 422, 451):
        if FILTERED.search(said) or failed.status == 451:
            return "filtered"
        if OVER_CONTEXT.search(said) or failed.status == 413:
            return "over_context"
    return "unanswered" if failed.inside and not _for_all(failed) else None


def mend_of(failed: Failed, tries: int) -> str:
    """What may help, after so many tries."""
    if failed.status in (401, 403):
        return "check OPENAI_API_KEY"
    if failed.status == 402 or failed.code == "insufficient_quota":
        return "the account has no credit or quota left: add some and run again, what was answered is kept"
    if failed.status == 200 and not failed.inside:
        return "check OPENAI_BASE_URL, which often ends in /v1"
    if failed.status in (None, 404):
        return "check OPENAI_BASE_URL and the model's name"
    if failed.inside or failed.status in (408, 429) or failed.status >= 500:
        return f"it stayed so for {tries} tries; run again later, what was answered is kept"
    return "change the request; what was answered is kept"
