"""Which settings make a run a reduced one, whose numbers must not be read as the method's: one rule
for `scemae tables` and `scemae report`. The full protocol's values are the defaults in configs/.
"""

from typing import Any

# Settings of the evaluation: every other value than the full protocol's makes the run a reduced
# one.
EVALUATION = (
    "matching.couples",
    "stride",
    "detection.stride",
    "detection.epochs",
    "detection.init_std",
    "detection.limit",
    "detection.kernel",
    "detection.stage_2_weights",
    "detection.weight_decays",
    "few_shot.images_per_epoch",
    "few_shot.epochs",
    "few_shot.init_std",
    "few_shot.views",
    "few_shot.counts",
    "few_shot.seeds",
    "embedding.images",
    "embedding.repeats",
)
# Amounts of training and test data: fewer than the full recipe's make the run a reduced one.
AMOUNTS = ("optim.epochs", "images", "images_seen", "faces")


def is_reduced(key: str, here: Any, full: Any) -> bool:
    """Whether the value `here` of a setting or amount makes the run a reduced one."""
    if key in AMOUNTS:
        return here < full
    return key in EVALUATION and here != full
