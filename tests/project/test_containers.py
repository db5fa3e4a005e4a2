"""The recipes of containers/: what they copy exists, their stages and arguments fit together."""

import re
import shutil
import subprocess
import tomllib

import pytest

from tests.support import REPO

FOLDER = REPO / "containers"
DOCKERFILE, DEFINITION = FOLDER / "Dockerfile", FOLDER / "scemae.def"
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
INSTRUCTIONS = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"}
KEYWORDS = {"Bootstrap", "From", "Stage"}


def instructions():
    """Each instruction of the Dockerfile with its text, continuation lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def sections():
    """The stages of the definition: header and sections by name, each a list of lines."""
    stages = []
    for line in DEFINITION.read_text().splitlines():
        if line.startswith("Bootstrap:"):
            stages.append({"": []})
        if line.startswith("%"):
            current = line[1:].strip()
            stages[-1][current] = []
        elif line.strip() and not line.startswith("#"):
            name = "" if not line.startswith(" ") else current
            stages[-1][name].append(line.strip())
    return stages


def test_the_dockerfile_has_two_stages_and_a_cpu_build_by_default():
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    assert [text.split(" AS ")[1:] for name, text in found if name == "FROM"] == [["build"], []]
    arguments = dict(text.split("=", 1) for name, text in found if name == "ARG")
    assert arguments["TORCH"] == "cpu"
    assert set(arguments["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    used = set(re.findall(r"\$\{(\w+)\}", " ".join(text for _, text in found)))
    assert used == set(arguments)
    assert ("ENTRYPOINT", '["scemae"]') in found and "scemae" in PROJECT["scripts"]


def test_the_definition_copies_what_exists_and_names_its_arguments():
    build, final = sections()
    for stage in (build, final):
        assert {line.split(":")[0] for line in stage[""]} == KEYWORDS
    for line in build["files"]:
        source, target = line.split()
        assert (REPO / source).exists() and target == f"/source/{source}"
    arguments = dict(line.split("=", 1) for line in build["arguments"])
    assert set(re.findall(r"\{\{ (\w+) \}\}", " ".join(build["post"]))) == set(arguments)
    assert arguments["TORCH"] == "cpu"
    assert f"EXTRAS={arguments['EXTRAS']}" in DOCKERFILE.read_text()
    assert final["files from build"] == ["/opt/scemae /opt/scemae"]


def test_both_recipes_install_the_torch_and_the_python_that_the_project_asks_for():
    for text in (DOCKERFILE.read_text(), DEFINITION.read_text()):
        for name in ("torch", "torchvision"):
            assert (
                next(one for one in PROJECT["dependencies"] if one.startswith(f"{name}>")) in text
            )
    assert "3.12" in DEFINITION.read_text() and "ARG PYTHON=3.12" in DOCKERFILE.read_text()
    assert any(line.endswith(":: 3.12") for line in PROJECT["classifiers"])


def test_shell_lines_of_the_definition_are_valid():
    for stage in sections():
        for name in ("post", "runscript", "environment", "test"):
            lines = "\n".join(stage.get(name, [])).replace("{{", "").replace("}}", "")
            subprocess.run(["sh", "-n"], input=lines, text=True, check=True)


@pytest.mark.skipif(not shutil.which("hadolint"), reason="no hadolint here")
def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
