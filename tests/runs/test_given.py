"""One rule for what may be given where a trained model is needed, in every command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from scemae.cli import run_command
from scemae.config.load import load_config
from scemae.errors import CheckpointError, ConfigError, RunFolderError
from scemae.evaluation import evaluate, subjects
from scemae.evaluation.subject import MATCHING
from scemae.files import disk
from scemae.runs import given
from scemae.runs.checkpoints import checkpoint
from tests.interop.test_export import tiny_runs
from tests.support import picture, write_shards


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A chain's folder, with pretrain/ and correspond/ in it, and an export of it beside it."""
    folder = tmp_path_factory.mktemp("chain")
    tiny_runs(folder / "chain", names=("pretrain", "correspond"))
    run_command(["export", str(folder / "chain"), str(folder / "export")])
    return folder / "chain"


def places(chain):
    """Every form of RUN that means both stages."""
    carb = chain / "correspond"
    return [chain, carb, checkpoint.newest(carb), chain.parent / "export"]


def test_each_form_of_a_run_means_the_same_weights(chain):
    found = [subjects.of_given(given.find(place)) for place in places(chain)]
    weights = [one.weights(one.of(MATCHING)[-1]) for one in found]
    assert all(one == weights[0] for one in weights) and set(weights[0]) == {
        "backbone",
        "projector",
    }
    assert {one.digest for one in found} == {found[0].digest}
    alone = given.find(chain / "pretrain")
    assert alone.projector is None and alone.backbone == given.find(chain).backbone
    assert given.of_options(None, chain, None) == alone


def test_match_gives_the_same_numbers_for_each_form_and_for_both_runs_by_name(chain, tmp_path):
    for i in (1, 2):
        picture(i, (300, 240)).save(tmp_path / f"{i}.jpg")
    images, answers = [str(tmp_path / f"{i}.jpg") for i in (1, 2)], []
    both = ["--backbone", chain / "pretrain", "--projector", chain / "correspond"]
    forms = [["--run", place] for place in places(chain)]
    for form in [both, both[2:], *forms]:
        run_command(["match", *images, *map(str, form), "--out", str(tmp_path / "out")])
        told = json.loads((tmp_path / "out" / "match.json").read_text())
        answers.append((told["matches"], told["model"]["digests"]))
    assert all(one == answers[0] for one in answers)


def test_evaluate_finds_the_backbone_of_run_or_projector(chain, tmp_path):
    shards, digests = write_shards(tmp_path / "shards", 8), []
    forms = [f"projector={chain / 'correspond'}", f"run={chain.parent / 'export'}"]
    for i, form in enumerate(forms):
        out = tmp_path / str(i)
        small = [f"matching.shards={shards}", "stride=8", "matching.couples=2"]
        run_command_of_evaluate([f"run_dir={out}", form, *small])
        results = json.loads((out / "results.json").read_text())["matching"]["methods"]
        assert list(results)[-2:] == ["MAE", "MAE + CARB"]
        digests.append(np.load(out / "matches.npz")["MAE + CARB/different_predicted"])
    assert all(np.array_equal(one, digests[0]) for one in digests)


def run_command_of_evaluate(words):
    evaluate.main(load_config("evaluate", [*words, "runtime.device=cpu"]))


def test_tables_take_a_chain_and_an_export(chain):
    found = subjects.from_runs([chain, chain.parent / "export"])
    assert [len(one.of(MATCHING)) for one in found] == [2, 2]
    assert found[0].backbone == found[1].backbone


def test_report_takes_the_last_run_of_a_chain_and_refuses_an_export(chain):
    assert given.evaluated(chain) == chain / "correspond"
    disk.make_folders(chain / "evaluate", chain)
    disk.write_text(chain / "evaluate" / "config.yaml", "matching: {couples: 2}\n")
    assert given.evaluated(chain) == chain / "evaluate"
    with pytest.raises(CheckpointError, match="a run of `scemae evaluate`, which holds no weights"):
        given.find(chain / "evaluate")
    with pytest.raises(RunFolderError, match="export: found an export, which holds no results"):
        run_command(["report", str(chain.parent / "export")])


def test_what_is_no_model_is_one_sentence(chain, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    export = chain.parent / "export"
    for place, words in {
        tmp_path / "none": "none: no such folder; give a run folder of `scemae pretrain`",
        tmp_path / "file": "file: is a file; give",
        tmp_path / "empty": "empty: found no finished checkpoint in it; give",
    }.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            given.find(place)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="found no trained model; give --run RUN"):
        given.of_options(None, None, None)
    with pytest.raises(ConfigError, match="found --run and --projector; give --run alone"):
        given.of_options(chain, None, chain)
    with pytest.raises(ConfigError, match="found run and backbone or projector; give run=RUN"):
        load_config("evaluate", ["run_dir=x", "run=a", "backbone=b"])
    with pytest.raises(ConfigError, match="export: is an export, and .* another model"):
        given.of_options(None, export, chain)
    with pytest.raises(CheckpointError, match="found an export, the run of stage 1 that it was"):
        run_command(
            [
                "correspond",
                f"run_dir={tmp_path / 'r'}",
                f"backbone={export}",
                f"data.shards={tmp_path}",
            ]
        )
    with pytest.raises(CheckpointError, match="correspond` as the backbone; give that run alone"):
        given.of_options(None, chain / "correspond", None)
    with pytest.raises(CheckpointError, match="of `scemae pretrain`, one of `scemae correspond`"):
        given.of_options(None, None, chain / "pretrain")
    with pytest.raises(CheckpointError, match="found an export, and .* beside it"):
        subjects.of_given(given.find(export), [chain])
    with pytest.raises(CheckpointError, match="found an export, which is what this command makes"):
        run_command(["export", str(export), str(tmp_path / "again")])


def test_a_stage_2_whose_backbone_is_gone_says_where_it_was_looked_for(tmp_path):
    mae, carb = tiny_runs(tmp_path)
    mae.rename(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="the checkpoint is not there, nor is"):
        given.find(carb)
    found = given.of_options(None, tmp_path / "elsewhere", carb)
    assert subjects.of_given(found).projections


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: facts["encoder"].update(depth=3), "model.safetensors: blocks.2"),
        (lambda facts: facts["encoder"].update(embed_dim=50), "describes no encoder"),
        (lambda facts: facts["encoder"].update(depth=10**9), "config.json"),
        (lambda facts: facts["projector"]["carb"].update(dim=10**9), "is not as config.json says"),
        (lambda facts: facts["projector"]["carb"].update(projector="mlp"), "is not as config.json"),
        (lambda facts: facts.pop("source"), "config.json: .*source"),
    ],
)
def test_an_export_whose_config_does_not_fit_is_one_sentence(chain, tmp_path, change, words):
    export = tmp_path / "export"
    export.mkdir()
    for path in (chain.parent / "export").iterdir():
        (export / path.name).write_bytes(path.read_bytes())
    config = json.loads((export / "config.json").read_text())
    change(config["scemae"])
    (export / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words) as caught:
        subjects.of_given(given.find(export))
    assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_is_the_export_that_was_put_there(chain, tmp_path, monkeypatch):
    """The hub's own cache on this disk, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "models--own--face"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    shutil.copytree(chain.parent / "export", place / "snapshots" / ("a" * 40))
    found = given.find(Path("hf-hub:own/face"))
    assert found.is_export
    digest = subjects.of_given(found).digest
    assert digest == subjects.of_given(given.find(chain.parent / "export")).digest
    for name, words in {"own/other": "cannot be fetched", "own": "found no OWNER/NAME"}.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            given.find(Path(f"hf-hub:{name}"))
        assert "\n" not in str(caught.value)
