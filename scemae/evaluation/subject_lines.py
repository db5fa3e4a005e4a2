"""Which lines (rows of tables) are measured on a trunk and its projectors."""

from torch.nn import functional

from scemae.evaluation.landmarks.features import Head, Trunk
from scemae.evaluation.landmarks.regression import join_stages
from scemae.evaluation.projection import Projection
from scemae.evaluation.subject import DETECTION, EMBEDDING, FEW_SHOT, MATCHING, Line
from scemae.models import hypercolumn


def of_tokens(trunk: Trunk, found: list[Projection]) -> list[Line]:
    """SCE-MAE (paper 4.1, 4.2): matching and few shots use the projected features, detection both
    stages. A projector that was trained without repellence is Table 4's row with clusters alone.
    """
    lines = [
        Line(MATCHING, 4, "raw", trunk.width, trunk.join, cluster=False, lcr=False),
        Line(DETECTION, 2, "raw", trunk.width, unit(trunk.join)),
    ]
    for one in found:
        rows = _of_projection(trunk, one)
        for row in rows:
            row.added = f"{one.added} ({one.run})" if one.run else one.added
        lines += rows
    return lines


def _of_projection(trunk: Trunk, one: Projection) -> list[Line]:
    projector, variant = one.digest, one.variant
    if not one.has_repellence:
        row = (MATCHING, 4, one.name, one.dim, one.head, projector, variant, None, True, False)
        return [Line(*row)]
    both, alone = joined(trunk.join, one.head), unit(one.head)
    return [
        Line(MATCHING, 1, one.name, one.dim, one.head, projector, variant, None, True, True),
        Line(
            DETECTION,
            2,
            one.name,
            trunk.width + one.dim,
            both,
            projector,
            variant,
            hypercolumn=False,
            stage_2=one.dim,
        ),
        Line(FEW_SHOT, 3, one.name, one.dim, alone, projector, variant),
        Line(EMBEDDING, 5, one.name, one.dim, one.head, projector, variant),
    ]


def of_hypercolumn(trunk: Trunk, found: list[Projection]) -> list[Line]:
    """CL and LEAD: matching and few shots use the projected features, detection the raw
    hypercolumn.

    (PROTOCOL 4.4.) With each block of length one (PROTOCOL 4.5) the hypercolumn is a row of Table 4
    and, for LEAD, a panel of figure 5 (paper 4.3).
    """
    lines = [
        Line(MATCHING, 4, "hypercolumn", trunk.width, hypercolumn.join_normalised),
        Line(DETECTION, 2, "hypercolumn", trunk.width, trunk.join, hypercolumn=True),
    ]
    for one in found:
        tests = (
            ((MATCHING, 1), (FEW_SHOT, 3))
            if one.method == "lead"
            else ((MATCHING, 1), (FEW_SHOT, 3), (EMBEDDING, 5))
        )
        lines += [
            Line(test, table, one.name, one.dim, one.head, one.digest, one.variant)
            for test, table in tests
        ]
    if not found or any(one.method == "lead" for one in found):
        lines.append(Line(EMBEDDING, 5, "hypercolumn", trunk.width, hypercolumn.join_normalised))
    return lines


def of_descriptor(trunk: Trunk) -> list[Line]:
    """DVE, or any other backbone: one kind of features for every test."""
    lines = [
        Line(test, table, "features", trunk.width, trunk.join)
        for test, table in ((MATCHING, 1), (DETECTION, 2), (FEW_SHOT, 3), (EMBEDDING, 5))
    ]
    lines[1].hypercolumn = False
    return lines


def unit(head: Head) -> Head:
    return lambda maps, side: functional.normalize(head(maps, side), dim=1)


def joined(first: Head, second: Head) -> Head:
    """Both stages, concatenated (paper 4.2), each of length one (PROTOCOL 4.7 [D])."""
    return lambda maps, side: join_stages(first(maps, side), second(maps, side))
