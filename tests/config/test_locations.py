"""A location of shards in a file is never run, and secrets in a location never reach a file."""

import os
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from scemae import cli
from scemae.cli import run_command
from scemae.cluster import chain, submit
from scemae.config.load import load_config, reload_config, to_yaml
from scemae.config.locations import Typed, below, cache_name, is_masked, masked
from scemae.data.storage import url_program
from scemae.data.storage.shard_set import open_shards
from scemae.errors import ConfigError, RunFolderError, ShardError
from scemae.evaluation.report import report
from scemae.files import ownership
from scemae.runs import lineage, run_folder, verify
from scemae.sweep import spec as sweeps
from scemae.sweep import sweep_folder
from scemae.sweep.trials import RANDOM, Trial
from tests.support import write_shards

URL = "https://user:pass%20word@host.org:8443/a/b?sig=s3cret&v=2#frag"
HIDDEN = "https://***@host.org:8443/a/b?sig=***&v=***#***"


@pytest.fixture
def trap(tmp_path):
    """A command that creates a file when it is run."""
    yield f"pipe:touch {tmp_path / 'run'}; true"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "location", ["sftp://h/x", "hf://datasets/x", "ais://b/x", "pipe:true", "scp://h/x"]
)
def test_a_program_is_run_only_for_a_typed_location(location, tmp_path):
    with pytest.raises(ShardError, match="type the location on the command line yourself"):
        open_shards(location, str(tmp_path / "cache"))
    with pytest.raises(ShardError, match="type the location on the command line yourself"):
        url_program.start(location)
    url_program.refuse(Typed(location))
    assert not (tmp_path / "cache").exists()


def test_urls_in_a_typed_list_are_typed():
    words = ["run_dir=x", "data.cache_dir=c", "data.mix=[s3://a/b:0.5,/x:0.5]"]
    mix = load_config("pretrain", words, typed=True).data.mix
    assert mix == ["s3://a/b:0.5", "/x:0.5"] and [*map(type, mix)] == [Typed, str]


def test_the_copy_of_a_typed_command_is_found_by_its_masked_form(tmp_path):
    folder, cache = write_shards(tmp_path / "shards", 4), str(tmp_path / "cache")
    typed = load_config(
        "pretrain",
        ["run_dir=x", f"data.shards=pipe:cat {folder}", f"data.cache_dir={cache}"],
        typed=True,
    ).data.shards
    assert len(open_shards(typed, cache)) == 4
    written = masked(typed)
    assert str(folder) not in written and is_masked(written) and masked(written) == written
    for location in (written, str(typed)):  # the cached copies are read, nothing runs
        assert len(open_shards(location, cache)) == 4
    shutil.rmtree(cache)
    with pytest.raises(ShardError, match="give the whole location on the command line"):
        open_shards(written, cache)


def test_a_command_in_a_file_of_settings_is_refused(trap, tmp_path):
    path = tmp_path / "own.yaml"
    for name, text in (
        ("pretrain", f"data:\n  shards: '{trap}'"),
        ("tables", f"shards: ['{trap}']"),
        ("sweep", f"correspond: ['data.shards={trap}']"),
        ("submit", f"pretrain: ['data.shards={trap}']"),
        ("sweep", f"space: {{parameters: {{data: {{shards: {{values: ['{trap}']}}}}}}}}"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match="own.yaml: .*found pipe:, which runs a program"):
            load_config(name, [f"experiment={path}", "run_dir=x"], typed=True)
    for text in (
        "cluster: {setup: [evil]}",
        "cluster: {container: evil}",
        "cluster: {options: ['wrap=evil']}",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match="own.yaml: found cluster.*, which jobs run"):
            load_config("submit", [f"experiment={path}", "run_dir=x"], typed=True)
    with pytest.raises(ConfigError, match="data.shards: found pipe:"):
        load_config("pretrain", [f"data.shards={trap}", "run_dir=x"])  # without typed=True


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "x${oc.env:HOME}", "${seed}"])
def test_nothing_is_interpolated_in_a_file_of_settings(value, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"data:\n  shards: http://x/{value}\n")
    for load in (
        lambda: load_config("pretrain", [f"experiment={path}", "run_dir=x"], typed=True),
        lambda: reload_config("pretrain", path),
    ):
        with pytest.raises(
            ConfigError, match=r"own.yaml: data.shards: found \$\{...\}, which is not interpolated"
        ):
            load()


def test_a_foreign_sweep_runs_nothing(trap, tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    loaded = load_config("sweep", [f"run_dir={folder}"])
    loaded.correspond = ["backbone=y", f"data.shards={trap}"]
    (folder / "sweep.json").write_text('{"identity": "x"}')
    (folder / "sweep.yaml").write_text(yaml.safe_dump(asdict(loaded)))
    with pytest.raises(ConfigError, match="sweep.yaml: correspond: found pipe:"):
        sweep_folder.reopen(folder)
    mine = sweeps.load([f"run_dir={folder}", "correspond.backbone=y"])
    for values, words in (
        (
            {**mine.paper, "data.shards": trap},
            "found a value of data.shards where the space has none",
        ),
        ({**mine.paper, "carb.eta": trap}, "trial.json: values: found pipe:"),
    ):
        with pytest.raises(ConfigError, match=words):
            mine.arguments(Trial(1, values, RANDOM))


@pytest.mark.parametrize("has_cache", [True, False])
def test_a_foreign_run_runs_nothing_when_it_is_reported_or_verified(trap, tmp_path, has_cache):
    cache = str(tmp_path) if has_cache else None
    run = lineage.RecordedRun(
        "pretrain",
        tmp_path,
        {"data.shards": trap, "probe_shards": trap, "data.cache_dir": cache},
        {},
    )
    rows = lineage.data_of({"pretrain": run})
    assert rows and all("type the location on the command line" in row["missing"] for row in rows)
    assert all(
        "copy the shards" in row["missing"] and "cache_dir" not in row["missing"] for row in rows
    )
    data = {"shards": trap, "cache_dir": cache, "frame": 178, "jpeg_noise": False, "decoder": "cpu"}
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"data": data, "seed": 0, "optim": {"global_batch_size": 1}})
    )
    with pytest.raises(
        ShardError,
        match="type the location on the command line yourself .*--shards.*, or copy the shards",
    ):
        verify.read_plan(tmp_path, None)


def test_curl_gets_a_url_unchanged_and_not_on_its_command_line(tmp_path, monkeypatch):
    (tmp_path / "curl").write_text('#!/bin/bash\necho "$@"; cat\n')
    (tmp_path / "curl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    process = url_program.start('https://u:p@h/{a,b}[1-9]"\\$(touch x);`ls`')
    received = process.communicate()[0].decode()
    assert (
        received.startswith("--config -\n")
        and r'url = "https://u:p@h/{a,b}[1-9]\"\\$(touch x);`ls`"' in received
    )
    assert 'proto = "=http,https"' in received and "globoff" in received
    with pytest.raises(ValueError):
        url_program.start('https://h/x\nurl = "file:///etc/passwd"')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (URL, HIDDEN),
        (f"data.shards={URL}", f"data.shards={HIDDEN}"),
        (f"{URL}: cannot be read", f"{HIDDEN} cannot be read"),
        ("data/celeba", "data/celeba"),
        ("run_dir=a@b", "run_dir=a@b"),
        ("s3://b/k", "s3://b/k"),
        ("http://h/x?token", "http://h/x?***"),
        ("a=b?c=d", "a=b?c=d"),
        ("ftp://u@h", "ftp://***@h"),
    ],
)
def test_secret_parts_of_a_location_are_hidden(text, found):
    assert masked(text) == found == masked(found)


@pytest.mark.parametrize(
    "command", ["curl -u user:s3cret https://x", "TOKEN=s3cret aws s3 cp", "cat s3cret"]
)
def test_a_command_is_shown_as_its_program_and_a_digest(command):
    for text in (f"pipe:{command}", f"data.shards=pipe:{command}"):
        assert "s3cret" not in masked(text) and re.search(
            r"pipe:(curl|cat)? \*\*\*[0-9a-f]{16}$", masked(text)
        )
        assert masked(masked(text)) == masked(text) != masked(text + "x")


def test_the_cache_of_a_url_is_named_without_secrets_and_found_by_its_masked_form():
    assert unquote(cache_name(URL)) == HIDDEN and cache_name(URL) == cache_name(HIDDEN)
    assert cache_name("http://h/a/") == cache_name("http://h/a") == "http%3A%2F%2Fh%2Fa"
    assert len(cache_name("http://h/" + "x" * 500)) < 250
    assert below("https://h/a/?sig=1", "m.json") == "https://h/a/m.json?sig=1" and isinstance(
        below(Typed("pipe:cat x"), "y"), Typed
    )
    assert below("pipe:cat x?", "y") == "pipe:cat x?/y"


WORDS = [
    "data.shards=https://user:s3cret@h/a?sig=s3cret",
    "probe_shards=pipe:curl -u user:s3cret https://h/b",
]


def text_below(folder):
    """The text of all files below a folder."""
    return "\n".join(
        path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and "code" not in path.parts
    )


def test_a_run_folder_contains_no_secret_and_its_command_can_be_typed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scemae", "pretrain", "run_dir=Mü (x)", *WORDS])
    loaded = load_config("pretrain", [f"run_dir={tmp_path}", *WORDS], typed=True)
    assert loaded.data.shards == WORDS[0].partition("=")[2]  # what is opened is what was typed
    for _ in range(2):  # a second start keeps what the first wrote
        run_folder.describe(tmp_path, "pretrain", loaded, backbone="https://user:s3cret@h/x")
    found = run_folder.provenance(tmp_path)
    assert "s3cret" not in text_below(tmp_path) and len(found["starts"]) == 2
    assert found["starts"][0]["command"] == found["command"]
    assert found["command"].startswith(
        "scemae pretrain 'run_dir=Mü (x)' 'data.shards=https://***@h/a?sig=***' "
        "'probe_shards=pipe:curl ***"
    )


def test_secrets_in_files_of_an_earlier_version_are_not_shown(tmp_path):
    (tmp_path / "provenance.json").write_text(
        '{"command": "scemae pretrain data.shards=https://u:s3cret@h/a x=1"}'
    )
    (tmp_path / "config.yaml").write_text(
        "model: {width: 48}\ndata: {shards: 'https://u:s3cret@h/a'}\n"
    )
    found = lineage.read_run(tmp_path)
    assert (
        found.config["data.shards"] == "https://***@h/a"
        and "https://***@h/a x=1" in found.provenance["command"]
    )


def test_a_chain_and_a_sweep_contain_no_secret(tmp_path, capsys):
    words = [
        f"run_dir={tmp_path / 'chain'}",
        "stages=[pretrain]",
        *(f"pretrain.{word}" for word in WORDS),
    ]
    run_command(["submit", *words, "--dry-run"])
    loaded = load_config("submit", submit.gather(words), typed=True)
    stages = chain.plan(loaded)
    assert stages[0].arguments[2:] == WORDS  # what a job gets is what was typed
    (tmp_path / "chain").mkdir()
    chain.snapshot(loaded, stages)
    chain.write(tmp_path / "chain", "batch", stages)
    made = sweeps.load(
        [f"run_dir={tmp_path / 'sweep'}", "space=mae", *(f"pretrain.{word}" for word in WORDS)]
    )
    made.folder.mkdir()
    (made.folder / "sweep.yaml").write_text(to_yaml(made.config))
    assert (
        "s3cret" not in text_below(tmp_path) + capsys.readouterr().out and "s3cret" in made.base[0]
    )
    (made.folder / "sweep.json").write_text('{"identity": "x"}')
    # masked, it is found in the cache
    assert sweep_folder.reopen(made.folder).settings.data.shards == "https://***@h/a?sig=***"


def test_an_error_shows_no_password(capsys, tmp_path):
    assert cli._status_of(["pretrain", f"run_dir={tmp_path}", WORDS[0]]) == 1
    shown = capsys.readouterr().err
    words = "https://***@h/a?sig=***: its tars are at a URL"
    assert words in shown and "s3cret" not in shown


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A run and a sweep of another user; the current folder is the user's own."""
    for name in ("run", "sweep"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "config.yaml").write_text("x: 1\n")
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    real, taken = os.lstat, [(tmp_path / name).stat().st_ino for name in ("run", "sweep")]

    def lstat(path, **options):
        found = real(path, **options)
        return (
            os.stat_result((*found[:4], found.st_uid + 1, *found[5:10]))
            if found.st_ino in taken
            else found
        )

    monkeypatch.setattr(os, "lstat", lstat)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_report_on_another_users_run_is_written_elsewhere(stranger, monkeypatch, capsys):
    monkeypatch.setattr(report, "gather", lambda run, with_pictures: ({"missing": {}}, {}))
    monkeypatch.setattr(report, "render", lambda *_: "page")
    run_command(["report", str(stranger / "run")])
    assert "is another user's" in capsys.readouterr().out and [
        path.name for path in (stranger / "run").iterdir()
    ] == ["config.yaml"]
    assert (
        Path("report-run/report.html").read_text() == "page"
        and os.stat("report-run").st_mode & 0o77 == 0
    )
    monkeypatch.chdir(stranger / "run")
    with pytest.raises(RunFolderError, match="say where its report is to go: --out FOLDER"):
        run_command(["report", "."])


@pytest.mark.parametrize("name", ["", "config.yaml"])
def test_a_run_that_others_may_write_to_is_treated_as_another_users(tmp_path, name):
    (tmp_path / "config.yaml").write_text("x: 1\n")
    assert ownership.is_private_run(tmp_path) and report.choose_folder(tmp_path) == tmp_path
    (tmp_path / name).chmod(0o777)
    assert not ownership.is_private_run(tmp_path)


def test_nothing_is_written_or_removed_in_another_users_sweep(stranger):
    with pytest.raises(RunFolderError, match="--page SWEEP --out FOLDER"):
        run_command(["sweep", "--page", str(stranger / "sweep")])
    assert [path.name for path in (stranger / "sweep").iterdir()] == ["sweep.json"]


def test_a_url_in_another_users_run_is_not_fetched(stranger):
    shards = write_shards(stranger / "shards", 4)
    run = lineage.RecordedRun(
        "pretrain", stranger / "run", {"data.cache_dir": str(stranger / "run")}, {}
    )
    with pytest.raises(ShardError, match="none is made where a file names both"):
        run.open(f"file://{shards}")
    assert [path.name for path in (stranger / "run").iterdir()] == ["config.yaml"]
    open_shards(f"file://{shards}", str(stranger / "run"))
    assert len(run.open(f"file://{shards}")) == 4
