"""Credentials that expire while shards of s3:// are read, at an endpoint that checks signatures."""

import json
import time

import pytest

from scemae.data.storage import remote_folder
from scemae.data.storage.shard_set import open_shards, stream_shards
from scemae.errors import ShardError
from tests.object_server import serve
from tests.s3_signature import Credentials
from tests.support import TINY, Started, scemae, write_shards

pytest.importorskip("obstore")
SAMPLES = 120
REFUSED = (
    "access was refused, also with credentials read anew; renew the credentials and start again"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("expiry")
    write_shards(root / "bucket" / "train", SAMPLES, shards=4)
    return root


@pytest.fixture
def server(root, monkeypatch):
    """An endpoint where the first credentials are valid; nothing in the environment names any."""
    for name in (*Credentials().environment, "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with serve(root) as state:
        state.valid = Credentials(1)
        monkeypatch.setenv("AWS_ENDPOINT_URL", state.url)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
        yield state


def from_environment(monkeypatch, tmp_path):
    """Keep credentials in the environment; returns what writes them there."""

    def write(credentials):
        for name, value in credentials.environment.items():
            monkeypatch.setenv(name, value)

    return write


def from_file(monkeypatch, tmp_path):
    """Keep them in a file that boto3 reads."""
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return lambda credentials: credentials.write(tmp_path / "credentials")


@pytest.fixture(params=[from_environment, from_file])
def renew(request, server, monkeypatch, tmp_path):
    """Where a client keeps credentials: called with those to write there. It holds the first."""
    write = request.param(monkeypatch, tmp_path)
    write(Credentials(1))
    return write


@pytest.fixture
def file(server, monkeypatch, tmp_path):
    """A file of credentials that boto3 reads, with the first: another process can renew them."""
    from_file(monkeypatch, tmp_path)(Credentials(1))
    return tmp_path / "credentials"


def opened(tmp_path):
    return stream_shards(["s3://bucket/train"], str(tmp_path / "cache"), 0.01, 8)[0]


def read(shards, root, samples):
    plain = open_shards(str(root / "bucket" / "train"))
    assert all(shards.jpeg(i) == plain.jpeg(i) for i in samples)


def secrets_in(text):
    return [
        word for n in (1, 2) for word in (Credentials(n).secret, Credentials(n).token)
        if word in text
    ]  # fmt: skip


def test_a_request_that_is_not_signed_by_the_secret_is_refused(server, tmp_path, monkeypatch):
    from_environment(monkeypatch, tmp_path)(Credentials(1))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(ShardError, match=REFUSED):
        opened(tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", Credentials(1).secret)
    assert len(opened(tmp_path)) == SAMPLES


def test_a_token_that_expires_is_read_anew(server, root, renew, tmp_path):
    shards = opened(tmp_path)
    read(shards, root, range(40))
    server.valid = Credentials(2)
    renew(Credentials(2))
    began = time.monotonic()
    read(shards, root, range(SAMPLES))
    assert server.refused == 1 and time.monotonic() - began < 10


def test_an_expired_token_is_one_sentence_and_a_second_start_goes_on(server, root, renew, tmp_path):
    shards = opened(tmp_path)
    read(shards, root, range(40))
    server.valid = Credentials(2)
    began = time.monotonic()
    with pytest.raises(ShardError, match=REFUSED) as error:
        read(shards, root, range(SAMPLES))
    assert "\n" not in str(error.value) and not secrets_in(str(error.value))
    assert server.refused == 2 and time.monotonic() - began < 5
    renew(Credentials(2))
    read(opened(tmp_path), root, range(SAMPLES))


def test_what_a_server_answers_is_not_repeated_in_the_message(server, renew, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_folder, "FIRST_PAUSE", 0)
    shards = opened(tmp_path)
    body = f"<Error><Code>Odd</Code><Token-0>{Credentials(1).token}</Token-0></Error>"
    server.fault = lambda path, before: body.encode()
    with pytest.raises(ShardError, match=r"400 Bad Request: Odd\); check the network") as error:
        shards.jpeg(0)
    assert not secrets_in(str(error.value))


def words(tmp_path, run):
    """A run of 30 steps in 10 windows, through a cache of two."""
    settings = [*TINY, "optim.global_batch_size=8", "optim.epochs=2", "loop.log_every=1"]
    settings += ["loop.save_every=5", "runtime.device=cpu", "runtime.tier=streaming"]
    settings += ["data.order=lanes", "data.lanes=2", "data.block=6", "data.window=2"]
    settings += ["data.cache_gb=0.0007", f"data.cache_dir={tmp_path / 'cache'}"]
    return ["pretrain", *settings, "data.shards=s3://bucket/train", f"run_dir={run}"]


def expire(server, renewed):
    """From the tenth range of the tars on, the first credentials have expired."""
    ranges = [0]

    def count(path, before):
        ranges[0] += ".tar" in path
        if ranges[0] == 10:
            renewed()
            server.valid = Credentials(2)

    server.fault = count


@pytest.mark.slow
def test_a_run_goes_on_where_its_token_expires(server, file, tmp_path):
    expire(server, lambda: Credentials(2).write(file))
    done = scemae(*words(tmp_path, tmp_path / "run"))
    assert 0 < server.refused <= 8 + 1  # of each thread that downloads, and of the reader, one
    assert not secrets_in(done.stdout + done.stderr)
    assert_no_secret_in(tmp_path / "run", tmp_path / "cache")


@pytest.mark.slow
def test_a_run_whose_credentials_stay_old_ends_and_resumes_after_they_are_renewed(
    server, root, file, tmp_path
):
    run = tmp_path / "run"
    expire(server, lambda: None)
    out, errors = tmp_path / "out", tmp_path / "errors"
    status = Started(words(tmp_path, run), out, errors).wait(200)
    shown = out.read_text() + errors.read_text()
    assert status == 1 and REFUSED in shown and "Traceback" not in shown
    assert not secrets_in(shown)
    (failure,) = run.glob("generations/*/failed-0000.txt")
    assert REFUSED in failure.read_text()
    assert_no_secret_in(run, tmp_path / "cache")
    server.fault = lambda path, before: None
    Credentials(2).write(file)
    scemae(*words(tmp_path, run))
    local = ["--shards", root / "bucket" / "train"]
    assert "steps 1 to 30 of 2 starts" in scemae("verify-resume", run, "--all", *local).stdout
    steps = [json.loads(row)["step"] for row in _rows(run, 2)]
    assert steps[-1] == 30


def _rows(run, generation):
    return (run / "generations" / f"{generation:04d}" / "ledger.jsonl").read_text().splitlines()


def assert_no_secret_in(*folders):
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                assert not secrets_in(path.read_bytes().decode("latin1")), path
