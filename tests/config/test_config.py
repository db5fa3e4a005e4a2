"""Which settings compose, which are refused, and with which sentence."""

import pytest

from scemae.config.dotted import setting_names
from scemae.config.load import configs_dir, load_config
from scemae.config.schema import SCHEMAS
from scemae.errors import ConfigError


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_default_config_composes(name):
    required = [
        f"{key}=x" for key in ("run_dir", "backbone") if key in setting_names(SCHEMAS[name])
    ]
    assert load_config(name, required)


EXPERIMENTS = sorted((configs_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_composes(path):
    name = path.stem.split("_")[-1]
    required = [
        f"{key}=x" for key in ("run_dir", "backbone") if key in setting_names(SCHEMAS[name])
    ]
    assert load_config(name, [f"experiment={path.stem}", *required])
    assert path.read_text().startswith("# @package _global_\n# scemae ")


def test_the_defaults_are_the_papers():
    stage_1, stage_2 = (
        load_config("pretrain", ["run_dir=x"]),
        load_config("correspond", ["run_dir=x", "backbone=y"]),
    )
    assert (stage_1.optim.epochs, stage_1.optim.global_batch_size, stage_1.optim.lr) == (
        400,
        512,
        3e-4,
    )
    assert (stage_1.model.patch_size, stage_1.model.image_size, stage_1.mask_ratio) == (8, 96, 0.75)
    carb = stage_2.carb
    assert (carb.eta, carb.clusters, carb.r_att_att, carb.r_att_inatt, carb.r_inatt_inatt) == (
        0.1,
        4,
        5,
        5,
        2,
    )


def test_a_group_is_chosen_by_name_and_single_values_override_it():
    loaded = load_config(
        "pretrain", ["run_dir=x", "model=deit_base", "decoder=light", "decoder.depth=3"]
    )
    assert (loaded.model.width, loaded.decoder.width, loaded.decoder.depth) == (768, 128, 3)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optim.epoch=3", "did you mean 'optim.epochs'"),
        ("optim.epochs=many", "optim.epochs: Value 'many'"),
        ("model=deit_huge", "deit_base; deit_small; deit_tiny"),
        ("runtime.workers=0", "runtime.workers: found 0, auto or a number above 0"),
        ("runtime.tier=fast", "runtime.tier: found fast, one of"),
        ("runtime.zero_stage=4", "runtime.zero_stage: found 4, one of"),
        ("mask_ratio=1.5", "a number between 0 and 1"),
        ("model.depth=3", "at least 4"),
        ("model.heads=5", "multiple of 4"),
        ("optim.global_batch_size=0", "a number above 0"),
        ("loop.save_every=15", "multiples of log_every"),
        ("run_dir", "key=value was needed"),
    ],
)
def test_a_bad_setting_is_named_in_one_sentence(override, sentence):
    with pytest.raises(ConfigError) as caught:
        load_config("pretrain", ["run_dir=x", override])
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_required_setting_that_is_missing_is_named():
    with pytest.raises(
        ConfigError, match="found no value for backbone, run_dir; give backbone=..."
    ):
        load_config("correspond", [])


@pytest.mark.parametrize(
    ("override", "sentence"), [("carb.eta=1.2", "0 < eta < 1"), ("carb.projector=big", "linear")]
)
def test_a_bad_carb_is_refused(override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config("correspond", ["run_dir=x", "backbone=y", override])


def test_a_cluster_file_of_ones_own_sets_the_cluster(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("partition: long\ngpus_per_node: 8\n")
    words = ["run_dir=x", f"cluster={own}", "cluster.gpus_per_node=4"]
    for name in ("submit", "sweep"):
        found = load_config(name, words).cluster
        assert (found.partition, found.gpus_per_node, found.time) == ("long", 4, 1440)
    own.write_text("setup: [module load cuda]\n")
    with pytest.raises(ConfigError, match="mine.yaml: found cluster.setup, which jobs run; type"):
        load_config("submit", words)
    own.write_text("gpus: 8\n")
    with pytest.raises(ConfigError, match="mine.yaml: found no setting 'cluster.gpus', did you"):
        load_config("submit", words)
    with pytest.raises(ConfigError, match="gone.yaml: cannot be read"):
        load_config("sweep", ["run_dir=x", "cluster=gone.yaml"])
    with pytest.raises(ConfigError, match="found no setting 'cluster'"):
        load_config("pretrain", ["run_dir=x", f"cluster={own}"])
