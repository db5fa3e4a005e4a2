"""A trained model as a torch module: `scemae.load(RUN)`, its features, and `match`."""

import copy
import hashlib
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from scemae.api.pictures import Picture, boxes_of, frames_of, photograph_of
from scemae.distributed.process_group import choose_device
from scemae.errors import ConfigError, DataError, FramingWarning
from scemae.evaluation.landmarks.features import Trunk
from scemae.evaluation.photographs import framing_check, marked, photograph_features
from scemae.evaluation.photographs.marked import Panel
from scemae.evaluation.photographs.photograph import check_points
from scemae.evaluation.photographs.photograph_features import BoxedPhotograph, TrainedFeatures
from scemae.evaluation.photographs.photograph_features import Detector as FoundDetector
from scemae.evaluation.subject import MATCHING, Line
from scemae.files import hub
from scemae.interop import export, exported
from scemae.interop.exported import Exported, WeightsSource
from scemae.models.carb import CARB
from scemae.models.cover_and_stride import SHIFTS
from scemae.models.vit import Encoder
from scemae.runs import given
from scemae.runs.given import Given
from scemae.runs.usual_frames import Framing

FURTHER = ", trained further"
AT_ONCE = 8  # pictures encoded together where no graph is kept, times the shifts of the stride


@dataclass
class Matches:
    """Points of one picture found in another; coordinates are pixels of their own picture."""

    points: np.ndarray  # (l, 2), as asked
    matches: np.ndarray  # (l, 2), where they were found
    cosines: np.ndarray  # (l,) of the two features
    returns: np.ndarray  # (l,) from the point to the match of its match, px of the 96-px crop
    first: BoxedPhotograph
    second: BoxedPhotograph
    title: str  # of the model

    @property
    def framing(self) -> tuple[Framing | None, Framing | None]:
        """How usual the frames of both pictures are; None where that was not checked."""
        return self.first.framing, self.second.framing

    def plot(self) -> Figure:
        """Both pictures side by side, a point in one colour in both."""
        labels = [str(i + 1) for i in range(len(self.points))]
        asked, answer = f"{self.first.path.name}: points", f"{self.second.path.name}: found, "
        one, two = self.first, self.second
        return marked.figure_of(
            [
                Panel(one.image, one.box, self.points, asked, False, labels, one.is_unusual),
                Panel(
                    two.image,
                    two.box,
                    self.matches,
                    answer + self.title,
                    True,
                    labels,
                    two.is_unusual,
                ),
            ]
        )


class Model(nn.Module):
    """Trained features: of stage 2 projected, of stage 1 as they are.

    In eval mode, as loaded, no graph is kept. After `train()` gradients reach all weights; freeze
    parts with `requires_grad_` afterwards. There is no dropout, so the features stay the same.
    """

    def __init__(self, origin: Given, trained: TrainedFeatures) -> None:
        """`load` makes one."""
        super().__init__()
        self._was_trained = False
        self._origin, self._trained = origin, trained
        self.trunk = trained.subject.trunk.network
        self.projectors = nn.ModuleList(trained.subject.heads)
        self._loaded, self._sources = self._contents(), sources_of(origin)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where it computes; `to` moves it."""
        return next(self.parameters()).device

    @property
    def title(self) -> str:
        """Its method and size, such as "SCE-MAE DeiT-S"."""
        return self._trained.subject.title

    @property
    def width(self) -> int:
        """d, the channels of its features."""
        return self._line.dim

    @property
    def _line(self) -> Line:
        return self._trained.subject.of(MATCHING)[-1]

    @property
    def _trunk(self) -> Trunk:
        return self._trained.subject.trunk

    def train(self, mode: bool = True) -> "Model":
        """Keep graphs and let gradients reach all weights; or, with False, neither."""
        super().train(mode)
        self._was_trained |= mode
        self.requires_grad_(mode)
        return self

    def forward(self, images: Any, stride: int = 2, box: Any = None) -> Tensor:
        """Features (b, d, 96/stride, 96/stride) of what the model sees of b images, not of length
        one.

        images: a path, an image of PIL, an array (h, w, 3) or a tensor (3, h, w), of uint8 or of
        floats in [0, 1]; a list of them, an array (b, h, w, 3) or a tensor (b, 3, h, w). Each is
        framed as `scemae match` does: `box` (x0, y0, x1, y1) or a function that finds it, of which
        the middle 0.71 is seen, or the largest centred square; a float tensor of 136x136 is a frame
        already. stride: 1, 2, 4 or 8 pixels of the 96 that are seen. A trunk that is no ViT matches
        at 96x96 whatever the stride. Raises DataError, ConfigError.
        """
        if stride not in SHIFTS:
            raise ConfigError(f"stride: found {stride!r}, one of 1, 2, 4 or 8 was needed")
        frames = frames_of(images, box).to(self.device)
        if self.training and torch.is_grad_enabled():
            return self._features(frames, stride)
        with torch.no_grad():
            return torch.cat([self._features(part, stride) for part in frames.split(AT_ONCE)])

    def _features(self, frames: Tensor, stride: int) -> Tensor:
        side = self._trunk.side(stride, matching=True)
        return self._line.head(self._trunk.encode(frames, stride), side).float()

    def match(self, first: Picture, second: Picture, points: Any, *, box: Any = None) -> Matches:
        """Find points (l, 2), x and y in pixels of the first picture, in the second.

        The numbers are those of `scemae match`. box: one for both pictures, a function that finds
        it in a picture, or a pair with one of these or None for each. A FramingWarning says where
        a frame is unlike training pictures. Raises DataError for what is no picture or no points,
        ConfigError for a point outside the part that the model sees.
        """
        asked = points_of(points)
        corners = boxes_of(box, 2)
        one, two = (photograph_of(*each) for each in zip((first, second), corners, (1, 2)))
        check_points(asked, one.box, one.path, option="points")
        found = self.trained().match(one, two, asked)
        self.check_framing([one, two])
        return Matches(
            found.points, found.matches, found.cosines, found.returns, one, two, self.title
        )

    def check_framing(
        self, photographs: list[BoxedPhotograph], detector: FoundDetector | None = None
    ) -> None:
        """Rate the frame of each photograph; a FramingWarning for each that is unusual."""
        if self._was_trained and self._contents()["backbone"] != self._loaded["backbone"]:
            text = "framing is not checked: the model was trained further"
            warnings.warn(text, FramingWarning, stacklevel=3)
            return
        trained = self.trained()
        record = framing_check.find_record(trained, _warn, detector)
        framing_check.check(trained, photographs, record, _warn, remedy="give box=")

    def trained(self) -> TrainedFeatures:
        """What `scemae match` and `scemae detect` compute with, on this model's device."""
        self._trained.device = self.device
        return self._trained

    def digests(self) -> dict[str, str]:
        """SHA-256 of its weights, as "backbone" and "projector": those of the checkpoints, or of
        what they have become where they were trained further.
        """
        now, subject = self._contents(), self._trained.subject
        found = {
            part: one.weights_sha256 if now[part] == self._loaded[part] else now[part]
            for part, one in self._sources.items()
        }
        self._trained.digests, subject.backbone = found, found["backbone"]
        for line in subject.lines:
            line.projector = found["projector"] if line.projector else None
        return found

    def _contents(self) -> dict[str, str]:
        """SHA-256 of the tensors themselves."""
        found = {"backbone": _digest_of(self.trunk)}
        if len(self.projectors):
            found["projector"] = _digest_of(self.projectors)
        return found

    def save_pretrained(self, out: str | Path, *, onnx: bool = False) -> None:
        """Write what `scemae export` writes: a folder for timm, transformers and `scemae.load`.

        onnx: encoder.onnx and features.onnx too. Raises RunFolderError where `out` is there,
        ConfigError for a model that is not the paper's.
        """
        if onnx:
            export.check_packages()
        export.write(Path(out), self._networks(), onnx=onnx)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, device: str = "auto") -> "Model":
        """`load` by the name that Hugging Face's classes give it.

        name: a folder of `save_pretrained`, or OWNER/NAME on the hub. Raises CheckpointError.
        """
        is_here = Path(name).exists() or hub.is_on_hub(name)
        is_name = isinstance(name, str) and hub.NAME.fullmatch(name) is not None
        return load(f"{hub.SIGN}{name}" if is_name and not is_here else name, device=device)

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Put what `save_pretrained` writes on the hub as OWNER/NAME; returns its address.

        Needs a login (`hf auth login`). Raises CheckpointError where the hub refuses.
        """
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(Path(scratch) / "model")
            return hub.upload(Path(scratch) / "model", name, private=private)

    def _networks(self) -> Exported:
        encoder, found = self.trunk, self._trained.subject.projections
        if not isinstance(encoder, Encoder) or any(one.method != "carb" for one in found):
            raise ConfigError(
                f"{self.title}: found a model of another method; the encoder of method=mae, with "
                "or without a projector of method=carb, can be saved"
            )
        sources = {part: self._source(part, digest) for part, digest in self.digests().items()}
        networks = Exported(self._origin.backbone, _on_cpu(encoder), sources["backbone"])
        if found:
            networks.projector = _on_cpu(cast(CARB, found[0].network).projector)
            networks.carb, networks.projector_source = found[0].carb, sources["projector"]
        return networks

    def _source(self, part: str, digest: str) -> WeightsSource:
        """Where weights of this digest come from."""
        known = self._sources[part]
        if known.weights_sha256 == digest:
            return known
        name = f"{known.checkpoint.removesuffix(FURTHER)}{FURTHER}"
        return replace(known, checkpoint=name, weights_sha256=digest)

    def __deepcopy__(self, memory: dict) -> "Model":
        raise ConfigError("found a copy of a model, whose parts would be shared; load it again")


def load(run: str | Path, *, device: str = "auto") -> Model:
    """The trained model of a RUN, in eval mode.

    run: a run folder of stage 1 or 2 (its backbone is found), one of its checkpoints, the folder of
    a chain or a demo, or a folder that `scemae export` or `save_pretrained` wrote, also on the hub
    of Hugging Face (hf-hub:OWNER/NAME). device: auto, cpu or cuda. Raises CheckpointError,
    RunFolderError, LaunchError.
    """
    origin = given.find(Path(run))
    return Model(origin, photograph_features.of_given(origin, choose_device(device)))


def sources_of(origin: Given) -> dict[str, WeightsSource]:
    """Where the weights of a "backbone" and a "projector" come from. Raises CheckpointError."""
    if origin.is_export:
        read = exported.read(origin.backbone, with_projector=origin.projector is not None)
        found = {"backbone": read.source, "projector": read.projector_source}
        return {part: one for part, one in found.items() if one is not None}
    places = {"backbone": origin.backbone, "projector": origin.projector}
    return {part: export.source_of(place) for part, place in places.items() if place}


def points_of(points: Any) -> np.ndarray:
    """Points as an array (l, 2). Raises DataError for anything else."""
    try:
        found = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not np.isfinite(found).all():
        raise DataError(
            f"points: found {str(points)[:80]!r}, a list of (x, y) in pixels of the first picture "
            "was needed"
        )
    return found


def _warn(text: str) -> None:
    # 5: the line that called `match` or `predict`, over framing_check and `check_framing`
    warnings.warn(text, FramingWarning, stacklevel=5)


def _on_cpu(network: nn.Module) -> Any:
    return copy.deepcopy(network).cpu().float().eval().requires_grad_(False)


def _digest_of(network: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).data)
    return found.hexdigest()
