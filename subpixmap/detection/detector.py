"""A detector: torchvision's RetinaNet on a small backbone, with a card.

Everything in the network is a convolution: no region proposals, no normalisation over the image, no limit of
detections. What it says of a place depends only on the pixels within `halo`, so a window of any size says the same.
Weights and card lie in one safetensors file, as those of a model do.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from subpixmap.detection.images import Image
from subpixmap.errors import InputError
from subpixmap.files import write_atomic, write_json
from subpixmap.model.card import card_path
from subpixmap.model.checkpoint import fill, tensors_of
from subpixmap.model.sealed import fields_from_json, hash_of, require_no_pickle, unseal

if TYPE_CHECKING:
    from torchvision.models.detection import RetinaNet

KEY = "subpixmap-detector"
STRIDE = 8
"""Of the deepest features, network pixels: windows begin at multiples of it."""
TOLERANCE = 0.1
"""Share by which pixels of an image may be larger or smaller than those of the training images."""
EVIDENCE = ("simulated", "aerial")
_LEVELS = ("layer1", "layer2")
_UNUSED = ("layer3", "layer4", "avgpool", "fc")
_MOST, _WIDEST = 64, 512
_TYPE_MAX = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


@dataclass(frozen=True)
class DetectorCard:
    """Description, training data and limits of a detector."""

    name: str
    objects: tuple[str, ...]
    """In the order of the network's outputs."""
    bands: tuple[str, ...]
    """Of the images, in order."""
    dtype: str
    """Of the images: values are divided by the largest of the type (float32: by 1)."""
    resolution: float
    """Side of a pixel of the images, metres."""
    scale: float
    """Network pixels for a pixel of the image: small objects are enlarged, large ones reduced; a power of two."""
    anchors: tuple[float, ...]
    """Sides of the boxes that the network starts from, network pixels."""
    input_mean: tuple[float, ...]
    """Per band, of the scaled values."""
    input_std: tuple[float, ...]
    sizes: Mapping[str, float]
    """Object -> median side of its boxes, metres."""
    largest: float
    """Side of the largest labelled box, metres."""
    evidence: str
    """Kind of data behind the errors: "simulated" or "aerial"."""
    channels: int = 64
    """Of the feature pyramid and of the heads."""
    score: float = 0.5
    """Detections with a lower score are left out; chosen on blocks that no gradient saw."""
    overlap: float = 0.3
    """Of two boxes that overlap by more (intersection over union), the one with the higher score stays."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Data, blocks, seeds, options."""
    error: Mapping[str, Any] = field(default_factory=dict)
    """Measured on blocks held out."""

    def __post_init__(self) -> None:
        if not self.objects or len(set(self.objects)) != len(self.objects):
            raise InputError(f"detector {self.name!r}: objects {self.objects} are empty or repeated")
        if not len(self.bands) == len(self.input_mean) == len(self.input_std) or min(self.input_std, default=0) <= 0:
            raise InputError(f"detector {self.name!r}: needs one input mean and one positive deviation per band")
        if self.dtype not in _TYPE_MAX or self.evidence not in EVIDENCE:
            raise InputError(f"detector {self.name!r}: type {self.dtype!r} or evidence {self.evidence!r} is unknown")
        if not (self.resolution > 0 and self.largest > 0 and self.anchors and min(self.anchors) > 0):
            raise InputError(f"detector {self.name!r}: resolution, sizes and anchors must be positive")
        if self.scale not in (0.125, 0.25, 0.5, 1, 2, 4):
            raise InputError(f"detector {self.name!r}: scale {self.scale} is not a power of two from 1/8 to 4")
        if max(len(self.objects), len(self.bands), len(self.anchors)) > _MOST or not 0 < self.channels <= _WIDEST:
            raise InputError(
                f"detector {self.name!r}: want at most {_MOST} objects, bands and anchors, and {_WIDEST} channels"
            )
        if not (0 < self.score < 1 and 0 < self.overlap < 1):
            raise InputError(f"detector {self.name!r}: score and overlap must be between 0 and 1")

    @property
    def step(self) -> int:
        """Pixels of an image of which windows begin at multiples."""
        return max(1, int(STRIDE / self.scale))

    @property
    def full_value(self) -> float:
        """By which values of an image are divided."""
        return _TYPE_MAX[self.dtype]

    def to_json(self) -> str:
        """The canonical text that is hashed and stored."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> DetectorCard:
        """Parse a card; unknown or missing fields are refused by name."""
        return cls(**fields_from_json(cls, text))

    def build_net(self) -> RetinaNet:
        """An untrained network of this card's shape and scaling."""
        detection, anchor_utils = _torchvision()
        anchors = anchor_utils.AnchorGenerator(sizes=(self.anchors,), aspect_ratios=((1.0,),))
        net = detection.RetinaNet(
            _Backbone(len(self.bands), self.channels),
            len(self.objects),
            anchor_generator=anchors,
            score_thresh=0.05,
            nms_thresh=0.999,  # ours comes after, over all objects together
            detections_per_img=10**9,
            topk_candidates=10**9,
        )
        net.transform = _as_it_is(list(self.input_mean), list(self.input_std))
        return net

    def require_fits(self, image: Image) -> None:
        """Refuse an image unlike the training images of the detector."""
        name = image.path.name
        if len(image.bands) != len(self.bands):
            raise InputError(
                f"{name} has {len(image.bands)} bands, but the detector needs {len(self.bands)} "
                f"({', '.join(self.bands)})"
            )
        if image.dtype != self.dtype:
            raise InputError(f"{name} is of type {image.dtype}, but the detector needs {self.dtype}; convert the image")
        if abs(image.resolution / self.resolution - 1) > TOLERANCE:
            raise InputError(
                f"{name} has pixels of {image.resolution:.3g} m, but the detector was trained on "
                f"{self.resolution:.3g} m: "
                "resample the image, or train a detector for it"
            )


@dataclass(frozen=True)
class Detector:
    """A network with its card."""

    net: RetinaNet
    card: DetectorCard
    sha256: str
    """Over card and tensors."""
    halo: int
    """Pixels of an image around a place on which its detection depends; a multiple of `card.step`."""

    @classmethod
    def of(cls, net: RetinaNet, card: DetectorCard) -> Detector:
        """A detector that is not on disk, in evaluation mode."""
        return cls(net.eval(), card, _hash(card, net), measure_halo(net, card))

    def to(self, device: str) -> Detector:
        """The detector on a device; a GPU that is not there is refused."""
        require_device(device)
        self.net.to(device)
        return self


class _Backbone(nn.Module):
    """The first layers of a ResNet-18 and a feature pyramid over them, of which the finest level is used."""

    def __init__(self, n_bands: int, channels: int) -> None:
        super().__init__()
        from torchvision.models import resnet18
        from torchvision.models._utils import IntermediateLayerGetter
        from torchvision.ops import FeaturePyramidNetwork

        body = resnet18(weights=None)
        for name in _UNUSED:
            setattr(body, name, nn.Identity())
        body.conv1 = nn.Conv2d(n_bands, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.body = IntermediateLayerGetter(body, {name: str(k) for k, name in enumerate(_LEVELS)})
        self.fpn = FeaturePyramidNetwork([64, 128], channels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict([("0", self.fpn(self.body(x))["0"])])


def save_detector(path: Path, net: RetinaNet, card: DetectorCard) -> Detector:
    """Write FILE.safetensors, whole or not at all, and its card beside it for people; return the detector."""
    require_name(path)
    metadata = {KEY: json.dumps({"card": card.to_json(), "sha256": _hash(card, net)})}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(tensors_of(net), metadata))
    write_json(card_path(path), json.loads(card.to_json()))
    return load_detector(path)


def load_detector(path: Path) -> Detector:
    """Load a detector; nothing in it is executed.

    Raises
    ------
    InputError
        No such file, not safetensors (say a pickle), another kind of checkpoint, changed since it was saved, or not
        what its card says.
    """
    if not path.is_file():
        raise InputError(f"detector {path} does not exist")
    text, stated, arrays = unseal(path, key=KEY)
    try:
        card = DetectorCard.from_json(text)
    except (InputError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    if not all(np.isfinite(values).all() for values in arrays.values()):
        raise InputError(f"{path}: a weight is not a finite number")
    net = card.build_net()
    fill(net, arrays, path)
    return Detector(net.eval().requires_grad_(False), card, stated, measure_halo(net, card))


def load_weights(net: RetinaNet, path: Path) -> int:
    """Start from published weights: tensors of the same name and shape are taken; how many there were.

    A backbone's own names (`conv1.weight`, as of an ImageNet ResNet-18) are found too. The kernels of the first layer
    are taken for other bands by their mean.

    Raises
    ------
    InputError
        No such file, a pickle, or a file without tensors that fit.
    """
    if not path.is_file():
        raise InputError(f"file of weights {path} does not exist")
    require_no_pickle(path)
    own = net.state_dict()
    taken: dict[str, Tensor] = {}
    try:
        with safe_open(str(path), framework="pt") as file:
            for key in file.keys():
                for name in (key, f"backbone.body.{key}", key.replace("backbone.body.body.", "backbone.body.")):
                    if name in own and (fitted := _fitted(file.get_tensor(key), own[name])) is not None:
                        taken[name] = fitted
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error})") from error
    if len(taken) < 10:
        raise InputError(
            f"{path}: {len(taken)} of its tensors fit the network (a RetinaNet with ResNet-18), too few: give other "
            "weights"
        )
    net.load_state_dict(own | taken)
    return len(taken)


def measure_halo(net: RetinaNet, card: DetectorCard) -> int:
    """Pixels of an image, on every side of a place, on which what the network says of it depends.

    The gradient of one output is followed through a copy with positive weights, in which nothing cancels.
    """
    probe = copy.deepcopy(net).eval().double()
    for name, parameter in probe.named_parameters():
        parameter.requires_grad_(False).fill_(0.0 if name.endswith("bias") else 1e-3)
    for module in probe.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.weight.data.fill_(1.0)
        elif isinstance(module, nn.MaxPool2d):  # a maximum has the gradient of one pixel; any may be it
            module.__class__ = _MeanPool
    side = 256
    pixels = torch.ones(1, len(card.bands), side, side, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        features = probe.backbone(pixels)["0"]
        out = probe.head.classification_head.cls_logits(probe.head.classification_head.conv(features))
        middle = out.shape[-1] // 2
        (seen,) = torch.autograd.grad(out[0, 0, middle, middle], pixels)
    reached = seen[0].abs().sum(dim=0).nonzero()
    centre = (middle + 0.5) * side / out.shape[-1]
    radius = float((reached + 0.5 - centre).abs().max()) + 1
    interpolation = 2 if card.scale != 1 else 0
    return -(-int(radius / card.scale + interpolation + 1) // card.step) * card.step


def require_device(device: str) -> None:
    """Refuse a device that is unknown or not there."""
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device {device}: choose cpu, or cuda on a machine with a GPU")


def require_name(path: Path) -> None:
    """Refuse a name of a detector that is not one of safetensors."""
    if path.suffix != ".safetensors":
        raise InputError(f"--output {path}: the name of a detector must end in .safetensors")


class _MeanPool(nn.MaxPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


def _fitted(tensor: Tensor, like: Tensor) -> Tensor | None:
    """A tensor in the shape of another; None if it has another meaning."""
    if tensor.shape == like.shape:
        return tensor.to(like.dtype)
    if (
        tensor.dim() == 4
        and like.dim() == 4
        and tensor.shape[0] == like.shape[0]
        and tensor.shape[2:] == like.shape[2:]
    ):
        mean = tensor.mean(dim=1, keepdim=True) * tensor.shape[1] / like.shape[1]
        return mean.expand_as(like).to(like.dtype).clone()
    return None


def _hash(card: DetectorCard, net: nn.Module) -> str:
    return hash_of(card.to_json(), {name: tensor.numpy() for name, tensor in tensors_of(net).items()})


def _as_it_is(mean: list[float], std: list[float]) -> Any:
    """What torchvision does with images before the network, without its resizing: pixels keep their size."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    class Unresized(GeneralizedRCNNTransform):  # type: ignore[misc]
        def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
            return image, target

    return Unresized(1, 1, mean, std, size_divisible=STRIDE)


def _torchvision() -> tuple[Any, Any]:
    try:
        from torchvision.models import detection
        from torchvision.models.detection import anchor_utils
    except ImportError as error:
        raise InputError(f"detectors need torchvision ({error}); install subpixmap[detect]") from error
    return detection, anchor_utils
