"""A plain installation has every command, the configs, shards and cluster."""

import os
import subprocess
import sys

import pytest

from tests.support import REPO

END = "-- the end --"
TRY = f"""
import scemae
from scemae.cli import main
from scemae.config.load import configs_dir

print(scemae.__file__, "{END}", *configs_dir().glob("experiment/*"), "{END}")
try:
    main(["shards", "--help"])
except SystemExit as end:
    assert not end.code
print("{END}")
main(["pretrain", "--cfg", "model=deit_tiny"])  # ends the process
"""


@pytest.mark.slow
def test_a_plain_install_has_every_command_and_config(tmp_path):
    site = tmp_path / "site"
    source = tmp_path / "source"  # a copy: the build must not write into the checkout
    subprocess.run(["git", "clone", "-q", str(REPO), str(source)], check=True)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", TRY],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    imported, experiments, shards, config = done.stdout.split(END)
    assert str(site) in imported and "demo_pretrain" in experiments
    assert "build" in shards and "width: 192" in config
    assert (site / "scemae" / "cluster" / "pretrain.sh").is_file()
    assert (site / "scemae" / "evaluation" / "report" / "report.html").is_file()


def test_shards_and_cluster_are_found_below_scemae():
    import scemae.cluster
    import scemae.shards

    assert "shards" in scemae.shards.__file__ and "cluster" in scemae.cluster.__file__
