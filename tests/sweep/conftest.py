"""A backbone and images for all small sweeps."""

import pytest

from tests.support import write_backbone, write_shards


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """An untrained backbone, and shards of 24 pictures."""
    folder = tmp_path_factory.mktemp("made")
    write_backbone(folder / "mae")
    write_shards(folder / "shards", 24)
    return folder
