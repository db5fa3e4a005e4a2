"""Settings that a checkpoint records, so that older runs resume."""

from dataclasses import MISSING, dataclass, fields

from scemae.config.dotted import recorded
from scemae.config.schema.training import Carb


@dataclass
class Section:
    """A section to which `later` was added after the first runs."""

    first: int
    later: bool = False


def test_a_checkpoint_does_not_record_a_later_setting_at_the_behaviour_before_it():
    assert recorded(Section(3)) == {"first": 3}
    assert recorded(Section(3, later=True)) == {"first": 3, "later": True}


def test_every_setting_of_carb_but_later_ones_has_no_default():
    """Else older runs could not resume, or a missing value would go unnoticed."""
    later = [part.name for part in fields(Carb) if part.default is not MISSING]
    assert later == ["cluster_norm", "init"]
