"""The README.md of an export: what the files are, and how timm, transformers, the hub's mixin and
scemae read it.

Its Python is run by a test. The head of the page is what the hub of Hugging Face reads.
"""

import json


def card(facts: dict) -> str:
    """The text of OUT/README.md, of the facts that config.json holds under "scemae"."""
    options, pixels, source = facts["encoder"], facts["pixels"], facts["source"]
    rows = "\n".join(
        f"| `{name}` | {found['reader']} | {found['difference']:.1e} | {found['largest']:.3g} |"
        for name, found in facts["parity"].items()
    )
    projector = PROJECTOR.format(**facts["projector"]) if "projector" in facts else ""
    return CARD.format(
        side=options["img_size"],
        tokens=1 + (options["img_size"] // options["patch_size"]) ** 2,
        rows=rows,
        width=options["embed_dim"],
        what="projected features" if projector else "features",
        projector=projector,
        onnx=ONNX if "encoder.onnx" in facts["parity"] else "",
        **pixels,
        **source,
        origin=json.dumps(source["adopted"])
        if source["adopted"]
        else "trained by `scemae pretrain`",
        version=facts["version"],
    )


CARD = """\
---
library_name: timm
pipeline_tag: image-feature-extraction
tags: [timm, transformers, scemae, self-supervised, facial-landmarks]
---

# An encoder of SCE-MAE

{width} channels, {side}x{side} pixels in, {tokens} tokens out (CLS, then the patches row by row).
Checkpoint `{checkpoint}` (SHA-256 of its weights `{weights_sha256}`), {origin}; exported by scemae
{version}. `folder` is this folder's path.

With timm (a path without `?` and `#`; `hf-hub:OWNER/NAME` once it is on the hub):

```python
import timm
import torch

model = timm.create_model(f"local-dir:{{folder}}", pretrained=True).eval()
mean, std = (torch.tensor(part).view(3, 1, 1) for part in ({mean}, {std}))
tokens = model.forward_features((images - mean) / std)  # images (b, 3, {side}, {side}) in [0, 1]
```

With transformers, which takes timm to build it:

```python
from transformers import AutoModel

model = AutoModel.from_pretrained(folder).eval()
tokens = model((images - mean) / std).last_hidden_state
```

With huggingface_hub's mixin, as a class of your own:

```python
from huggingface_hub import PyTorchModelHubMixin
from timm.models import VisionTransformer


class Encoder(VisionTransformer, PyTorchModelHubMixin):
    def __init__(self, model_args: dict):
        super().__init__(**model_args, num_classes=0)


model = Encoder.from_pretrained(folder).eval()
tokens = model.forward_features((images - mean) / std)
```

With scemae, from a picture of any size to its {what}:

```python
import scemae

model = scemae.load(folder)
features = model("face.jpg", stride=2)  # (1, d, 48, 48)
```

Where `import timm` fails with "operator torchvision::nms does not exist", torch is a build for CPUs
and torchvision one for CUDA: `pip install --force-reinstall --no-deps torchvision --index-url
https://download.pytorch.org/whl/cpu`, or `import scemae.models.torchvision_cpu` first.
{projector}{onnx}
Faces are framed as CelebA's aligned ones: a square box resized to 136x136, of which the middle
{side}x{side} is the image; timm's own transform of a square picture does that.

| file | read back by | largest difference | largest value |
|---|---|---|---|
{rows}
"""
PROJECTOR = """
`projector.safetensors` maps the patch tokens as a map (b, {width}, h, w) to {out} channels, of
length one at each place (kind {kind}: `scemae/models/projector.py`; of `linear`: one 1x1
convolution, then L2 normalisation).
"""
ONNX = """
`encoder.onnx`: input `images` (b, 3, h, w) normalised as above, output `tokens`; `features.onnx`,
if present, gives `features`, the projected map. Any batch size; opset 18.
"""
