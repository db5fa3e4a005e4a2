"""Files and documents of others: what is refused before it is read, written or removed."""

import json
import os
import pickle
from dataclasses import dataclass

import pytest

from scemae import errors
from scemae.errors import DataError, FileError
from scemae.files import disk, documents


@dataclass
class Shelf:
    name: str
    books: list[documents.Count]


def test_a_device_or_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path):
        with pytest.raises(FileError, match="no regular file"):
            disk.read_bytes(path, 100)


def test_a_file_larger_than_expected_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(FileError, match="1,099,511,627,776 bytes, at most 100"):
        disk.read_bytes(tmp_path / "huge", 100)


def test_writing_replaces_a_link_and_leaves_what_it_led_to(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out.json").symlink_to("victim")
    disk.write_json(tmp_path / "out.json", [1])
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "out.json").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    disk.write_text(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), disk.replacing(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_planted_lock_or_log_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "lock").symlink_to("victim")
    with pytest.raises(FileError, match="remove it"), disk.locked(tmp_path / "lock"):
        pass
    with pytest.raises(FileError, match="remove it"):
        disk.open_to_append(tmp_path / "lock")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_lock_is_held_by_one_and_keeps_the_content(tmp_path):
    (tmp_path / "lock").write_text("kept")
    with (
        disk.locked(tmp_path / "lock"),
        pytest.raises(BlockingIOError),
        disk.locked(tmp_path / "lock", wait=False),
    ):
        pass
    assert (tmp_path / "lock").read_text() == "kept"


def test_removing_stays_in_its_folder(tmp_path):
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "run").symlink_to(tmp_path / "other")
    for path in (
        tmp_path / "trials" / "run" / "checkpoints",
        tmp_path / "trials" / ".." / "other",
        tmp_path / "trials",
    ):
        with pytest.raises(FileError):
            disk.remove_tree(path, tmp_path / "trials")
    assert (tmp_path / "other" / "checkpoints").is_dir()
    disk.remove_tree(tmp_path / "other" / "checkpoints", tmp_path)
    disk.remove_tree(tmp_path / "other" / "checkpoints", tmp_path)
    assert not (tmp_path / "other" / "checkpoints").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", "a\0b", "x" * 300])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(ValueError, match="plain file name"):
        disk.plain_name(name)


def test_a_document_that_fits_is_read_into_its_type():
    assert documents.parse_json(b'{"name": "a", "books": [1]}', Shelf, "x") == Shelf("a", [1])
    assert documents.parse_yaml("name: a\nbooks: [1]", Shelf, "x") == Shelf("a", [1])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b'{"name": "a", "books": ["1"]}', r"\$\.books\[0\]"),
        (b'{"name": "a"}', "books"),
        (b"[]", "object"),
        (b"\xff", "x.json"),
        (b"[" * 100_000, "x.json"),
        (b'{"name": "a", "books": [123456789012345678901234567890]}', "books"),
        (b"", "x.json"),
    ],
)
def test_a_document_that_does_not_fit_names_file_and_field(text, names):
    with pytest.raises(DataError, match=f"x.json: .*(?s:.*){names}|{names}"):
        documents.parse_json(text, Shelf, "x.json")


def test_the_character_nul_is_refused_and_a_backslash_is_not():
    assert documents.parse_json(rb'{"name": "C:\\u0000", "books": []}', Shelf, "x") == Shelf(
        r"C:\u0000", []
    )
    for text in (rb'{"name": "a\u0000", "books": []}', rb'{"name": "\\\u0000", "books": []}'):
        with pytest.raises(DataError, match="x.json: .*NUL"):
            documents.parse_json(text, Shelf, "x.json")


def test_a_tree_with_a_number_that_no_float_can_hold_is_refused():
    with pytest.raises(DataError, match="x: .*64 bits"):
        documents.convert({"any": [{"deep": 10**400}]}, dict, "x")


@pytest.mark.parametrize(
    "text",
    [
        'a: "\\0"',
        "a: 1" + "0" * 400,
        "a: &a [1]\nb: *a",
        "a: 1\na: 2",
        "a: !!python/object/apply:os.system [x]",
        "[" * 1000,
        "a: {b",
        "? [a]\n: 1",
    ],
)
def test_yaml_that_repeats_or_runs_itself_is_refused(text):
    with pytest.raises(DataError, match="x.yaml"):
        documents.parse_yaml(text, dict, "x.yaml")


def test_yaml_numbers_are_those_of_hydra():
    assert documents.parse_yaml("[1e-4, 1.5, 7, .5, -1E3, true, 1:30]", list, "x") == [
        1e-4,
        1.5,
        7,
        0.5,
        -1e3,
        True,
        90,
    ]


def test_a_message_commands_no_terminal():
    error = errors.ConfigError("\x1b[31mred\x07 \x9b2J \u202egpj.exe \udcff né 日本\nnext\tcolumn")
    assert str(error) == "\\x1b[31mred\\x07 \\x9b2J \\u202egpj.exe \\udcff né 日本\nnext\tcolumn"
    assert str(errors.ConfigError(str(error))) == str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_names_that_are_not_utf8_come_back_and_nothing_else_gets_in_with_them():
    name = os.fsdecode(b"caf\xe9.jpg")
    assert documents.parse_json(json.dumps({"name": name, "books": [2]}), Shelf, "a") == Shelf(
        name, [2]
    )
    for books in ("[NaN]", "[1e999]", "[-1]", "[1.5]", '["1"]', "[" * 3000):
        with pytest.raises(DataError, match="a: .*found what does not belong there"):
            documents.parse_json('{"name": "\\udce9", "books": ' + books + "}", Shelf, "a")


def test_a_new_file_is_not_made_where_a_link_or_a_file_lies(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "link").symlink_to("victim")
    (tmp_path / "broken").symlink_to("elsewhere")
    for name in ("victim", "link", "broken"):
        with pytest.raises(FileExistsError):
            disk.create(tmp_path / name)
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "elsewhere").exists()
