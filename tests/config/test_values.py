"""Names with any characters reach the settings unchanged through every command."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from scemae.cli import run_command
from scemae.cluster import chain, submit
from scemae.commands import demo
from scemae.commands.parse import parse, with_runs
from scemae.config import load, values
from scemae.config.dotted import get_setting, setting_names
from scemae.config.load import _choice, _is_group, _settings, load_config, reload_config, to_yaml
from scemae.config.schema import SCHEMAS
from scemae.errors import ConfigError
from scemae.sweep import spec as sweeps
from tests.support import REPO

NAMES = [
    "Mü (x)",
    "d 日本",
    "a=b",
    "a,b",
    "(",
    "[",
    "{",
    "#",
    "&",
    ";",
    "~",
    "'",
    '"',
    " blanks ",
    "$HOME",
    "%",
    "new\nline",
    "back\\slash",
    "-dash",
    "[a,b]",
    '"quoted"',
    "null/x",
    "${",
    "*?",
    "`ls`",
    "a:b",
    "a@b",
    "no utf-8 \udcff",
]
PLAIN = [name for name in NAMES if name != "${"]


@pytest.mark.parametrize("chunk", range(5))
def test_a_path_is_taken_as_typed_and_survives_writing_and_reading(chunk, tmp_path):
    given = dict(
        zip(
            ["run_dir", "init_from", "probe_shards", "data.shards", "data.cache_dir"],
            PLAIN[chunk * 5 :] + PLAIN,
        )
    )
    found = load_config("pretrain", [f"{key}={name}" for key, name in given.items()], typed=True)
    assert {key: get_setting(found, key) for key in given} == given
    (tmp_path / "config.yaml").write_text(to_yaml(found))
    assert reload_config("pretrain", tmp_path / "config.yaml") == found


def test_a_list_of_paths_is_read_as_it_is_written():
    assert values.items("x", values.as_list(NAMES)) == NAMES
    for text, found in (
        ("[a,b]", ["a", "b"]),
        ("[ a b , 'c,d' ]", ["a b", "c,d"]),
        ("[]", []),
        ("a,b", ["a,b"]),
        ("[", ["["]),
        ("[scale=[0.2,1.0],x={a: 1, b: 2}]", ["scale=[0.2,1.0]", "x={a: 1, b: 2}"]),
        (r'["a\"b\\c"]', ['a"b\\c']),
    ):
        assert values.items("x", text) == found
    for text in ("[a,,b]", "[a,]", '["a]', '["a"b]', '[""]', "[a[b]"):
        with pytest.raises(ConfigError, match="^x: found "):
            values.items("x", text)


@pytest.mark.parametrize("name", ["Mü (x)", "a=b, [c]", "'\" #"])
def test_a_file_of_settings_may_have_any_name_and_contain_any_path(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    path = folder / "own=file.yaml"
    path.write_text(
        f"run_dir: {folder!s:}\n" if name == "Mü (x)" else "run_dir: pr/日本\n", encoding="utf8"
    )
    found = load_config("correspond", [f"experiment={path}", f"backbone={folder}"], typed=True)
    assert found.run_dir == (
        str(folder) if name == "Mü (x)" else "pr/日本"
    ) and found.backbone == str(folder)
    path.write_text("stage: pretrain\nparameters:\n  mask_ratio: {low: 0.1, high: 0.5}\n")
    assert load_config("sweep", ["run_dir=x", f"space={path}"]).space.stage == "pretrain"


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_an_empty_value_is_refused_for_every_setting(name):
    for key in setting_names(SCHEMAS[name]):
        with pytest.raises(
            ConfigError, match=f"^{re.escape(key)}: found (nothing behind|'', one of)"
        ):
            kind = values.kind_of(SCHEMAS[name], key)
            _choice(key, "") if _is_group(name, key) else values.value_of(key, kind, "")


@pytest.mark.parametrize(
    "parse",
    [
        lambda: parse("match", ["", "b", "--backbone", "x"]),
        lambda: parse("match", ["a", "b", "--backbone", ""]),
        lambda: parse("detect", ["a", "--backbone", "x", "--regressor", "y", "--out", ""]),
        lambda: run_command(["shards", "build", "folder", "root", ""]),
        lambda: run_command(["shards", "verify", ""]),
        lambda: run_command(["demo", ""]),
        lambda: run_command(["faces", ""]),
        lambda: with_runs(["", "run_dir=x"]),
        lambda: run_command(["submit", "--status", ""]),
        lambda: run_command(["report", ""]),
        lambda: run_command(["adopt", "", "x", "--model", "deit_tiny"]),
        lambda: run_command(["export", "x", ""]),
        lambda: run_command(["goodput", ""]),
        lambda: run_command(["verify-resume", ""]),
        lambda: run_command(["sweep", "--page", ""]),
    ],
)
def test_an_empty_path_is_refused_by_every_command(parse):
    with pytest.raises(
        ConfigError,
        match="found an empty path|one run folder was needed|found nothing; give the run_dir",
    ):
        parse()


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("optim.epochs=1,2", "optim.epochs: found several values, '1,2', and one was needed"),
        ("optim.epochs=(", "optim.epochs: found '\\(', which is neither"),
        ("run_dir=${oc.env:HOME}", "run_dir: found \\${...}"),
        ("seed=${oc.env:HOME}", "seed: found \\${...}"),
        ("model=(", "model: found '\\(', one of deit_base; "),
        ("model=../experiment/demo_pretrain", "model: found '../exp"),
        ("~seed=1", "found no setting '~seed'"),
    ],
)
def test_an_invalid_value_is_refused_without_advice_about_hydra(word, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config("pretrain", ["run_dir=x", word], typed=True)
    assert "multirun" not in str(caught.value)


def test_values_of_all_other_types_are_read():
    found = load_config(
        "tables",
        [
            "run_dir=x",
            "detection.train_on={aflw_m:mafl}",
            "detection.hold_out.300w=3",
            "few_shot.counts=[1,5]",
            "shards=one folder",
            "detection.benchmarks=null",
            "floors=false",
            "++detection.lr=1e-4",
        ],
    )
    assert (found.detection.train_on, found.detection.hold_out) == ({"aflw_m": "mafl"}, {"300w": 3})
    assert (found.few_shot.counts, found.shards, found.detection.lr) == (
        [1, 5],
        ["one folder"],
        1e-4,
    )
    found = load_config(
        "pretrain",
        [
            "run_dir=x",
            "data.scale=[0.3, 1]",
            "runtime.workers=2",
            "runtime.compile=false",
            "method=dve",
            "method.settings.dim=32",
            "init_from=null",
        ],
    )
    assert (found.data.scale, found.runtime.workers, found.runtime.compile) == (
        [0.3, 1.0],
        2,
        False,
    )
    assert found.method.settings["dim"] == 32 and found.init_from is None


def test_the_checkout_may_be_in_a_folder_of_any_name(tmp_path, monkeypatch):
    for name in ("Mü (x) [a,b]", "a=b 'c' $d", "%20#;"):
        shutil.copytree(REPO / "configs", tmp_path / name / "configs")
        monkeypatch.setattr(load, "configs_dir", lambda: tmp_path / name / "configs")
        assert (
            load_config(
                "pretrain", ["run_dir=x", "experiment=demo_pretrain", "model=deit_tiny"]
            ).model.width
            == 192
        )


def read(command):
    """The settings that a command reads from its arguments."""
    return dict(_settings(command[0], command[1:], True))


@pytest.mark.parametrize("name", PLAIN)
def test_the_commands_of_a_demo_keep_its_folder(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    out = Path(name)
    for stage in ("correspond", "lda", "cl", "lead", "dve"):
        (out / stage).mkdir(parents=True)
    drawn, built, pretrain, correspond, lda, evaluate, report = demo.commands(out, 10, 1)
    assert Path(faces_parser(drawn[1:])) == out / "faces"
    assert Path(parse("shards", built[1:]).out) == out / "shards"
    assert Path(report[1]) == out / "evaluate"
    assert (
        read(pretrain)["run_dir"]
        == str(out / "pretrain")
        == read(correspond)["backbone"]
        == read(lda)["backbone"]
    )
    assert read(evaluate)["run"] == read(correspond)["run_dir"]
    assert read(evaluate)["also"] == [read(lda)["run_dir"]]
    tables = demo.rivals(out, 10, 1)[-1]
    found = read(["tables", *with_runs(tables[1:])])
    assert [Path(run) for run in found["runs"]] == [
        out / "correspond",
        out / "lda",
        out / "cl",
        out / "lead",
        out / "dve",
    ]
    assert found["shards"][0] == str(out / "shards") and len(found["shards"]) == 4


def test_a_demo_draws_its_faces_aside(tmp_path, monkeypatch):
    (tmp_path / "faces.partial").mkdir()
    (tmp_path / "faces.partial" / "mine").touch()
    drawn = []

    def run(command):
        if command[0] == "faces":
            drawn.append(Path(faces_parser(command[1:])))
            (drawn[0] / "a.jpg").touch()
        elif command[0] == "shards":
            raise SystemExit(1)

    monkeypatch.setattr(demo, "run", run)
    with pytest.raises(SystemExit):
        run_command(["demo", str(tmp_path)])
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["faces", "faces.partial"]
        and not drawn[0].exists()
    )
    assert (tmp_path / "faces" / "a.jpg").exists() and (
        tmp_path / "faces.partial" / "mine"
    ).exists()


def faces_parser(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    return parser.parse_known_args(arguments)[0].out


@pytest.mark.parametrize("name", PLAIN)
def test_a_run_for_the_tables_may_have_any_name(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    given = f"./{name}" if name.startswith("-") else name
    assert read(["tables", *with_runs([given, "run_dir=x"])])["runs"] == [given]
    with pytest.raises(ConfigError, match="no such folder"):
        with_runs(["gone"])


@pytest.mark.parametrize("name", PLAIN)
def test_doctor_checks_the_folder_that_was_typed(name):
    words = ["pretrain", f"run_dir={name}", f"data.shards={name}", "--time-limit", "5"]
    found = parse("doctor", words)
    assert (found.schema, found.time_limit) == ("pretrain", 5)
    assert read(["pretrain", *found.settings]) == {"run_dir": name, "data.shards": name}


@pytest.mark.parametrize("name", ["Mü (x)", 'a=b,[c]"', "$HOME'%"])
def test_the_trials_of_a_sweep_get_its_paths_and_values(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    space = [
        "space=own",
        "space.stage=correspond",
        "space.parameters.carb.projector.values=[mlp, linear]",
        "space.parameters.carb.eta={low: 0.1, high: 0.3}",
    ]
    found = sweeps.load(
        [
            f"run_dir={name}",
            *space,
            f"correspond.backbone={name}",
            f"correspond.data.shards={name}/x",
        ]
    )
    assert found.folder == tmp_path / name
    settings = read(
        ["correspond", *found.base, *found.as_words({"carb.projector": "mlp", "carb.eta": 0.2})]
    )
    assert settings == {
        "backbone": str(tmp_path / name),
        "data.shards": f"{name}/x",
        "carb.projector": "mlp",
        "carb.eta": 0.2,
    }


@pytest.mark.parametrize(
    "name", [name for name in PLAIN if "\n" not in name and ":" not in name and name.isprintable()]
)
def test_a_job_script_contains_what_was_typed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCEMAE_HOME", "x")
    folder = Path(name).absolute()
    loaded = load_config("submit", [f"run_dir={name}", "stages=[pretrain]"], typed=True)
    stage = chain.Stage(
        "pretrain",
        ["pretrain", f"run_dir={folder}", f"data.shards={name}"],
        str(folder),
        1,
        1,
        0,
        saves=True,
    )
    script = submit.script(loaded, [stage], 0)
    shown = shlex.split(script.split("\n#!/bin/bash")[0].removeprefix("# pretrain runs: "))
    assert shown == ["bash", f"{folder}/code/scemae/cluster/ranks.sh", *stage.arguments]
    written = next(line for line in script.splitlines() if line.startswith("#SBATCH --output="))
    log = shlex.split(written.removeprefix("#SBATCH "))[0].removeprefix("--output=")
    assert log.replace("%%", "%") == f"{folder}/jobs/%j_0_log.out" and log.count("%%") == str(
        folder
    ).count("%")
    exports = [line for line in script.splitlines() if line.startswith("export ")]
    printed = subprocess.run(
        ["bash", "-c", "\n".join(exports) + "\nprintf '%s\\n' \"$PYTHONPATH\""],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == f"{folder}/code\n"


@pytest.mark.parametrize("name", ["a:b", "a\nb", "%j", "\udcff"])
def test_a_folder_that_a_job_script_cannot_express_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="which the job scripts cannot express"):
        run_command(["submit", f"run_dir={name}", "stages=[pretrain]", "--dry-run"])


@pytest.mark.parametrize("stage", ["pretrain", "correspond", "evaluate", "sweep", "tables"])
def test_a_job_script_passes_its_arguments_on_from_any_folder_to_any_program(stage, tmp_path):
    """Scripts stand in for the few programs of Slurm that a job script calls."""
    home, tools, given = tmp_path / "Mü (x) $y'", tmp_path / "tools", [*NAMES, "run_dir=Mü (x)"]
    for folder in (home, tools):
        folder.mkdir()
    for name in (f"{stage}.sh", "ranks.sh"):
        (home / name).write_bytes((REPO / "cluster" / name).read_bytes())
    given = [
        word.replace("\n", " ") for word in given
    ]  # the record of a job has one line per field
    (tools / "scontrol").write_text(
        '#!/bin/bash\n[ "$2" = job ] && '
        'printf "%s\\n" "JobState=X" "   Command=$RECORD" "EligibleTime=now"\n'
    )
    (tools / "srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (home / "my program").write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
    for path in (tools / "scontrol", tools / "srun", home / "my program"):
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", str(home / f"{stage}.sh"), *given],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "1",
            "SLURM_PROCID": "0",
            "SLURM_NTASKS": "1",
            "SLURM_LOCALID": "0",
            "RECORD": " ".join([str(home / f"{stage}.sh"), *given]),
            "SCEMAE_COMMAND": f"{shlex.quote(str(home / 'my program'))} -m scemae",
        },
    )
    assert done.stdout.split("\0")[:-1] == ["-m", "scemae", stage, *given], done.stderr
