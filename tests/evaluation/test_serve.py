"""`scemae explore --serve` without a browser: what it refuses, saves, fits and builds."""

import argparse
import io
import json
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from urllib.parse import quote

import numpy as np
import pytest
import uvicorn
from PIL import Image

import scemae
from scemae.cli import run_command
from scemae.data.picture import ORIENTATION
from scemae.errors import ConfigError, DataError, RunFolderError
from scemae.evaluation.explore.held import facts_of, subject_of
from scemae.evaluation.explore.serve import serve as serving
from scemae.evaluation.explore.serve.annotation import Annotation, Notebook, OutdatedError
from scemae.evaluation.explore.serve.pictures import Pictures
from scemae.evaluation.landmarks.regressor_file import load_regressor
from scemae.files import disk
from scemae.shards.annotations.read import read_labels
from tests.interop.test_export import tiny_runs
from tests.support import Started, picture, write_backbone

POINTS = ["nose", "left ear", "right ear"]
PLACES = ([60, 70], [40, 30], [80, 30])
QUICK = {"views": 2, "stride": 8}
TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("runs") / "mae")


@pytest.fixture
def cats(tmp_path):
    """A folder of six pictures of 120x100 pixels."""
    folder = tmp_path / "cats"
    folder.mkdir()
    for i in range(6):
        picture(i, (120, 100)).save(folder / f"{i}.jpg")
    return folder


def marks(count: int) -> dict:
    """Points of the first `count` pictures, each a little elsewhere."""
    return {
        f"{i}.jpg": {name: [x + i, y + i % 3] for name, (x, y) in zip(POINTS, PLACES, strict=True)}
        for i in range(count)
    }


def options(backbone, cats, **changes) -> argparse.Namespace:
    given = {"runs": [backbone], "pictures": cats, "out": cats.parent / "out", "port": 8765}
    fitting = {**QUICK, "seed": 0}
    return argparse.Namespace(**given | fitting | changes)


class Client:
    """The served page, asked as a browser asks it."""

    def __init__(self, page, address):
        self.page, self.address = page, address

    def ask(self, path, method="GET", value=None, **headers):
        """Status, headers and content of an address below the token."""
        data = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(f"{self.address}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def json(self, path, method="GET", value=None):
        """Status and JSON."""
        status, _, content = self.ask(path, method, value)
        return status, json.loads(content)

    def finish(self):
        """The state of the job after it has ended."""
        self.page.desk.wait(120)
        return self.json("job")[1]


@contextmanager
def running(given):
    """A real server on a free port of this machine, as `scemae explore --serve` runs it."""
    listening = serving.listen(0)
    given.out.mkdir()
    page = serving.make_page(given, Pictures(given.pictures), lambda: "the explorer")
    server = uvicorn.Server(uvicorn.Config(page.app(TOKEN), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield Client(page, f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/")
    server.should_exit = True
    thread.join(20)
    listening.close()


@pytest.fixture
def client(backbone, cats):
    with running(options(backbone, cats)) as found:
        yield found


def annotated(client, count, points=POINTS, **changes):
    """Status and answer after all points of `count` pictures were sent."""
    version = client.json("state")[1]["annotation"]["version"]
    sent = {"version": version, "points": points, "marks": marks(count), "boxes": {}}
    return client.json("annotation", "PUT", sent | changes)


def test_a_request_without_the_token_is_refused_in_a_sentence(client):
    outside = client.address.replace(TOKEN, "another-token")
    for path in (f"{outside}state", outside, client.address.split(TOKEN)[0]):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(path, timeout=20)
        assert caught.value.code == 403
        assert caught.value.read().decode().startswith("This address lacks the token; open the")
    assert client.ask("state")[0] == 200
    # a page of another origin may name this machine by a host name of its own
    assert client.ask("state", Host="evil.example:80")[0] == 403


def test_a_port_in_use_is_refused_and_only_this_machine_is_listened_to():
    with serving.listen(0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(ConfigError, match=rf"--port: found {port} in use .* another --port"):
            serving.listen(port)


@pytest.mark.slow
def test_the_command_prints_its_address_answers_there_and_ends_by_ctrl_c(backbone, cats, tmp_path):
    with serving.listen(0) as free:
        port = free.getsockname()[1]
    words = ["explore", backbone, "--serve", "--pictures", cats, "--port", port]
    files = tmp_path / "printed", tmp_path / "errors"
    started = Started([*words, "--out", tmp_path / "out"], *files)
    until = time.monotonic() + 120
    while not (address := re.search(r"open (http://\S+)", files[0].read_text())):
        assert started.poll() is None and time.monotonic() < until, files[1].read_text()
        time.sleep(0.1)
    with urllib.request.urlopen(f"{address[1]}state", timeout=60) as answer:
        assert json.loads(answer.read())["count"] == 6
    started.send_signal(signal.SIGINT)
    assert started.wait(60) == 0
    assert len(address[1].split("/")[3]) >= 32  # the token


def test_a_second_server_on_what_is_saved_is_refused(backbone, cats):
    given = options(backbone, cats, port=0)
    given.out.mkdir()
    with disk.locked(given.out / serving.LOCK):
        with pytest.raises(RunFolderError, match="found another `scemae explore --serve` that"):
            serving.serve(given, lambda: "")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--serve"], "--serve: found no --pictures; give the folder"),
        (["--pictures", "."], "--pictures: found no --serve, which it belongs to"),
        (["--serve", "--pictures", "EMPTY"], "none of them an image .* give the folder that"),
    ],
)
def test_wrong_options_give_one_sentence(backbone, tmp_path, words, complaint):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    words = [str(tmp_path / "empty") if word == "EMPTY" else word for word in words]
    with pytest.raises((ConfigError, DataError), match=complaint):
        run_command(["explore", str(backbone), *words, "--out", str(tmp_path / "out")])


def test_points_are_saved_at_once_and_there_again_after_a_restart(client, cats):
    begun = {"5.jpg": {"nose": [3.14159, 4], "left ear": None}}
    sent = {"marks": marks(2) | begun, "boxes": {"0.jpg": [10, 10, 100, 90]}}
    assert annotated(client, 2, **sent) == (200, {"version": 1})
    path = client.page.workshop.out / "points.json"
    labels = read_labels([path])  # as `shards build` reads it: annotated pictures alone
    assert [one.picture for one in labels.objects] == ["0.jpg", "1.jpg"]
    assert labels.objects[1].points == [(61, 71), (41, 31), (81, 31)]
    again = Notebook(path, Pictures(cats))
    assert again.now.marks == marks(2) | {"5.jpg": {"nose": [3.14, 4], "left ear": None}}
    assert again.now.boxes == {"0.jpg": [10, 10, 100, 90]}
    assert again.now.points == POINTS and again.done() == ["0.jpg", "1.jpg"]


def test_a_file_of_a_labelling_program_s_pairs_and_scale_stay(cats):
    path = cats.parent / "points.json"
    pairs = {"pairs": [["left ear", "right ear"]], "scale": ["nose", "left ear"]}
    disk.write_json(path, {"points": POINTS, "pictures": {"0.jpg": PLACES}} | pairs)
    notebook = Notebook(path, Pictures(cats))
    notebook.change(Annotation(0, POINTS, marks(1), {}))
    assert json.loads(path.read_text()) == json.loads(path.read_text()) | pairs
    renamed = {"0.jpg": {"nose": [1, 1], "ear": [9, 9], "right ear": [5, 5]}}
    notebook.change(Annotation(1, ["nose", "ear", "right ear"], renamed, {}))
    assert not {"pairs", "scale"} & json.loads(path.read_text()).keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"marks": {"0.jpg": {"nose": [120.9, 5]}}}, "outside of its 120x100 pixels"),
        ({"points": ["nose", "nose"], "marks": {}}, "'nose' twice"),
        ({"points": ["left ear", "Left-Ear"], "marks": {}}, "two names for one point"),
        ({"points": ["nose", " "], "marks": {}}, "needed a text"),
        ({"marks": {"0.jpg": {"tail": [5, 5]}}}, "found a place for 'tail', the points are nose"),
        ({"marks": {"../0.jpg": {"nose": [5, 5]}}}, "found no picture '../0.jpg'"),
        ({"boxes": {"0.jpg": [90, 10, 10, 90]}}, "needed x0, y0, x1, y1 with x0 < x1"),
        ({"boxes": {"0.jpg": [500, 500, 600, 600]}}, "32 pixels each way"),
        ({"marks": {"0.jpg": {"nose": ["a", 1]}}}, "reload the page"),
    ],
)
def test_points_that_cannot_be_are_refused_in_a_sentence(client, changes, words):
    annotated(client, 1)
    path = client.page.workshop.out / "points.json"
    before = path.read_bytes()
    status, answer = annotated(client, 1, **changes)
    assert status == 400 and words in answer["error"] and "\n" not in answer["error"]
    assert path.read_bytes() == before
    assert client.json("state")[1]["annotation"]["marks"] == marks(1)


def test_an_outdated_page_cannot_overwrite_newer_points(cats):
    notebook = Notebook(cats.parent / "points.json", Pictures(cats))
    notebook.change(Annotation(0, POINTS, marks(2), {}))
    with pytest.raises(OutdatedError, match="another window meanwhile; reload"):
        notebook.change(Annotation(0, POINTS, {}, {}))
    assert notebook.done() == ["0.jpg", "1.jpg"]


def test_points_stay_as_they_were_where_they_cannot_be_written(cats):
    path = cats.parent / "points.json"
    notebook = Notebook(path, Pictures(cats))
    path.mkdir()  # a folder in the place of the file: the rename fails
    with pytest.raises(OSError):
        notebook.change(Annotation(0, POINTS, marks(1), {}))
    assert notebook.now == Annotation(0, [], {}, {})


def test_the_annotation_file_of_another_folder_is_refused(cats, tmp_path):
    path = tmp_path / "points.json"
    Notebook(path, Pictures(cats)).change(Annotation(0, POINTS, marks(2), {}))
    (tmp_path / "dogs").mkdir()
    picture(9, (120, 100)).save(tmp_path / "dogs" / "0.jpg")
    with pytest.raises(DataError, match="points for 1 pictures that are not in .*dogs"):
        Notebook(path, Pictures(tmp_path / "dogs"))
    picture(8, (120, 100)).save(tmp_path / "dogs" / "1.jpg")  # the same names, other pictures
    with pytest.raises(DataError, match="found points of another 0.jpg than .*dogs has; give"):
        Notebook(path, Pictures(tmp_path / "dogs"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"points": ["a", "b"], "pictures": {"0.jpg": [[1, 2], 3]}}', "does not belong there"),
        ('{"points": ["a"], "pictures": {"0.jpg": [[[1, 2]], [[3, 4]]]}}', "found 2 objects in"),
        ('{"points": ["a"], "pictures": {"0.jpg": [[500, 2]]}}', "outside of its 120x100"),
        ("{", "give another --out"),
    ],
)
def test_an_annotation_file_that_cannot_be_used_is_refused(cats, tmp_path, text, words):
    (tmp_path / "points.json").write_text(text)
    with pytest.raises(DataError, match=words):
        Notebook(tmp_path / "points.json", Pictures(cats))


@pytest.mark.parametrize("mode", ["turned by EXIF", "CMYK", "I;16", "30 megapixels"])
def test_unusual_pictures_are_shown_upright_and_measured_in_pixels_of_the_original(tmp_path, mode):
    folder, name, size, limit = tmp_path / "cats", "0.jpg", (120, 100), 3
    folder.mkdir()
    exif = Image.Exif()
    if mode == "turned by EXIF":
        exif[ORIENTATION], size = 6, (100, 120)
        left = Image.new("RGB", (120, 100), "white")
        left.paste("black", (0, 0, 60, 100))  # the left half, which is the upper one upright
        left.save(folder / name, exif=exif)
    elif mode == "CMYK":
        Image.new("CMYK", size, (255, 0, 0, 0)).save(folder / name, quality=100)
    elif mode == "I;16":
        name, values = "0.png", np.full((100, 120), 40000, np.uint16)
        Image.fromarray(values).save(folder / name)
    else:
        size = (6000, 5000)
        picture(0, size).save(folder / name, quality=40)
    pictures = Pictures(folder)
    shown = Image.open(io.BytesIO(pictures.shown(name)))
    assert pictures.size(name) == size and shown.mode == "RGB"
    if mode == "30 megapixels":
        assert shown.size == (1600, 1333)
    else:
        assert shown.size == size
    expected = {"turned by EXIF": (0, 0, 0), "CMYK": (0, 255, 255), "I;16": (155, 155, 155)}
    if mode in expected:
        found = shown.getpixel((50, 20))
        assert np.abs(np.subtract(found, expected[mode])).max() <= limit
    notebook = Notebook(tmp_path / "points.json", pictures)
    corner = [size[0] - 1, size[1] - 1]
    notebook.change(Annotation(0, ["a"], {name: {"a": corner}}, {}))
    assert notebook.done() == [name]


def test_the_picture_s_own_size_goes_with_it(client):
    status, headers, content = client.ask(f"picture?name={quote('0.jpg')}")
    assert (status, headers["X-Width"], headers["X-Height"]) == (200, "120", "100")
    assert content[:2] == b"\xff\xd8" and headers["Cache-Control"] == "no-store"
    status, answer = client.json("picture?name=../points.json")
    assert status == 400 and "found no picture" in answer["error"]


def test_a_fit_is_that_of_the_commands_and_its_curve_stays(client, backbone, cats, tmp_path):
    annotated(client, 4)
    assert client.json("fit?curve=1&random=1", "POST")[1]["job"]["is_running"]
    found = client.finish()
    assert found["job"]["error"] == "" and found["has_regressor"]
    assert [one["pictures"] for one in found["curve"]] == [3, 4]
    assert client.json("shards", "POST")[0] == 200 and client.finish()["job"]["error"] == ""
    assert client.json("regressor", "POST")[0] == 200
    out = client.page.workshop.out
    words = ["shards", "build", "folder", cats, tmp_path / "out2", "--workers", 1]
    run_command([str(word) for word in [*words, "--landmarks", out / "points.json"]])
    built = out / "shards", tmp_path / "out2"
    tars = [sorted(path.relative_to(one) for path in one.rglob("*.tar")) for one in built]
    assert [str(path.parent) for path in tars[0]] == ["annotated-train", "train"]
    assert tars[0] == tars[1]
    for tar in tars[0]:
        assert (built[0] / tar).read_bytes() == (built[1] / tar).read_bytes()
    lines = [(one / "benchmark.yaml").read_text().splitlines() for one in built]
    assert [a for a, b in zip(*lines, strict=True) if a != b] == ['title: "out"']
    quick = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    words = ["fit", str(tmp_path / "out2"), "--run", str(backbone), "--out", str(tmp_path / "fit")]
    run_command([*words, *quick])
    paths = [one / "regressor.safetensors" for one in (out / "fit", tmp_path / "fit")]
    (mine, origin), (theirs, _) = map(load_regressor, paths)
    assert origin.points == POINTS
    for name, value in mine.state_dict().items():
        assert value.equal(theirs.state_dict()[name])
    result = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert found["curve"][1]["methods"] == result["held_out"]["methods"]
    again = serving.make_page(options(backbone, cats), Pictures(cats), lambda: "")
    assert again.workshop.curve() == found["curve"] and not again.workshop.has_regressor


def test_a_category_with_one_picture_is_not_fitted(client):
    annotated(client, 1)
    status, answer = client.json("fit", "POST")
    assert status == 400 and "found 1 annotated picture, at least 2 are needed" in answer["error"]
    status, answer = client.json("regressor", "POST")
    assert status == 400 and answer["error"] == "found no fit since the start; fit first"


def test_a_point_that_no_picture_shows_is_named_without_the_temporary_folder(client):
    hidden = {name: {**each, "right ear": None} for name, each in marks(3).items()}
    annotated(client, 3, marks=hidden)
    client.json("fit", "POST")
    error = client.finish()["job"]["error"]
    assert error.startswith(f"{client.page.workshop.out / 'points.json'}: found the point")
    assert "'right ear' in 0 of 3 pictures, at least 2 are needed" in error


def test_a_cancelled_fit_changes_nothing_and_leaves_the_page_alive(client):
    annotated(client, 4)
    client.page.workshop._settings.epochs = 10_000  # hours
    client.json("fit", "POST")
    until = time.monotonic() + 60
    while not client.json("job")[1]["job"]["share"] and time.monotonic() < until:
        time.sleep(0.05)
    status, answer = client.json("shards", "POST")
    assert status == 400 and "`fit` is still running; wait for it, or cancel it" in answer["error"]
    assert annotated(client, 3)[0] == 200  # points can be set meanwhile
    client.json("cancel", "POST")
    found = client.finish()
    assert found["job"]["said"].startswith("Cancelled") and not found["has_regressor"]
    assert found["curve"] == [] and not (client.page.workshop.out / "curve.json").exists()


def test_suggestions_are_those_of_a_detector_of_the_pictures_done(client, backbone, cats):
    annotated(client, 3)
    status, found = client.json("suggest?name=5.jpg")
    assert status == 200 and list(found) == POINTS
    assert {one["pictures"] for one in found.values()} == {3}
    model = scemae.load(backbone, device="cpu")
    images = [cats / f"{i}.jpg" for i in range(3)]
    places = [[one[point] for point in POINTS] for one in marks(3).values()]
    detector = scemae.fit_landmarks(model, images, places, views=4)
    expected = detector.predict(cats / "5.jpg").points
    # other warps of the same pictures
    assert np.abs([one["place"] for one in found.values()] - expected).max() < 3


def test_a_point_that_no_picture_shows_is_not_suggested(client):
    sent = {"version": 0, "points": POINTS, "marks": marks(2), "boxes": {}}
    for one in sent["marks"].values():
        one["nose"] = None
    assert client.json("annotation", "PUT", sent)[0] == 200
    assert list(client.json("suggest?name=4.jpg")[1]) == POINTS[1:]


def test_the_page_and_its_script_are_small_and_load_nothing_from_elsewhere(client):
    _, headers, page = client.ask("")
    _, _, script = client.ask("page.js")
    assert len(page) + len(script) < 60_000 and b"http" not in script.replace(
        b"http://www.w3.org/2000/svg", b""
    )
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert client.ask("explorer")[2] == b"the explorer"


def test_a_run_is_a_chain_s_folder_or_an_export_too(tmp_path):
    _, projector = tiny_runs(tmp_path / "chain", names=("pretrain", "correspond"))
    run_command(["export", str(projector), str(tmp_path / "export")])
    chain = subject_of([tmp_path / "chain"])
    export = subject_of([tmp_path / "export"])
    key = "SHA-256 of the weights"
    assert [one[key] for one in facts_of(chain)] == [one[key] for one in facts_of(export)]
    assert [one["stage"][0] for one in facts_of(export)] == ["1", "2"]
