"""What several test files use: the scripts as a user runs them, processes that can be killed, circuits and networks."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def slow(*case):
    """A case of a parametrised test that only `make test-slow` runs."""
    return pytest.param(*case, marks=pytest.mark.slow)
