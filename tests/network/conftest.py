"""The original's numbers for pure functions."""

import numpy as np
import pytest

from tests.helpers import GOLDEN


@pytest.fixture(scope="session")
def golden():
    with np.load(GOLDEN / "pure.npz") as arrays:
        return dict(arrays)
