"""Tiny models of our own in timm's registry, so that tests export in a second and can misbehave on purpose.

Import it after `pytest.importorskip("timm")`. `timm:pmsm_plain` is the ordinary one, with pretrained weights on the hub
under a name that the hub does not have.
"""

from pathlib import Path

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

HUB_NAME = "timm/pmsm_plain.made_up"
CLASSES = 5
_CONFIG = {
    "input_size": (3, 16, 16),
    "num_classes": CLASSES,
    "classifier": "head",
    "crop_pct": 0.9,
    "mean": (0.1, 0.2, 0.3),
    "std": (0.4, 0.5, 0.6),
    "interpolation": "bicubic",
}
default_cfgs = generate_default_cfgs(
    {
        "pmsm_plain.made_up": {**_CONFIG, "hf_hub_id": "timm/"},
        "pmsm_plain.squashed": {**_CONFIG, "crop_mode": "squash"},
        **{f"pmsm_{name}.untrained": _CONFIG for name in ("one_image", "of_values", "large")},
    }
)


class Plain(torch.nn.Module):
    """Two convolutions with batch norm, pooling, a layer of scores."""

    def __init__(self, num_classes: int = CLASSES, in_chans: int = 3, global_pool: str = "avg") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = torch.nn.Conv2d(in_chans, 4, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)
        self.block = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, stride=2), torch.nn.BatchNorm2d(6), torch.nn.ReLU())
        self.head = torch.nn.Linear(6, num_classes)
        for norm in (self.norm, self.block[1]):
            torch.nn.init.uniform_(norm.weight, 0.5, 2)
            torch.nn.init.normal_(norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.block(torch.relu(self.norm(self.stem(x))))
        return self.head(features.mean((2, 3)))


class OneImage(Plain):
    """Asks how many images there are, and remembers the answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = super().forward(x)
        return scores * (1.0 if int(x.shape[0]) < 3 else 2.0)


class OfValues(Plain):
    """Decides by what it sees, which no graph can express."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum().item() >= 0 else x.mean((2, 3))


class Large(Plain):
    """More than two gigabytes of weights, if it were ever created."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.unused = torch.nn.Linear(30_000, 30_000)


def checkpoint_filter_fn(state: dict[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What timm's loader does for weights as their authors named them."""
    return {key.replace("fc.", "head."): value for key, value in state.items()}


@register_model
def pmsm_plain(pretrained: bool = False, **settings) -> Plain:
    return build_model_with_cfg(Plain, "pmsm_plain", pretrained, pretrained_filter_fn=checkpoint_filter_fn, **settings)


@register_model
def pmsm_one_image(pretrained: bool = False, **settings) -> Plain:
    return build_model_with_cfg(OneImage, "pmsm_one_image", pretrained, **settings)


@register_model
def pmsm_of_values(pretrained: bool = False, **settings) -> Plain:
    return build_model_with_cfg(OfValues, "pmsm_of_values", pretrained, **settings)


@register_model
def pmsm_large(pretrained: bool = False, **settings) -> Plain:
    return build_model_with_cfg(Large, "pmsm_large", pretrained, **settings)


def plain(seed: int = 0, **settings) -> Plain:
    """`timm:pmsm_plain` with the weights that `--random-weights --seed SEED` gives it."""
    torch.manual_seed(seed)
    return pmsm_plain(**settings).eval()


def put_into_cache(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Lay weights where an earlier download from the hub would have left them."""
    from safetensors.torch import save_file

    repository = folder / f"models--{HUB_NAME.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    save_file(state, snapshot / "model.safetensors")
