"""`scemae explore --serve` in a real browser: clicks, drags, keys, suggestions, undo, widths."""

import json

import numpy as np
import pytest

from scemae.files import disk
from tests.browser import chromium
from tests.evaluation.test_serve import PLACES, POINTS, marks, options, running
from tests.support import picture, write_backbone

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("runs") / "mae")


@pytest.fixture
def client(backbone, tmp_path):
    folder = tmp_path / "cats"
    folder.mkdir()
    for i in range(4):
        picture(i, (120, 100)).save(folder / f"{i}.jpg")
    with running(options(backbone, folder)) as found:
        yield found


@pytest.fixture
def page(browser, client):
    """The page with three points named and none placed; it must raise nothing."""
    client.json("annotation", "PUT", {"version": 0, "points": POINTS, "marks": {}, "boxes": {}})
    opened, errors = open_page(browser, client)
    yield opened
    opened.context.close()
    assert errors == []


def open_page(browser, client, **settings):
    # playwright evaluates texts in the page, which the page's own policy forbids
    opened, errors = browser.new_context(bypass_csp=True, **settings).new_page(), []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("dialog", lambda dialog: dialog.accept("whiskers"))
    opened.set_default_timeout(120_000)
    opened.goto(client.address)
    opened.wait_for_function("shown")
    return opened, errors


def at(page, place):
    """The place in the window of a place in pixels of the picture."""
    page.evaluate("view.scrollIntoView({block: 'center'})")
    frame = page.locator("#view").bounding_box()
    width, height = page.evaluate("[view.clientWidth, view.clientHeight]")
    sides = page.evaluate("[shown.width, shown.height]")
    return [
        frame[edge] + 1 + (value + 0.5) * length / side
        for edge, value, length, side in zip("xy", place, (width, height), sides, strict=True)
    ]


def click(page, place):
    page.mouse.click(*at(page, place))


def saved(page, client):
    """The annotation file after all changes have reached it."""
    page.wait_for_function("!saving && !isUnsaved")
    return json.loads((client.page.workshop.out / "points.json").read_text())


def test_clicks_become_points_of_the_file_within_a_pixel(page, client):
    for place in PLACES:
        click(page, place)
    assert page.inner_text("#done-text") == "1 of 4 annotated"
    found = saved(page, client)["pictures"]
    width = page.evaluate("view.clientWidth")
    assert list(found) == ["0.jpg"] and width > 300
    assert np.abs(np.subtract(found["0.jpg"], PLACES)).max() <= 120 / width


def test_points_close_together_are_clicked_apart_and_dragged_later(page, client):
    for place in ([60, 50], [61, 50], [60, 51]):
        click(page, place)
    assert saved(page, client)["pictures"]["0.jpg"] == [
        pytest.approx(place, abs=0.4) for place in ([60, 50], [61, 50], [60, 51])
    ]
    page.mouse.move(*at(page, [60, 51]))  # the chosen point is grabbed before the others
    page.mouse.down()
    page.mouse.move(*at(page, [90, 20]), steps=3)
    page.mouse.up()
    found = saved(page, client)["pictures"]["0.jpg"]
    assert found[2] == pytest.approx([90, 20], abs=0.4)
    assert found[:2] == [pytest.approx(place, abs=0.4) for place in ([60, 50], [61, 50])]


def test_arrow_keys_move_the_chosen_point_by_a_pixel_and_stay_inside(page, client):
    click(page, [60, 50])
    page.keyboard.press("1")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    first = page.evaluate("marksOf('0.jpg').nose")
    assert first == pytest.approx([52, 51], abs=0.4)
    for _ in range(8):
        page.keyboard.press("Shift+ArrowLeft")
    assert page.evaluate("marksOf('0.jpg').nose[0]") == 0
    assert saved(page, client)["begun"]["0.jpg"]["points"]["nose"][0] == 0


def test_not_seen_undo_and_the_keys_of_pictures(page, client):
    click(page, PLACES[0])
    page.keyboard.press("x")
    page.keyboard.press("x")
    assert saved(page, client)["pictures"]["0.jpg"][1:] == [None, None]
    page.keyboard.press("Control+z")
    found = saved(page, client)
    assert found["pictures"] == {} and found["begun"]["0.jpg"]["points"]["left ear"] is None
    page.keyboard.press("n")
    page.wait_for_function("shown.name === '1.jpg'")
    page.keyboard.press("p")
    page.wait_for_function("shown.name === '0.jpg'")
    page.keyboard.press("Delete")
    assert page.evaluate("Object.keys(marksOf('0.jpg'))") == ["nose", "left ear"]


def test_points_are_added_renamed_and_deleted_in_all_pictures(page, client):
    click(page, PLACES[0])
    page.fill("#name", "LEFT-ear")
    page.press("#name", "Enter")
    assert "There is a point left ear already" in page.inner_text("#status")
    page.fill("#name", "tail")
    page.press("#name", "Enter")
    page.get_by_label("Rename nose").click()  # the dialog answers whiskers
    page.get_by_label("Delete left ear").click()
    found = saved(page, client)
    assert found["points"] == ["whiskers", "right ear", "tail"]
    assert list(found["begun"]["0.jpg"]["points"]) == ["whiskers"]
    page.keyboard.press("Control+z")
    assert saved(page, client)["points"] == ["whiskers", "left ear", "right ear", "tail"]


def test_the_box_is_dragged_by_its_corners_and_edges(page, client):
    click(page, PLACES[0])
    page.keyboard.press("b")
    page.mouse.move(*at(page, [107.5, 89.5]))
    page.mouse.down()
    page.mouse.move(*at(page, [87.5, 79.5]), steps=3)
    page.mouse.up()
    assert saved(page, client)["begun"]["0.jpg"]["box"] == pytest.approx([12, 10, 88, 80], abs=0.6)
    page.mouse.move(*at(page, [50, 9.5]))
    page.mouse.down()
    page.mouse.move(*at(page, [60, 14.5]), steps=3)
    page.mouse.up()
    assert saved(page, client)["begun"]["0.jpg"]["box"] == pytest.approx([22, 15, 98, 85], abs=0.9)


def test_suggestions_are_accepted_by_key(page, client):
    for place in PLACES:
        click(page, place)
    page.keyboard.press("o")
    page.wait_for_function("shown.name === '1.jpg' && Object.keys(suggestions).length === 3")
    guesses = page.evaluate("points => points.map(one => suggestions[one].place)", POINTS)
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    assert saved(page, client)["pictures"]["1.jpg"] == guesses
    assert page.inner_text("#done-text") == "2 of 4 annotated"


def test_a_fit_s_errors_floor_and_curve_are_shown_and_the_detector_saved(browser, client):
    sent = {"version": 0, "points": POINTS, "marks": marks(4), "boxes": {}}
    client.json("annotation", "PUT", sent)
    page, errors = open_page(browser, client)
    page.click("#start-fit")
    page.wait_for_selector("#cards .card >> nth=2", timeout=240_000)
    assert page.inner_text("#fits td >> nth=0") == "4"
    label = page.get_attribute("#curve-box svg", "aria-label")
    assert label.startswith("Error in %. 4 pictures: trained") and "mean shape" in label
    page.click("#worst button >> nth=0")
    page.wait_for_function("shown && /^[0-3].jpg$/.test(shown.name)")
    page.click("#keep")
    page.wait_for_function("part('status').textContent.includes('for `scemae detect')")
    page.click("#build")
    page.wait_for_function("part('status').textContent.includes('annotated-train 4 samples')")
    out = client.page.workshop.out
    assert (out / "fit" / "regressor.safetensors").is_file()
    assert (out / "shards" / "annotated-train" / "manifest.json").is_file()
    page.context.close()
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_s_width_is_enough_and_all_controls_have_names(browser, client, scheme):
    sent = {"version": 0, "points": POINTS, "marks": marks(2), "boxes": {}}
    client.json("annotation", "PUT", sent)
    view = {"width": 390, "height": 844}
    page, _ = open_page(browser, client, viewport=view, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    unnamed = (
        "[...document.querySelectorAll('button, input, select, canvas, progress')].filter("
        "one => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))"
    )
    assert page.evaluate(f"{unnamed}.map(one => one.outerHTML)") == []
    page.context.close()


def test_without_webassembly_the_page_works_and_says_what_does_not(browser, client):
    opened = browser.new_page()  # under the page's own policy
    opened.add_init_script("delete globalThis.WebAssembly")
    opened.goto(client.address)
    opened.wait_for_selector("#webassembly:not([hidden])")
    assert "no WebAssembly, which the explorer" in opened.inner_text("#webassembly")
    opened.wait_for_selector("#status:has-text('Name the points first')")
    opened.close()


def test_a_picture_that_cannot_be_read_is_named_and_the_next_one_shown(page, client):
    disk.write_bytes(client.page.notebook.pictures.root / "1.jpg", b"\xff\xd8 no picture")
    page.keyboard.press("n")
    page.wait_for_selector(".failed")
    assert page.inner_text("#status").startswith("1.jpg: ")
    page.click("#next")
    page.wait_for_function("shown && shown.name === '2.jpg'")
