"""JPEG decoders alone: images per second of one core, and how far pixels differ from Pillow's."""

import io
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from bench.repeat import interleave, ratio, summary


def by_pil(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))


def by_cv2(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "Pillow": by_pil,
    "simplejpeg": simplejpeg.decode_jpeg,
    "simplejpeg, fast DCT": partial(simplejpeg.decode_jpeg, fastdct=True),
    "OpenCV": by_cv2,
}


def rates(jpegs: list[bytes], repeats: int) -> list[dict]:
    """Images/s of one thread that decodes all of `jpegs`, after a round of warm-up."""
    cv2.setNumThreads(1)
    cases = {name: partial(rate, decode, jpegs) for name, decode in DECODERS.items()}
    interleave(cases, 1)
    found = interleave(cases, repeats)
    return [
        {
            "decoder": name,
            "images/s of one core": summary(each)["median"],
            "min": min(each),
            "max": max(each),
            "times Pillow": ratio(each, found["Pillow"]),
            "repeats": each,
        }
        for name, each in found.items()
    ]


def rate(decode: Callable[[bytes], np.ndarray], jpegs: list[bytes]) -> float:
    started = time.perf_counter()
    for data in jpegs:
        decode(data)
    return len(jpegs) / (time.perf_counter() - started)


def differences(jpegs: list[bytes]) -> list[dict]:
    """Distance from Pillow's pixels in grey levels; a pixel differs if one of its channels does."""
    rows = []
    for name, decode in DECODERS.items():
        most, total, differing, pixels = 0, 0, 0, 0
        for data in jpegs:
            gap = np.abs(decode(data).astype(np.int16) - by_pil(data))
            most, total = max(most, int(gap.max())), total + int(gap.sum())
            differing, pixels = (
                differing + int((gap.max(2) > 0).sum()),
                pixels + gap.shape[0] * gap.shape[1],
            )
        rows.append(
            {
                "decoder": name,
                "max difference": most,
                "mean difference": total / (3 * pixels),
                "% of pixels that differ": 100 * differing / pixels,
            }
        )
    return rows
