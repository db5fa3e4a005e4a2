"""How a run compares with the paper's full recipe, and the paper's numbers for its model."""

from dataclasses import dataclass
from typing import Any

from scemae.evaluation import protocol
from scemae.evaluation.landmarks.benchmarks import MATCHING_TARGETS, find_benchmark
from scemae.runs.lineage import RecordedRun

SIZES = {192: "T", 384: "S", 768: "B"}  # DeiT's letters by width
PAPER = "paper, section 4"
# CelebA's training set without MAFL's faces (PROTOCOL 1.4); the paper prints 162,770.
FULL_IMAGES = 146_501
# Key, title and source of the settings that decide most; the values are the defaults in configs/.
FULL = {
    "pretrain": (
        ("optim.epochs", "epochs", PAPER),
        ("optim.global_batch_size", "batch", PAPER),
        ("optim.lr", "peak learning rate", PAPER),
        ("mask_ratio", "hidden share of patches", "PROTOCOL 2.1"),
        ("decoder.width", "decoder width", "our choice, PROTOCOL 1.6"),
        ("decoder.depth", "decoder blocks", "our choice, PROTOCOL 1.6"),
    ),
    "correspond": (
        ("optim.epochs", "epochs", "our choice after CL, PROTOCOL 4.3"),
        ("optim.global_batch_size", "batch", "our choice after CL, PROTOCOL 4.3"),
        ("carb.eta", "attentive share η", PAPER),
        ("carb.clusters", "clusters K_c", PAPER),
        ("carb.projector", "projector", "our choice, PROTOCOL 1.6"),
    ),
    "evaluate": (
        ("matching.couples", "couples matched", "PROTOCOL 3.4"),
        ("stride", "stride of matching, px", "our choice, PROTOCOL 5.2"),
        ("detection.epochs", "epochs of the regressor", "CL's, PROTOCOL 4.4"),
        ("detection.stride", "stride of detection, px", "our choice, PROTOCOL 5.2"),
    ),
}


@dataclass
class RecipeRow:
    """A setting or an amount beside the full recipe's."""

    stage: str
    what: str
    here: Any
    full: Any
    source: str
    verdict: str  # same, reduced, differs or unknown


def recipe(
    runs: dict[str, RecordedRun], results: dict, defaults: dict[str, dict]
) -> list[RecipeRow]:
    """A row per setting or amount of each run, beside the full recipe's."""
    rows = []
    for stage, one in runs.items():
        full = defaults[stage] | ({"carb.eta": 0.25} if size_of(runs) == "B" else {})
        if stage == "pretrain":
            rows += amounts_of_pretraining(one, full["optim.epochs"])
        for key, what, source in FULL[stage]:
            test = "matching" if key == "stride" else key.split(".")[0]
            if stage != "evaluate" or test in results:
                rows.append(compare(stage, key, what, one.config.get(key), full[key], source))
    if found := results.get("detection"):
        official = find_benchmark(found["benchmark"]).official
        for split in ("train", "test"):
            what, here = f"annotated faces, {split}", found[f"{split}_images"]
            rows.append(compare("evaluate", "faces", what, here, official[split], PAPER))
    return rows


def amounts_of_pretraining(run: RecordedRun, epochs: float) -> list[RecipeRow]:
    """The rows of the training set's size and of the images seen."""
    source = "PROTOCOL 1.4; the paper prints 162,770, with MAFL's faces"
    images, seen = run.provenance.get("images"), int(FULL_IMAGES * epochs)
    return [
        compare("pretrain", "images", "images in the training set", images, FULL_IMAGES, source),
        compare(
            "pretrain", "images_seen", "images seen in all steps", run.images_seen, seen, PAPER
        ),
    ]


def compare(stage: str, key: str, what: str, here: Any, full: Any, source: str) -> RecipeRow:
    """One row; counts that differ by less than a thousandth are the same."""
    if here is None:
        verdict = "unknown"
    elif here == full or isinstance(full, int) and abs(here - full) < 1e-3 * full:
        verdict = "same"
    else:
        verdict = "reduced" if protocol.is_reduced(key, here, full) else "differs"
    return RecipeRow(stage, what, here, full, source, verdict)


def size_of(runs: dict[str, RecordedRun]) -> str | None:
    """DeiT's letter for the model of stage 1, or None where it has another shape."""
    shape = runs["pretrain"].config if "pretrain" in runs else {}
    return SIZES.get(shape.get("model.width", 0)) if shape.get("model.depth") == 12 else None


def paper_numbers(runs: dict[str, RecordedRun], results: dict) -> dict:
    """The paper's numbers for this model's size, or all where it has none: matching (same,
    different), detection.
    """
    size = size_of(runs)
    name = f"{size}-{runs['correspond'].config['carb.dim']}" if "correspond" in runs else ""
    chosen = (
        [name]
        if name in MATCHING_TARGETS
        else [key for key in MATCHING_TARGETS if size in (None, key[0])]
    )
    targets = results.get("detection", {}).get("paper_targets", {})
    return {
        "size": size,
        "matching": {key: MATCHING_TARGETS[key] for key in chosen},
        "detection": {size: targets[size]} if size in targets else targets,
    }
