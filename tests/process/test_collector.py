"""The garbage collector does not slow imports down, and is there for the work."""

import gc
import sys
from types import SimpleNamespace

import pytest

from scemae import cli
from scemae.process import collector


@pytest.fixture(autouse=True)
def as_before():
    yield
    gc.unfreeze()
    gc.enable()


def test_a_command_starts_with_the_collector_on_and_its_imports_set_aside(monkeypatch):
    seen = []
    command = SimpleNamespace(main=lambda: seen.append((gc.isenabled(), gc.get_freeze_count())))
    monkeypatch.setitem(sys.modules, "a_command", command)
    collector.stop()
    assert not gc.isenabled()
    cli._main_of("a_command")()
    ((is_on, frozen),) = seen
    assert is_on and frozen > 1000


def test_where_nobody_stopped_it_nothing_is_set_aside():
    before = gc.get_freeze_count()
    collector.go_on()
    assert gc.isenabled() and gc.get_freeze_count() == before


@pytest.mark.parametrize("was_on", [True, False])
def test_a_library_leaves_it_as_it_was_also_after_an_error(was_on):
    gc.enable() if was_on else gc.disable()
    with pytest.raises(ValueError), collector.stopped():
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled() == was_on
