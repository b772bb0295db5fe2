"""adaptive-mask's rows: each masked method beside its twin without a mask, and what the paper leaves open, one by one.

APPO's twin is `bandit` (its variants on dense rewards have `token`), ADPO's `online-dpo`, ARS's `rs`; that of masked
DPO on fixed pairs is `dpo`. GRPO and KTO it names as further users of the mask, without a number.
"""

from dataclasses import replace

from study.row import CONTROL, Method, entropy

BY_TOKEN = {"by": "token"}  # rewards of that row of methods.py decide
SAID = {  # by trainer; said in every row, so that a record of another choice is of another method
    "ppo": {"baseline": "round", "preferred": "round"},
    "grpo": {"baseline": "round", "preferred": "group"},
    "online-dpo": {"baseline": "round"},
    "rs": {"baseline": "round"},
}
OWN = {"own": 8}  # of eight answers to a prompt
HALF = {"delta": 0.5}  # of a standard deviation of token scores
TABLE = "adaptive-mask Table 1"
OPEN = "adaptive-mask leaves it open"
NAMED = "adaptive-mask names it"
TRIGGER = "adaptive-mask Section 4.1, Appendix E"  # its runs had something like it; it gives no offset
ANNOTATED = "adaptive-mask Section 3.2: what annotators would keep, sentence by sentence; they are the oracle"
UPDATED = "adaptive-mask Section 3.2.1"  # b "dynamically" updated, by "offline inference results" or the TD error


def rows(bandit: Method, token: Method, grpo: Method) -> tuple[tuple[Method, ...], tuple[Method, ...]]:
    """(core rows, ablations) on the rows that they start from."""

    def masked(row: Method, name: str, label: str, source: str, **mask) -> Method:
        mask = BY_TOKEN | SAID.get(row.trainer, {}) | mask
        return replace(row, name=name, label=label, source=source, mask=mask)

    dpo = replace(bandit, name="online-dpo", label="DPO, online", source=TABLE, trainer="online-dpo")
    rs = replace(bandit, name="rs", label="Rejection sampling", source=TABLE, trainer="rs")
    appo, adpo = masked(bandit, "appo", "APPO", TABLE), masked(dpo, "adpo", "ADPO", TABLE)
    core = (appo, dpo, adpo, rs, masked(rs, "ars", "ARS", TABLE))
    offline = Method("dpo-masked", "DPO, masked", "adaptive-mask Eq. 15", scorer="none", trainer="dpo", mask=BY_TOKEN)
    kto = Method("kto", "KTO", NAMED, scorer="none", trainer="kto")
    dense = masked(token, "appo-dense", "APPO, dense reward", OPEN)
    preferred = {"preferred": "advantage"}
    segments = {"segments": entropy(1.75)}
    ablations = (
        offline,
        kto,
        masked(kto, "kto-masked", "KTO, masked", NAMED),
        masked(grpo, "grpo-masked", "GRPO, masked", NAMED),
        dense,
        masked(token, "appo-td", "APPO, TD error", UPDATED, baseline="td"),
        masked(bandit, "appo-fixed", "APPO, fixed baseline", UPDATED, baseline="fixed"),
        masked(bandit, "appo-running", "APPO, running baseline", UPDATED, baseline="running mean"),
        masked(bandit, "appo-advantage", "APPO, by advantage", OPEN, **preferred),
        masked(
            bandit,
            "appo-signed",
            "APPO, signed mask",
            "adaptive-mask Eq. 18",
            decision="three-way",
            signed=True,
            **HALF,
        ),
        masked(bandit, "appo-segment", "APPO, segment rewards", OPEN, by="segment"),
        masked(dpo, "adpo-fixed", "ADPO, fixed baseline", UPDATED, baseline="fixed"),
        masked(dpo, "adpo-three-way", "ADPO, neutral zone", "adaptive-mask Eq. 17", decision="three-way", **HALF),
        masked(bandit, "appo-schmitt", "APPO, Schmitt trigger", TRIGGER, decision="schmitt", **HALF),
        masked(dpo, "adpo-schmitt", "ADPO, Schmitt trigger", TRIGGER, decision="schmitt", **HALF),
        masked(rs, "ars-schmitt", "ARS, Schmitt trigger", TRIGGER, decision="schmitt", **HALF),
        masked(dpo, "adpo-segment", "ADPO, segment rewards", OPEN, by="segment"),
        masked(dpo, "adpo-tlcr", "ADPO, TLCR rewards", "this study: parts of different papers", by="tlcr"),
        masked(bandit, "appo-oracle", "APPO, mask by the oracle", CONTROL, by="oracle-dense"),
        masked(dpo, "adpo-oracle", "ADPO, mask by the oracle", CONTROL, by="oracle-dense"),
        masked(rs, "ars-oracle", "ARS, mask by the oracle", CONTROL, by="oracle-dense"),
        masked(dpo, "adpo-per-segment", "ADPO, decided per segment", OPEN, **segments),
        masked(dpo, "adpo-annotated", "ADPO, annotated", ANNOTATED, by="oracle-dense", segments={"kind": "sentence"}),
        replace(
            dpo,
            name="online-dpo-own",
            label="DPO, online, own answers",
            source="adaptive-mask Section 4.1",
            options=OWN,
        ),
    )
    return core, ablations
