"""A language model that was tried as reviser and judge (`study.measures.asked`, `study.measures.weighed`), in words."""

import pandas as pd

from study.summary import interval_text


def rows(record: dict) -> pd.DataFrame:
    """Verdicts of a record of `asked`, a row per judge: replies read of those asked for, picks, shares of them that are
    right and that are of the answer shown first, and pairs turned around by the order of those read in both."""
    found = []
    for of in record["verdicts"]:
        position = of["position"]
        row = {"judge": of["judge"], "read": f"{of['read']} of {of['asked']}", "picks": of["picked"]}
        for name, words in (("right", "right"), ("shown_first", "shown first"), ("right_of_all", "right, of all")):
            row[words] = interval_text(*of[name], 2) if of[name] else None
        both = position["pairs"] - position["unreadable"]
        found.append(row | {"turned around": f"{position['reversed']} of {both}"})
    return pd.DataFrame(found)


def revisions(record: dict) -> str:
    """What became of the revisions that a record of `asked` asked for, and what they took."""
    made, spent = record["revisions"], record["revisions_spent"]
    failed = [f"{n} fail ({name.removeprefix('failed: ')})" for name, n in made.items() if name.startswith("failed")]
    fates = [f"{made['revised']} are of use (share {interval_text(*made['usable'], 2)})", *failed]
    edits = (
        f"Those of use take out {made['taken_out']} of {made['words']} words of the rejected answers, and "
        f"{made['preferred_copied']} are the preferred answer word for word. "
    )
    asked = f"Of {made['read']} revisions by {record['model']} {', '.join(fates)}. "
    return f"{asked}{edits if made['words'] else ''}{spent['requests']} requests took {spent['tokens']:,} tokens."


def weighed(record: dict) -> str:
    """How often a model that was made to choose was right, and how far the place decided (a record of `weighed`)."""
    right, first, same = (interval_text(*record[name], 2) for name in ("right", "shown_first", "same"))
    picks = f"Of {record['items']} items in both orders {record['model']} picks the labelled output {right} of the time"
    return f"{picks}, the one shown first {first}, and the same one in both orders {same}."
