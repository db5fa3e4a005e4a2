"""A plain installation has every command, the configs, shards and cluster."""

import os
import subprocess
import sys

import pytest

from tests.support import REPO


@pytest.mark.slow
def test_a_plain_install_has_every_command_and_config(tmp_path):
    site = tmp_path / "site"
    source = tmp_path / "source"  # a copy: the build must not write into the checkout
    subprocess.run(["git", "clone", "-q", str(REPO), str(source)], check=True)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*install, str(site), str(source)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(code):
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert str(site) in run("import scemae; print(scemae.__file__)")
    assert "build" in run("from scemae.cli import main; main(['shards', '--help'])")
    assert "width: 192" in run(
        "from scemae.cli import main; main(['pretrain', '--cfg', 'model=deit_tiny'])"
    )
    assert "demo_pretrain" in run(
        "from scemae.config.load import configs_dir; print(*configs_dir().glob('experiment/*'))"
    )
    assert (site / "scemae" / "cluster" / "pretrain.sh").is_file()
    assert (site / "scemae" / "evaluation" / "report" / "report.html").is_file()


def test_shards_and_cluster_are_found_below_scemae():
    import scemae.cluster
    import scemae.shards

    assert "shards" in scemae.shards.__file__ and "cluster" in scemae.cluster.__file__
