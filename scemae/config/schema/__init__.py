"""Settings of each command as dataclasses: name, type, meaning. Defaults live in configs/*.yaml.

Sections are cut by consequence: model, decoder, carb, data, optim and loop change results; runtime
(device, precision, ZeRO stage, workers) changes them by rounding at most. The comment at or above a
field is its description in the reference pages (docs/reference.py). "paper" is SCE-MAE (CVPR 2024),
"PROTOCOL" is docs/PROTOCOL.md, and [U] marks what the paper leaves open (PROTOCOL 1.6).
"""

from scemae.config.schema.evaluation import EvaluateConfig, TablesConfig
from scemae.config.schema.jobs import SubmitConfig, SweepConfig
from scemae.config.schema.training import CorrespondConfig, PretrainConfig

SCHEMAS: dict[str, type] = {
    "pretrain": PretrainConfig,
    "correspond": CorrespondConfig,
    "evaluate": EvaluateConfig,
    "tables": TablesConfig,
    "submit": SubmitConfig,
    "sweep": SweepConfig,
}
