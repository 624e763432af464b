"""How good a run is with its circuits executed elsewhere: against the truth, the ideal circuits, and the baseline."""

import math

import numpy as np
import torch
from scipy import stats

Z = stats.norm.ppf(0.975)


def wilson(right: float, n: int) -> list[float]:
    """95 % interval of a share, in [0, 1] (Wilson 1927): `right` of `n`, a mean over repeats need not be whole."""
    share, extra = right / n, Z**2 / n
    middle = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def paired_interval(fixed: float, broken: float, n: int) -> list[float]:
    """95 % interval of (fixed - broken)/n, a difference of two accuracies on the same n images, in [-1, 1].

    Bonett and Price (2012): one image more of each kind, so that none that changed is not taken for certainty.
    """
    more, less = (fixed + 1) / (n + 2), (broken + 1) / (n + 2)
    half = Z * math.sqrt((more + less - (more - less) ** 2) / (n + 2))
    return [max(-1.0, more - less - half), min(1.0, more - less + half)]


def against(right: np.ndarray, reference: np.ndarray) -> dict:
    """A paired comparison on the same images.

    Args:
        right: (R, K) bool, of R repeats.
        reference: (K,) bool.

    Returns:
        {"difference", "interval"} in percentage points, {"fixed", "broken"} images, means over the repeats, and
        {"p"}: exact McNemar of the first repeat.
    """
    n = len(reference)
    fixed, broken = (right & ~reference).sum(1), (~right & reference).sum(1)
    first = int(fixed[0]), int(fixed[0] + broken[0])
    return {
        "difference": 100 * float((fixed - broken).mean()) / n + 0.0,  # no -0
        "interval": [100 * end for end in paired_interval(fixed.mean(), broken.mean(), n)],
        "fixed": _number(fixed.mean()),
        "broken": _number(broken.mean()),
        "p": float(stats.binomtest(*first).pvalue) if first[1] else 1.0,
    }


def _number(value) -> int | float:
    """A mean over repeats; whole where there is one."""
    return int(value) if float(value).is_integer() else round(float(value), 3)


class Scorer:
    """Scores of values that circuits returned, against what the ideal circuits give.

    Args:
        hybrid: from `read_hybrid`.
        ideal: exact values (K, outputs) of each circuit.
        baseline: (K,) bool, which images the baseline's run has right; None where there is no such run.
    """

    def __init__(self, hybrid, ideal: list[torch.Tensor], baseline: np.ndarray | None = None):
        self.hybrid, self.ideal, self.baseline = hybrid, ideal, baseline
        self.labels = hybrid.labels.numpy()
        logits = hybrid.logits(ideal)
        self.ideal_predicted = logits.argmax(1).numpy()
        self.ideal_right = self.ideal_predicted == self.labels
        self.ideal_share = hybrid.share(ideal) if hybrid.share else None

    def score(self, repeats: list[list[torch.Tensor]]) -> dict:
        """Accuracy and what changed.

        Args:
            repeats: of each repeat, the values (K, outputs) of each circuit.

        Returns:
            `top1` in [0, 1], mean over repeats, with `interval` (95 %, Wilson: other images); `top1_repeats` and their
            `standard_error`; `against_ideal` and `against_baseline`, see `against`; `rms_values`: root mean square
            error of the circuits' values; `rms_logits`: of alpha * logits_q, beside its own size `rms_logits_ideal`.
        """
        right = np.stack([self.hybrid.logits(values).argmax(1).numpy() == self.labels for values in repeats])
        top1, count = right.mean(1), len(repeats)
        errors = [(v - i).square().mean().item() for values in repeats for v, i in zip(values, self.ideal, strict=True)]
        found = {
            "top1": float(top1.mean()),
            "interval": wilson(right.sum(1).mean(), right.shape[1]),
            "top1_repeats": [float(one) for one in top1],
            "standard_error": float(top1.std(ddof=1) / math.sqrt(count)) if count > 1 else None,
            "against_ideal": against(right, self.ideal_right),
            "against_baseline": None if self.baseline is None else against(right, self.baseline),
            "rms_values": math.sqrt(np.mean(errors)),
            "rms_logits": None,
            "rms_logits_ideal": None,
        }
        if self.ideal_share is not None:
            off = [(self.hybrid.share(values) - self.ideal_share).square().mean().item() for values in repeats]
            found["rms_logits"] = math.sqrt(np.mean(off))
            found["rms_logits_ideal"] = math.sqrt(self.ideal_share.square().mean().item())
        return found


def where_it_ends(strengths: list[float], differences: list[float], ideal: dict) -> dict:
    """At which strength of noise what the run has over the baseline is gone.

    Args:
        strengths: of a sweep, rising.
        differences: from the baseline at each, percentage points.
        ideal: `against` the baseline without noise.

    Returns:
        {"strength": a number or None, "why": words}. Between two strengths, on a line in the logarithm of the strength.
    """
    if ideal["difference"] <= 0:
        return {"strength": None, "why": "the ideal circuits are not better than the baseline on these images"}
    sure = "" if ideal["interval"][0] > 0 else "; without noise its interval holds 0 already"
    before = None
    for strength, difference in zip(strengths, differences, strict=True):
        if difference <= 0:
            if before is None or before[0] <= 0 or strength <= 0:
                return {"strength": strength, "why": f"gone at the smallest strength that was tried{sure}"}
            part = before[1] / (before[1] - difference)
            at = math.exp(math.log(before[0]) + part * (math.log(strength) - math.log(before[0])))
            return {"strength": at, "why": f"between {before[0]:.3g} and {strength:.3g}{sure}"}
        before = strength, difference
    return {"strength": None, "why": f"not gone at the largest strength that was tried{sure}"}
