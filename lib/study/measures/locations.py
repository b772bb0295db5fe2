"""How far the log-linear form of segment-ppo's normaliser holds: scores by location against the lines of Eq. 6.

A location is p = (t + 1) / T of segment t of T. The paper fits Mean(p) and Std(p) as lines in log p, one point per
location, and shows no residuals. Here are the points, and what the lines leave of them. Left out: uncertainty of the
lines themselves.
"""

import numpy as np
import pandas as pd
import torch
from scipy.special import gammaln

from densereward.reward.rewards import Normaliser, normalise
from study.summary import label

OFTEN = 30  # scores at a location from which on its mean is taken at its word
HOLDS = {0.9: "holds", 0.5: "holds in part", -np.inf: "does not hold"}  # from which share of the ceiling on


def by_location(scores: torch.Tensor, mask: torch.Tensor) -> pd.DataFrame:
    """p, log_p, n, mean and std of the raw scores [B, S] at each location that two scores or more share, as the fit
    sees them (segment-ppo Appendix F)."""
    mask = mask.bool().cpu()
    t, T = mask.cumsum(1)[mask].numpy(), mask.sum(1, keepdim=True).expand_as(mask)[mask].numpy()
    divisor = np.gcd(t, T)  # locations as fractions in lowest terms, free of rounding
    frame = pd.DataFrame({"t": t // divisor, "T": T // divisor, "score": scores.cpu()[mask].double().numpy()})
    found = frame.groupby(["t", "T"]).score.agg(n="size", mean="mean", std="std").query("n >= 2").reset_index()
    p = found["t"] / found["T"]
    return found.assign(p=p, log_p=np.log(p)).sort_values("p", ignore_index=True)[["p", "log_p", "n", "mean", "std"]]


def lines(found: pd.DataFrame, fitted: Normaliser) -> pd.DataFrame:
    """`found` with the fitted mean_line, std_line (as the line has it, without floor), and residual: mean less
    mean_line, in units of the floored Std(p)."""
    mean, std = (w * found.log_p + b for w, b in ((fitted.w_mean, fitted.b_mean), (fitted.w_std, fitted.b_std)))
    unit = std.clip(lower=fitted.floor) if fitted.floor else std
    return found.assign(mean_line=mean, std_line=std, residual=(found["mean"] - mean) / unit)


def form(found: pd.DataFrame, fitted: Normaliser) -> dict[str, float]:
    """What the lines explain of Mean(p) and Std(p) over locations, in numbers.

    `..._r2`: share of the variance that the line explains, each location counting once, as in the fit, or by its scores
    (`_weighted`); `..._ceiling`: the share that is no sampling noise, the most that any curve in p should explain;
    `..._in_log_p`, `..._in_p`: weighted, of the best lines in log p and in p. `residual`, `residual_p`: the largest
    and where, among locations of OFTEN scores or more (nan without one). `floored`: share of locations at the floor.
    `zero`: p at and below which the line Std(p) is not above 0 (0: never); `zero_segments`: how many segments a
    response needs to have one there."""
    table = lines(found, fitted)
    once, n = np.ones(len(table)), table["n"].to_numpy(float)
    result = {"locations": len(table), "scores": float(n.sum()), "scores_at_median": float(np.median(n))}
    c4 = np.sqrt(2 / (n - 1)) * np.exp(gammaln(n / 2) - gammaln((n - 1) / 2))  # mean deviation of n normal scores
    noise = {"mean": table["std"] ** 2 / n, "std": table["std"] ** 2 * (1 - c4**2)}  # variance of these estimates
    for name in ("mean", "std"):
        y, line = table[name].to_numpy(), table[f"{name}_line"].to_numpy()
        for weights, suffix in ((once, ""), (n, "_weighted")):
            result[f"{name}_r2{suffix}"] = _explained((y - line) ** 2, y, weights)
            result[f"{name}_ceiling{suffix}"] = _explained(noise[name].to_numpy(), y, weights)
        for x in ("log_p", "p"):
            result[f"{name}_in_{x}"] = _best_line(table[x].to_numpy(), y, n)
    often = table[table["n"] >= OFTEN]
    worst = often.residual.abs().idxmax() if len(often) else None
    result["residual"] = float(table.residual[worst]) if len(often) else np.nan
    result["residual_p"] = float(table.p[worst]) if len(often) else np.nan
    zero = np.exp(-fitted.b_std / fitted.w_std) if fitted.w_std > 0 else 0.0
    return result | {
        "floored": float((table.std_line < (fitted.floor or 0)).mean()),
        "zero": float(zero),
        "zero_segments": float(np.ceil(1 / zero)) if zero > 0 else np.nan,
    }


def left_over(scores: torch.Tensor, mask: torch.Tensor, fitted: Normaliser) -> dict[str, float]:
    """What normalising leaves of the scores [B, S] it was fitted on: mean and deviation over all segments, and the mean
    of a response's total. Exactly 0, 1 and 0 only where the normaliser is the global one."""
    z, mask = normalise(scores, mask, fitted), mask.bool()
    return {
        "z_mean": float(z[mask].double().mean()),
        "z_std": float(z[mask].double().std()),
        "total": float((z * mask).sum(1).double().mean()),
    }


def tables(forms: dict[tuple[str, str], dict[str, float]]) -> dict[str, pd.DataFrame]:
    """`form` of each (method, estimator) as tables to show: Mean(p), Std(p), and limits."""
    r2 = {
        "r2": "R², each location once",
        "ceiling": "at most",
        "r2_weighted": "R², by scores",
        "ceiling_weighted": "at most, by scores",
        "in_log_p": "best line in log p",
        "in_p": "best line in p",
    }
    limits = {
        "locations": "points",
        "scores_at_median": "median scores",
        "residual": "largest residual",
        "residual_p": "at p",
        "floored": "floored",
        "zero": "Std(p) 0 at p",
        "zero_segments": "segments",
    }
    columns = {f"{title}(p)": {f"{title.lower()}_{c}": text for c, text in r2.items()} for title in ("Mean", "Std")}
    counts = ("locations", "scores_at_median", "zero_segments")

    def cell(form, c):
        return form[c] if c not in counts else None if np.isnan(form[c]) else f"{form[c]:.0f}"

    return {
        title: pd.DataFrame(
            {"method": label(name), "fit": how} | {text: cell(form, c) for c, text in names.items()}
            for (name, how), form in forms.items()
        )
        for title, names in (*columns.items(), ("limits", limits))
    }


def sentence(method: str, found: dict[str, float], left: dict[str, float]) -> str:
    """`form` and `left_over` of one fit in words, with a verdict by HOLDS."""
    verdicts = [_verdict(found[f"{name}_r2_weighted"], found[f"{name}_ceiling_weighted"]) for name in ("mean", "std")]
    form = ", and it ".join(f"{verdict} for {name}(p)" for verdict, name in zip(verdicts, ("Mean", "Std")))
    reach = (
        f"without a floor Std(p) would reach 0 in responses of {found['zero_segments']:.0f} segments or more"
        if found["zero"] > 0
        else "Std(p) would stay above 0 without a floor"
    )
    paid = f"the fit leaves {left['z_mean']:+.3f} a segment and {left['total']:+.2f} an answer"
    return f"{label(method)}: the form {form}; {reach}; {paid}."


def _verdict(explained: float, ceiling: float) -> str:
    if not ceiling > 0:
        return "cannot be told from sampling noise"
    return next(words for least, words in HOLDS.items() if explained / ceiling >= least)


def _explained(left: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """1 - sum of weighted `left` over the weighted variance of y; nan where y does not vary."""
    spread = np.sum(weights * (y - np.average(y, weights=weights)) ** 2)
    return float(1 - np.sum(weights * left) / spread) if spread > 0 else np.nan


def _best_line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Weighted R2 of the weighted least-squares line of y on x; nan for fewer than two values of x."""
    if len(np.unique(x)) < 2:
        return np.nan
    slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(weights))
    return _explained((y - slope * x - intercept) ** 2, y, weights)
