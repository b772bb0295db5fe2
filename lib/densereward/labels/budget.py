"""What may be spent on an endpoint, and what was: HTTP requests, tokens, money.

Prices are the reader's: {model: {"input": ..., "output": ...}} per million tokens, in any currency. Tokens are those
that the endpoint reports, reasoning and cached ones in full. A request that would go beyond a limit is not made. What a
reply will cost nobody knows, so tokens and money may pass their limit by the requests that were under way, at most
`Chat.concurrency`. Left out: what earlier runs spent; a rerun begins anew, and pays nothing for what was answered.

Book: judging.md
"""

from collections.abc import Mapping
from threading import Lock

from densereward.labels.replies import LLMError


class Budget:
    """Limits of `requests`, `tokens` (in and out) and `money`, None for no limit; what was spent is `spent`, a dict of
    the same names. Raises ValueError for a limit that is no number of 0 or more, and for money without prices."""

    def __init__(self, requests=None, tokens=None, money=None, prices: Mapping[str, Mapping] | None = None):
        self.limits = {"requests": requests, "tokens": tokens, "money": money}
        for name, limit in self.limits.items():
            if limit is not None and not (isinstance(limit, int | float) and limit >= 0):
                raise ValueError(f"budget of {name} is {limit!r}; give a number, 0 or more")
        self.prices, self.spent, self._lock, self._untold = prices or {}, dict.fromkeys(self.limits, 0), Lock(), 0

    def price(self, model: str) -> tuple[float, float] | None:
        """A model's prices per token in and out; None where there are none and no limit needs them, else ValueError."""
        try:
            return tuple(float(self.prices[model][side]) / 1e6 for side in ("input", "output"))
        except (KeyError, TypeError, ValueError):
            if self.limits["money"] is None and model not in self.prices:
                return None
            form = f"{{{model!r}: {{'input': 0.5, 'output': 1.5}}}}"
            raise ValueError(f"no price of model {model!r}; give prices like {form}, per million tokens") from None

    def request(self) -> None:
        """Counts a request that is about to be made. Raises LLMError where a limit is reached."""
        with self._lock:
            for name, limit in self.limits.items():
                if limit is not None and self.spent[name] >= limit:
                    raise LLMError(f"the budget of {limit:g} {name} is spent ({self}); {_MEND}")
                if limit is not None and name != "requests" and self._untold:
                    raise LLMError(f"the endpoint does not say how many tokens it takes; limit requests, not {name}")
            self.spent["requests"] += 1

    def pay(self, model: str, used: tuple[int, int] | None) -> None:
        """Adds the tokens (in, out) of a reply; None where the endpoint does not tell."""
        prices = self.price(model) or (0.0, 0.0)
        with self._lock:
            self._untold += used is None
            self.spent["tokens"] += sum(used or ())
            self.spent["money"] += sum(n * price for n, price in zip(used or (), prices))

    def __str__(self) -> str:
        said = f"{self.spent['requests']:,} requests, {self.spent['tokens']:,} tokens"
        return said + (f", {self.spent['money']:.4g} paid" if self.prices else "")


_MEND = "raise it and run again: what was answered is kept"
