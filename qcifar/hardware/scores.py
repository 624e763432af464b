"""How good a run is with its circuits executed elsewhere: against the truth, the ideal circuits, and the baseline."""

import math

import numpy as np
import torch
from scipy import stats

Z = stats.norm.ppf(0.975)


def accuracy_interval(right: np.ndarray) -> list[float]:
    """95 % interval of an accuracy, in [0, 1]: other images, and other shots where there are repeats (Wilson 1927).

    Args:
        right: (R, K) bool, of R repeats. An image that some repeats have right counts with its share of them, so the
            shares vary less between images than ones and zeros do. As many images of ones and zeros as would give this
            precision stand in Wilson's formula: K for one repeat, K R at most.
    """
    shares = right.mean(0)
    share, spread, (repeats, images) = float(shares.mean()), float(shares.var()), right.shape
    n = images * min(repeats, share * (1 - share) / spread) if spread else images
    extra = Z**2 / n
    middle = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def paired_interval(differences: np.ndarray) -> list[float]:
    """95 % interval of the mean of (K,) differences, each in [-1, 1], of two accuracies on the same images.

    Each is a mean over repeats, and what they vary by from image to image holds what the shots add to it. So the
    interval is for other images and other shots: for the difference that is expected over the shots, and not for that
    of one evaluation more, which varies more.

    Two images more, one for the better and one for the worse, so that few changes are not taken for certainty. Their
    mean square is that of the changes that there are and of one whole one: where few change, a whole change may
    only have been missed. With one repeat this is the interval of Bonett and Price (2012).
    """
    n, square = len(differences) + 2, float(np.square(differences).sum())
    changed = int(np.count_nonzero(differences))
    mean, size = float(differences.sum()) / n, (square + 1) / (changed + 1)
    half = Z * math.sqrt(((square + 2 * size) / n - mean**2) / n)
    return [max(-1.0, mean - half), min(1.0, mean + half)]


def against(right: np.ndarray, reference: np.ndarray) -> dict:
    """A paired comparison on the same images.

    Args:
        right: (R, K) bool, of R repeats.
        reference: (K,) bool.

    Returns:
        {"difference", "interval"} in percentage points, see `paired_interval`; {"fixed", "broken"} images, means over
        the repeats; and {"p"}: exact McNemar of the first repeat.
    """
    n = len(reference)
    fixed, broken = (right & ~reference).sum(1), (~right & reference).sum(1)
    first = int(fixed[0]), int(fixed[0] + broken[0])
    return {
        "difference": 100 * float((fixed - broken).mean()) / n + 0.0,  # no -0
        "interval": [100 * end for end in paired_interval(right.mean(0) - reference)],
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
            `top1` in [0, 1], mean over repeats, with `interval`, see `accuracy_interval`; `top1_repeats` and their
            `standard_error`: other shots, these images; `against_ideal` and `against_baseline`, see `against`;
            `rms_values`: root mean square error of the circuits' values; `rms_logits`: of alpha * logits_q, beside its
            own size `rms_logits_ideal`.
        """
        right = np.stack([self.hybrid.logits(values).argmax(1).numpy() == self.labels for values in repeats])
        top1, count = right.mean(1), len(repeats)
        errors = [(v - i).square().mean().item() for values in repeats for v, i in zip(values, self.ideal, strict=True)]
        found = {
            "top1": float(top1.mean()),
            "interval": accuracy_interval(right),
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


def where_it_ends(strengths: list[float], against: list[dict], ideal: dict) -> dict:
    """At which strength of noise what the run has over the baseline is gone.

    Args:
        strengths: of a sweep, rising.
        against: `against` the baseline at each.
        ideal: the same without noise.

    Returns:
        {"strength": a number or None, "interval": [low, high] or None, "why": words}. Between two strengths, on a line
        in the logarithm of the strength. The interval (95 %, other images) holds the strengths at which that of the
        difference holds 0: from where its lower end is gone (0 = without noise, or somewhere below the smallest
        strength) to where its upper end is (None = beyond the largest strength). None where it never holds 0.
    """
    if ideal["difference"] <= 0:
        return no_end("the ideal circuits are not better than the baseline on these images")
    at, why = _crossing(strengths, [one["difference"] for one in against])
    low, _ = _crossing(strengths, [one["interval"][0] for one in against])
    high, _ = _crossing(strengths, [one["interval"][1] for one in against])
    if low is None:  # at no strength does the interval of the difference hold 0
        return {"strength": at, "interval": None, "why": f"{why}, nor is it uncertain there"}
    if ideal["interval"][0] <= 0:
        low, why = 0.0, f"{why}; without noise its interval holds 0 already"
    elif low == min((one for one in strengths if one > 0), default=0.0):  # where below it is not known
        low = 0.0
    shown = "beyond the largest strength" if high is None else f"{high:.3g}"
    return {"strength": at, "interval": [low, high], "why": f"{why}; 95 %, other images: from {low:.3g} to {shown}"}


def no_end(why: str) -> dict:
    """What `where_it_ends` returns where there is nothing to find."""
    return {"strength": None, "interval": None, "why": why}


def _crossing(strengths: list[float], values: list[float]) -> tuple[float | None, str]:
    """The strength from which `values` are no longer above 0, and where it lies, in words."""
    before = None
    for strength, value in zip(strengths, values, strict=True):
        if value <= 0:
            if before is None or before[0] <= 0 or strength <= 0:
                return strength, "gone at the smallest strength that was tried"
            part = before[1] / (before[1] - value)
            at = math.exp(math.log(before[0]) + part * (math.log(strength) - math.log(before[0])))
            return at, f"between {before[0]:.3g} and {strength:.3g}"
        before = strength, value
    return None, "not gone at the largest strength that was tried"
