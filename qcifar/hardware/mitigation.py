"""Corrections of measured values; each is reported beside the unmitigated number, never instead of it."""


def invert_readout(frequencies, noise):
    """Frequencies (B, 2^n) as they would be without readout errors; some may become negative."""
    raise NotImplementedError


class Rescale:
    """ideal ~ slope * noisy + offset for each output, fitted on training images."""

    @classmethod
    def fit(cls, noisy, ideal) -> "Rescale":
        """From values (images, outputs) of the same training images, noisy and ideal."""
        raise NotImplementedError

    def __call__(self, noisy):
        """(B, outputs) -> (B, outputs)."""
        raise NotImplementedError


def extrapolate(values, scales):
    """Value at zero noise of a straight line through values (scales, B, outputs) at noise `scales`."""
    raise NotImplementedError
