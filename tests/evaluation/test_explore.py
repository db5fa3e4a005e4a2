"""The explorer's page: what it holds, what it refuses, and in a real browser what it finds."""

import base64
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from scemae.cli import run_command
from scemae.data.augment import centre_crop, normalise
from scemae.data.framing import Box, frame_of
from scemae.errors import CheckpointError, ConfigError
from scemae.evaluation.explore import runtime
from scemae.evaluation.explore.examples import examples
from scemae.evaluation.explore.held import hold, subject_of
from scemae.models.carb import Third, select, third
from scemae.models.vit import Encoder
from scemae.runs.checkpoints import checkpoint
from tests import axe
from tests.browser import chromium
from tests.support import picture, write_backbone

POINTS = [(150, 130), (120, 100), (190, 110), (135, 165), (170, 150)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("runs") / "mae")


@pytest.fixture(scope="module")
def encoder(run):
    """The network of `run`: 144 tokens of 48 channels."""
    return subject_of([run]).trunk.network


@pytest.fixture(scope="module")
def page_file(run):
    """The explorer of a tiny network with random weights, and two pictures beside it."""
    try:
        runtime.load(None)
    except ConfigError as error:
        pytest.skip(str(error))
    folder = run.parent
    picture(1, (300, 260)).save(folder / "a.png")
    picture(2, (260, 340)).save(folder / "b.jpg", quality=95)
    run_command(["explore", str(run), "--out", str(folder / "explore.html")])
    return folder / "explore.html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser, page_file):
    """The page, opened from the disk; it must raise nothing, and fetch nothing."""
    opened, errors, fetched = browser.new_page(), [], []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: fetched.append(request.url))
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()
    assert errors == []
    assert [url for url in fetched if not url.startswith(("file:", "blob:", "data:"))] == []


def add_pictures(page, folder: Path) -> None:
    """Open a.png and b.jpg, and wait for their finest features."""
    page.set_input_files("#files", [folder / "a.png", folder / "b.jpg"])
    page.wait_for_function("pictures.size === 2", timeout=60_000)
    page.wait_for_function(
        "[...pictures.values()].every(one => one.maps[2]) || document.querySelector('.failed')",
        timeout=180_000,
    )


def numbers(page, row: int) -> list[float]:
    """x, y, cosine, returns of a row of the table of matches."""
    cells = page.locator("#rows tr").nth(row).locator("td").all_inner_texts()
    return [float(text) for text in cells[1:5] if text]


def selection_of(encoder: Encoder, found: Third, choice: dict) -> dict:
    """What models/carb.py selects, as clusters.js says it."""
    chosen = select(
        encoder,
        found,
        eta=choice["eta"],
        clusters=choice["clusters"],
        density=choice["density"],
        cluster_norm=choice["norm"],
    )
    count = chosen.ids.shape[1] - choice["clusters"]
    cluster = (chosen.slot[0] - count).clamp_min(-1)
    return {"cluster": cluster.tolist(), "centres": chosen.ids[0, count:].tolist()}


@pytest.mark.parametrize("density", ["mean", "knn"])
@pytest.mark.parametrize("norm", [False, True])
def test_the_page_clusters_tokens_as_models_carb_does(browser, encoder, density, norm):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(1, 145, 48, generator=generator) * 3 + 1
    found = Third(tokens, torch.rand(1, 144, generator=generator))
    opened, code = browser.new_page(), Path(runtime.__file__).with_name("clusters.js").read_text()
    opened.add_script_tag(content=code)
    arguments = [found.similarity[0].tolist(), tokens[0, 1:].flatten().tolist()]
    for eta, clusters in ((0.1, 4), (0.25, 1), (0, 16), (0.9, 3), (30.5 / 144, 5)):
        choice = {"eta": eta, "clusters": clusters, "density": density, "norm": norm}
        page_has = opened.evaluate(
            "([similarity, tokens, choice]) => selectionOf({similarity: new Float32Array("
            "similarity), tokens: new Float32Array(tokens)}, choice)",
            [*arguments, choice],
        )
        assert page_has == selection_of(encoder, found, choice)
    opened.close()


def test_the_page_says_what_model_it_holds(run):
    held = hold([run])
    assert [one["name"] for one in held.features] == ["MAE"] and held.heads == [None]
    digest = checkpoint.weights_digest(checkpoint.newest(run))
    assert held.facts[0]["SHA-256 of the weights"] == digest
    assert held.patches == 144
    assert held.choice == {"eta": 0.1, "clusters": 4, "density": "mean", "norm": False}


def test_the_example_faces_are_drawn_and_always_the_same():
    assert examples() == examples() and all(data[:2] == b"\xff\xd8" for _, data in examples())


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="none: no such folder; give a run folder"):
        hold([tmp_path / "none"])


def test_a_folder_without_the_runtime_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="--runtime: found no ort.wasm.bundle.min.mjs"):
        runtime.load(tmp_path)


def test_without_npm_and_network_the_error_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(runtime, "TARBALL", "https://127.0.0.1:9/none.tgz")
    with pytest.raises(ConfigError, match="give --runtime FOLDER with a copy") as caught:
        runtime.load(None)
    assert "\n" not in str(caught.value) and not (tmp_path / "scemae").exists()


def test_a_download_with_another_digest_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(runtime, "_by_npm", lambda: b"changed")
    monkeypatch.setattr(runtime, "_by_https", lambda: b"changed")
    with pytest.raises(ConfigError, match="damaged or was changed"):
        runtime.load(None)
    assert not (tmp_path / "scemae").exists()


def test_a_module_becomes_a_classic_script():
    module = b"let a=import.meta.url;export{a as Tensor,a as default};\n//# map\n"
    found = runtime.as_classic(module)
    assert b"export" not in found and b"import.meta" not in found
    assert b"return {Tensor: a, default: a};" in found


@pytest.mark.slow
def test_five_points_are_found_where_scemae_match_finds_them(page, page_file, run, tmp_path):
    folder = page_file.parent
    add_pictures(page, folder)
    points = " ".join(f"{x},{y}" for x, y in POINTS)
    words = ["match", folder / "a.png", folder / "b.jpg", "--backbone", run, "--points", points]
    run_command([*map(str, words), "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "match.json").read_text())["matches"]
    for (x, y), truth in zip(POINTS, rows, strict=True):
        page.evaluate(
            "([x, y]) => { const one = [...pictures.values()][0];"
            " setPoint(one, toCrop(one.box, [x, y])); }",
            [x, y],
        )
        found_x, found_y, cosine, returns = numbers(page, 1)
        assert abs(found_x - truth["match"][0]) <= 1 and abs(found_y - truth["match"][1]) <= 1
        assert abs(cosine - truth["cosine"]) < 0.01 and abs(returns - truth["returns"]) <= 1


@pytest.mark.slow
def test_a_click_sets_the_point_and_arrow_keys_move_it(page, page_file):
    add_pictures(page, page_file.parent)
    seen = page.locator("canvas.seen").first
    side = seen.bounding_box()["width"]
    seen.click(position={"x": side / 4, "y": side / 2})
    x, y = numbers(page, 0)
    seen.press("ArrowRight")
    seen.press("Shift+ArrowDown")
    moved_x, moved_y = numbers(page, 0)
    pixel = 260 / 136  # of the crop, in pixels of a.png, whose box has 260
    assert moved_x - x == pytest.approx(pixel, abs=pixel / 2 + 0.11)
    assert moved_y - y == pytest.approx(5 * pixel, abs=pixel / 2 + 0.11)


@pytest.mark.slow
def test_the_clusters_shown_are_those_of_the_encoder_and_of_the_controls(page, page_file, encoder):
    add_pictures(page, page_file.parent)
    frame = frame_of(Image.open(page_file.parent / "a.png"), Box(20, 0, 260))
    image = normalise(centre_crop(frame[None], 96))
    found = third(encoder, image)
    shown = "() => pictures.get(1).seen.toDataURL()"
    before = page.evaluate(shown)
    page.check("#clusters")
    assert page.evaluate(shown) != before
    for eta, clusters in ((0.1, 4), (0.3, 7)):
        page.fill("#eta", str(eta))
        page.fill("#count", str(clusters))
        page.press("#count", "Enter")
        page.wait_for_function(f"pictures.get(1).selection.centres.length === {clusters}")
        choice = {"eta": eta, "clusters": clusters, "density": "mean", "norm": False}
        truth = selection_of(encoder, found, choice)
        assert page.evaluate("pictures.get(1).selection") == truth
        sizes = ", ".join(str(truth["cluster"].count(k)) for k in range(clusters))
        assert f"in the clusters {sizes}." in page.locator(".note").first.inner_text()
    page.uncheck("#clusters")
    assert page.evaluate(shown) == before


@pytest.mark.slow
def test_a_number_outside_its_limits_is_put_to_the_nearest(page):
    for given, kept in (("5000", "144"), ("0", "1"), ("2.6", "3"), ("", "4")):
        page.fill("#count", given)
        page.press("#count", "Tab")
        assert page.input_value("#count") == kept


@pytest.mark.slow
def test_dragging_the_box_moves_the_frame_and_computes_again(page, page_file):
    add_pictures(page, page_file.parent)
    before = page.evaluate("({...[...pictures.values()][0].box})")
    frame = page.locator("canvas.whole").first.bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y + 10, steps=4)
    page.mouse.up()
    after = page.evaluate("({...[...pictures.values()][0].box})")
    scale = 300 / frame["width"]
    assert after["side"] == before["side"]
    assert after["left"] - before["left"] == pytest.approx(20 * scale, abs=1.5)
    page.wait_for_function("[...pictures.values()][0].maps[2]", timeout=120_000)


@pytest.mark.slow
def test_a_file_that_is_no_picture_is_named_in_a_sentence(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#files", tmp_path / "notes.txt")
    page.wait_for_selector(".failed")
    assert page.inner_text("#status").startswith("notes.txt: the browser cannot read it")


@pytest.mark.slow
def test_a_browser_without_webassembly_is_told_so(browser, page_file):
    opened = browser.new_page()
    opened.add_init_script("delete globalThis.WebAssembly")
    opened.goto(page_file.as_uri())
    opened.wait_for_selector(".failed")
    assert opened.inner_text("#status").startswith("This browser has no WebAssembly")
    opened.close()


@pytest.mark.slow
def test_frames_are_resized_as_pillow_resizes_them(page):
    for side in (50, 136, 201, 330):
        image = picture(side, (side, side))
        found = page.evaluate(
            "([side, text]) => { const code = document.getElementById('code-worker').textContent;"
            " const make = new Function(code.split('// The worker')[0] + 'return frameOf;');"
            " const pixels = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));"
            " return btoa(String.fromCharCode(...make()(pixels, side))); }",
            [side, base64.b64encode(image.convert("RGBA").tobytes()).decode()],
        )
        assert base64.b64decode(found) == frame_of(image, Box(0, 0, side)).numpy().tobytes()


@pytest.mark.parametrize(("width", "height", "scheme"), axe.SHOWN)
def test_axe_finds_nothing_serious_on_the_explorer(page, page_file, width, height, scheme):
    axe.source()
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    add_pictures(page, page_file.parent)
    assert axe.findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
