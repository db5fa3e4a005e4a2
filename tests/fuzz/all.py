"""Every target by its name."""

from tests.fuzz import of_photographs, of_runs, of_shards, of_sources, of_weights
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for group in (of_shards, of_sources, of_runs, of_weights, of_photographs)
    for target in group.TARGETS
}
