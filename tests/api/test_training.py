"""`scemae.pretrain`: from a folder of pictures to a model in one call."""

import pytest

import scemae
from scemae.errors import ConfigError, DataError, ScemaeError
from tests.support import TINY, picture

SMALL = {
    **dict(word.split("=") for word in TINY),
    "optim.global_batch_size": 4,
    "optim.warmup_epochs": 0,
    "loop.log_every": 1,
    "loop.save_every": 1,
}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        picture(i, (200, 180)).save(folder / f"{i}.jpg")
    return folder


def pretrain(photos, out, **changes):
    return scemae.pretrain(photos, out, device="cpu", workers=1, **{**SMALL, **changes})


@pytest.mark.slow
def test_a_folder_of_pictures_becomes_a_model_and_the_same_call_continues(photos, tmp_path):
    out = tmp_path / "runs" / "mae"
    model = pretrain(photos, out, epochs=1)
    assert model(photos / "0.jpg", stride=8).shape == (1, 48, 12, 12)
    assert (out / "shards" / "train" / "manifest.json").is_file()
    again = pretrain(photos, out, epochs=1)
    assert again.digests() == model.digests()
    with pytest.raises(ScemaeError) as caught:  # of another run, said by the command itself
        pretrain(photos, out, epochs=1, seed=9)
    assert "\n" not in str(caught.value) and "seed" in str(caught.value)


def test_what_cannot_be_trained_is_refused_before_the_shards_are_built(photos, tmp_path):
    out = tmp_path / "mae"
    with pytest.raises(DataError, match="nothing: no such folder; give a folder of pictures"):
        pretrain(tmp_path / "nothing", out)
    with pytest.raises(ConfigError, match="optim.epoch"):
        pretrain(photos, out, **{"optim.epoch": 3})
    with pytest.raises(ConfigError, match="run_dir: is an argument of its own"):
        pretrain(photos, out, run_dir="x")
    assert not out.exists()
