"""Each test of this folder gets torch's own linear layer."""

import pytest
from torch.nn import functional


@pytest.fixture(autouse=True)
def restore_linear():
    """DeepSpeed's stage 3 replaces torch's `linear` in the whole process and leaves it so."""
    linear = functional.linear
    yield
    functional.linear = linear
