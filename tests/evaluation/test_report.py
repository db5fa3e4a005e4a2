"""The report of tiny, untrained runs on generated pictures: the page, its numbers, and what is
missing.
"""

import json
import re
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch

from scemae.cli import run_command
from scemae.config.load import load_config
from scemae.data.augment import MEAN, STD, normalise
from scemae.errors import ConfigError, RunFolderError
from scemae.evaluation import evaluate
from scemae.evaluation.landmarks import features
from scemae.evaluation.landmarks.matching import match
from scemae.evaluation.landmarks.pairs import DIFFERENT, SOURCE, load_pairs
from scemae.evaluation.report import pictures, report
from scemae.evaluation.report.clickable import agree, quantised, reduced
from scemae.evaluation.report.source import chosen_couples
from scemae.files import disk
from scemae.methods import carb as carb_method
from scemae.methods import mae as mae_method
from scemae.models.losses import reconstruction
from scemae.models.vit import patchify
from scemae.runs import run_folder
from scemae.runs.checkpoints import checkpoint
from scemae.runs.checkpoints.checkpoint import TrainState
from scemae.runs.checkpoints.tensor_file import write_tensors
from scemae.runs.metrics_log import METRICS
from tests import axe
from tests.support import TINY, scemae, write_shards

FACES = [
    "reconstructions",
    "attention",
    "position",
    "similarity",
    "clickable",
    "matches",
    "detections",
]


def save_run(folder, settings, stage, module, state, **facts):
    """A run folder with one checkpoint of `module`, as training leaves it."""
    step = checkpoint.path_of(folder, 7, 1)
    step.mkdir(parents=True)
    arrays = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    written = write_tensors(step / checkpoint.WEIGHTS, arrays, {"format": "pt"})
    checkpoint.write_state(
        step, TrainState(7, 0, 1, 0, stage, state, "digest", 1, files=[asdict(written)])
    )
    run_folder.describe(folder, stage, settings, seed=0, data_digest="digest", images=8, **facts)
    rows = [
        {"step": step, "loss": 2 / step, "lr": 1e-3, "images_per_second": 10.0}
        for step in range(1, 8)
    ]
    with run_folder.own(folder, stage) as generation:
        generation.record_base(0)
        (generation.folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of shards, both stages and an evaluation of them; its tests leave it as it is."""
    root = tmp_path_factory.mktemp("report")
    shards, mae, carb = write_shards(root / "shards", 8), root / "mae", root / "carb"
    first = load_config(
        "pretrain", [*TINY, f"run_dir={mae}", f"data.shards={shards}", "optim.global_batch_size=4"]
    )
    model = mae_method.build(mae_method.Settings(first.model, first.decoder, 0.75, False), seed=0)
    save_run(
        mae,
        first,
        "pretrain",
        model,
        {
            "model": asdict(first.model),
            "decoder": asdict(first.decoder),
            "mask_ratio": 0.75,
            "norm_pix": False,
        },
    )
    second = load_config(
        "correspond", [f"run_dir={carb}", f"backbone={mae}", f"data.shards={shards}", "carb.dim=16"]
    )
    save_run(
        carb,
        second,
        "correspond",
        carb_method.build(carb_method.Settings(second.carb), model.encoder, seed=0),
        {
            "carb": asdict(second.carb),
            "width": 48,
            "backbone": checkpoint.weights_digest(checkpoint.path_of(mae, 7, 1)),
        },
        backbone=str(checkpoint.path_of(mae, 7, 1)),
    )
    places = [f"run_dir={root / 'lda'}", f"backbone={mae}", f"data.shards={shards}"]
    computed = ["carb.init=lda", "carb.dim=16", "optim.epochs=0", "optim.global_batch_size=4"]
    scemae("correspond", *places, *computed)
    evaluate.main(evaluation_config(root, root / "eval"))
    return root


def evaluation_config(root, run_dir):
    """The settings of a small evaluation of both stages in `root`."""
    shards = root / "shards"
    return load_config(
        "evaluate",
        [
            f"run_dir={run_dir}",
            f"backbone={root / 'mae'}",
            f"projector={root / 'carb'}",
            f"also=[{root / 'lda'}]",
            f"matching.shards={shards}",
            "stride=8",
            f"detection.train={shards}",
            f"detection.test={shards}",
            "detection.stride=8",
            "detection.epochs=1",
            "runtime.device=cpu",
        ],
    )


@pytest.fixture(scope="module")
def page(folder):
    """The report of the evaluation: its HTML and its JSON."""
    run_command(["report", str(folder / "eval"), "--out", str(folder / "page")])
    return (folder / "page" / "report.html").read_text(), json.loads(
        (folder / "page" / "report.json").read_text()
    )


def test_evaluating_again_measures_nothing_and_gives_the_same_results(folder, tmp_path):
    shutil.copytree(folder / "eval", tmp_path / "eval")
    results = (tmp_path / "eval" / "results.json").read_text()
    (tmp_path / "eval" / "results.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "eval/measured").iterdir()}
    evaluate.main(evaluation_config(folder, tmp_path / "eval"))
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "eval/measured").iterdir()}
    # matching, place means and content of 3 subjects, detection of 2
    assert before == after and len(before) == 11
    assert (tmp_path / "eval" / "results.json").read_text() == results


def test_every_projector_is_a_row_by_the_name_of_what_it_adds(folder, page):
    results = json.loads((folder / "eval" / "results.json").read_text())
    rows = ["MAE", "MAE + CARB", "MAE + LDA"]
    for test in ("matching", "content", "detection"):
        assert [name for name in results[test]["methods"] if name.startswith("MAE")] == rows
    assert "MAE + LDA (ours), matching on" in page[0]
    assert "<b>LDA</b> is ours, not the paper's" in page[0]
    assert (folder / "eval" / "regressors" / "MAE_+_LDA.safetensors").exists()


def test_detection_is_compared_image_by_image(folder):
    found = json.loads((folder / "eval" / "results.json").read_text())["detection"]
    names = list(found["methods"])
    compared = {tuple(one["methods"]): one for one in found["comparisons"]}
    assert list(compared) == [(one, two) for i, one in enumerate(names) for two in names[:i]]
    for (one, two), comparison in compared.items():
        gap = found["methods"][one]["error"]["mean"] - found["methods"][two]["error"]["mean"]
        assert comparison["difference"]["mean"] == pytest.approx(gap, abs=1e-9)
        assert comparison["difference"]["n"] == found["test_images"]


def test_more_projectors_without_a_first_are_refused(folder):
    with pytest.raises(ConfigError, match="also: found no projector that they come after"):
        load_config("evaluate", ["run_dir=-", f"backbone={folder / 'mae'}", "also=[a]"])


def test_the_page_fetches_nothing(page):
    assert not re.search(r"""(?:src|href|data|action)\s*=\s*["'](?!data:|#)""", page[0])
    assert not re.search(
        r"<(?:link|iframe|object)|@import|fetch\(|XMLHttp|import\(|url\((?!#)", page[0]
    )


def test_every_picture_is_on_the_page(page):
    assert (
        page[0].count('<img src="data:image/png;base64,') == len(FACES) - 1
        and 'id="data-clickable"' in page[0]
        and not page[1]["missing"]
    )
    assert page[0].count('<figure class="curves"') == 2


def test_the_numbers_are_those_of_the_results(folder, page):
    results = json.loads((folder / "eval" / "results.json").read_text())
    assert page[1]["results"] == results
    for name, score in results["matching"]["methods"].items():
        assert re.search(
            rf"<td>{re.escape(name)}</td>\s*<td class=\"n\"><b>{score['same']['mean']:.2f}</b>",
            page[0],
        )


def test_the_page_says_what_the_features_know_without_their_place(folder, page):
    found = json.loads((folder / "eval" / "results.json").read_text())["content"]
    saved = np.load(folder / "eval" / "contents.npz")
    assert list(found["methods"])[-3:] == ["MAE", "MAE + CARB", "MAE + LDA"]
    for name, score in found["methods"].items():
        assert 0 <= score["position_share"] <= 1
        assert f"<b>{100 * score['position_share']:.0f} %</b>" in page[0]
        for part in ("content", "position"):
            errors = saved[f"{name}/{part}/different"]
            assert score[part]["mean"] == pytest.approx(errors.mean())


def test_a_comparison_is_that_of_its_two_methods(folder, page):
    matches = np.load(folder / "eval" / "matches.npz")
    for first, others in page[1]["comparisons"]["different"].items():
        for second, found in others.items():
            mean = (matches[f"{first}/different"] - matches[f"{second}/different"]).mean()
            assert found["difference"]["mean"] == pytest.approx(mean)


def test_a_short_run_is_called_a_reduced_schedule(page):
    rows = {
        row["what"]: row["verdict"] for row in page[1]["recipe"] if row["stage"] != "correspond"
    }
    assert page[1]["runs"]["pretrain"]["images_seen"] == 28
    assert (
        rows["images seen in all steps"]
        == rows["couples matched"].replace("same", "reduced")
        == "reduced"
    )
    assert rows["epochs"] == "same" and "reduced schedule" in page[0]


def test_no_pictures_leaves_out_every_face(folder, tmp_path):
    run_command(["report", str(folder / "eval"), "--out", str(tmp_path), "--no-pictures"])
    text = (tmp_path / "report.html").read_text()
    assert "<img" not in text and "data:image" not in text and "<svg" in text
    assert set(json.loads((tmp_path / "report.json").read_text())["missing"]) == set(FACES)


def test_a_training_run_names_what_an_evaluation_would_add(folder, tmp_path):
    run_command(["report", str(folder / "mae"), "--out", str(tmp_path)])
    missing = json.loads((tmp_path / "report.json").read_text())["missing"]
    tests = {"matching", "content", "detection"}
    assert set(missing) == tests | set(FACES) - {"reconstructions", "attention"}
    assert f"scemae evaluate run_dir=EVAL run={folder / 'mae'}" in missing["matching"]
    assert (tmp_path / "report.html").read_text().count("<img") == 2


def test_without_its_shards_a_report_loses_pictures_and_no_numbers(folder, tmp_path):
    shutil.copytree(folder / "eval", tmp_path / "eval")
    (tmp_path / "eval" / "config.yaml").write_text(
        (folder / "eval" / "config.yaml").read_text().replace(str(folder / "shards"), "gone")
    )
    results = json.loads((folder / "eval" / "results.json").read_text())
    results["matching"]["shards"] = results["detection"]["test_shards"] = "gone"
    disk.write_json(tmp_path / "eval" / "results.json", results)
    found, images = report.gather(tmp_path / "eval")
    assert (
        not images
        and "gone: no such folder" in found["missing"]["matches"]
        and found["results"] == results
    )


def test_moved_runs_are_found_beside_the_evaluation(folder, tmp_path):
    for name in ("mae", "carb", "eval"):
        shutil.copytree(folder / name, tmp_path / "moved" / name)
    path = tmp_path / "moved" / "eval" / "provenance.json"
    path.write_text(path.read_text().replace(str(folder), "/nowhere"))
    found, _ = report.gather(tmp_path / "moved" / "eval", with_pictures=False)
    assert found["runs"]["pretrain"]["folder"] == str(tmp_path / "moved" / "mae")
    assert set(found["missing"]) == set(FACES)


def test_an_evaluation_without_a_model_still_has_its_page(folder, tmp_path):
    evaluate.main(
        load_config(
            "evaluate", [f"run_dir={tmp_path}", f"matching.shards={folder / 'shards'}", "stride=8"]
        )
    )
    run_command(["report", str(tmp_path)])
    found = json.loads((tmp_path / "report.json").read_text())
    assert "scemae pretrain" in found["missing"]["attention"] and list(found["pictures"]) == [
        "matches"
    ]


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda run: shutil.rmtree(run), "no such file or folder"),
        (lambda run: (run / "config.yaml").unlink(), "no config.yaml"),
        (lambda run: (run / "results.json").unlink(), "to its end"),
        (
            lambda run: (run / "results.json").write_text('{"matching": {"scores": 1}}'),
            "another version",
        ),
    ],
)
def test_what_is_no_run_of_ours_is_refused_in_a_sentence(folder, tmp_path, spoil, words):
    run = shutil.copytree(folder / "eval", tmp_path / "eval")
    spoil(run)
    with pytest.raises((RunFolderError, ConfigError), match=words) as error:
        run_command(["report", str(run)])
    assert "\n" not in str(error.value)


def test_a_similarity_map_peaks_where_the_matcher_answers(folder):
    source = source_of(folder)
    frames = source.frames(str(folder / "shards"), "mafl")
    pairs = load_pairs(folder / "eval" / "pairs.npz", frames)
    maps = pictures.similarity_maps(source.heads, source.autoencoder.encoder, pairs, 1, 8)["MAE"]
    with torch.no_grad():
        maps_of = features.backbone(source.autoencoder.encoder, 8)(pairs.views[1].float() / 255)
    found = match(
        maps_of[SOURCE][None], maps_of[DIFFERENT][None], pairs.landmarks[1, SOURCE][None] - 20
    )[0]
    best = maps.flatten(1).argmax(1)
    assert torch.equal(found, torch.stack([best % 96, best // 96], 1).float())


def test_the_couples_that_a_report_warps_again_are_those_of_the_evaluation(folder):
    source = source_of(folder)
    whole = load_pairs(folder / "eval" / "pairs.npz", source.frames(str(folder / "shards"), "mafl"))
    chosen = chosen_couples(source)
    assert torch.equal(source.pairs.views, whole.views[chosen])
    assert torch.equal(source.pairs.landmarks, whole.landmarks[chosen])


def source_of(folder):
    run = report.read_run(folder / "eval")
    runs, missing = report.related(run)
    return report.source_of(run, runs, report.read_results(run), missing)


def test_the_error_of_a_reconstruction_is_the_loss(folder):
    source = source_of(folder)
    images, _ = source.faces
    found = pictures.reconstruct(source.autoencoder, images, seed=3)
    noise = torch.rand((len(images), 144), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        predicted, masked = source.autoencoder.reconstruct(normalise(images), noise)
    expected = reconstruction(predicted, patchify(normalise(images), 8), masked, False)
    assert torch.allclose(found.errors, expected)
    kept = ~masked[..., None].expand(-1, -1, 192)
    assert torch.allclose(patchify(found.predicted, 8)[kept], patchify(images, 8)[kept], atol=1e-5)


def test_standardised_patches_are_given_back_their_mean(folder):
    source = source_of(folder)
    images, _ = source.faces
    source.autoencoder.norm_pix = True
    with torch.no_grad():
        source.autoencoder.decoder.predict.weight.zero_()
        source.autoencoder.decoder.predict.bias.zero_()  # predicts each patch's mean, nothing else
    found = patchify(pictures.reconstruct(source.autoencoder, images).predicted, 8).unflatten(
        2, (64, 3)
    )
    truth = patchify(normalise(images), 8).mean(-1, keepdim=True)[..., None]
    hidden = (found - found[:, :, :1]).abs().amax((2, 3)) < 1e-5
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    wanted = (truth * std + mean).clamp(0, 1).expand_as(found)
    assert hidden.sum(1).ge(108).all() and torch.allclose(found[hidden], wanted[hidden], atol=1e-4)


def test_reduced_maps_keep_the_cosines_of_features_that_few_directions_hold():
    torch.manual_seed(0)
    maps = torch.einsum("bchw,cd->bdhw", torch.randn(2, 5, 6, 6), torch.randn(5, 40))
    small = reduced(maps, 8)
    assert small.shape == (2, 8, 6, 6)
    first, second = (one.flatten(2)[0].T @ one.flatten(2)[1] for one in (maps, small))
    assert torch.allclose(first, second, atol=1e-3)
    assert agree(maps, small) == 1.0


def test_quantised_maps_are_within_half_a_step():
    maps = torch.randn(3, 4, 5, 5)
    values, steps = quantised(maps)
    restored = values * steps[:, None, None, None]
    assert values.dtype == np.int8
    assert np.all(np.abs(restored - maps.numpy()) <= steps[:, None, None, None] * 0.501)


@pytest.mark.slow
def test_a_point_of_a_face_in_the_page_is_found_in_the_others(folder, tmp_path):
    playwright, chromium = pytest.importorskip("playwright.sync_api"), shutil.which("chromium")
    if chromium is None:
        pytest.skip("found no chromium")
    run_command(["report", str(folder / "eval"), "--out", str(tmp_path)])
    facts = json.loads((tmp_path / "report.json").read_text())["pictures"]["clickable"]
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, errors = browser.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "report.html").as_uri())
        canvases, notes = page.locator("#clickable-faces canvas"), "#clickable-faces small"
        canvases.first.wait_for()
        side = canvases.first.bounding_box()["width"]
        canvases.nth(1).click(position={"x": side / 2, "y": side / 4})
        canvases.nth(1).press("Shift+ArrowRight")
        texts = page.locator(notes).all_inner_texts()
        browser.close()
    assert errors == [] and len(texts) == facts["faces"]
    x, y = (int(value) for value in texts[1].removeprefix("the point, ").split(", "))
    assert abs(x - 53) <= 1 and abs(y - 24) <= 1
    assert all(text.startswith("found at ") for i, text in enumerate(texts) if i != 1)


def test_axe_finds_nothing_serious_on_the_report(page, folder):
    axe.check_file(folder / "page" / "report.html")
