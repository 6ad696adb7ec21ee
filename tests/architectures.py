"""Tiny instances of timm's architectures, a block or two of each; import it after `pytest.importorskip("timm")`."""

import io
import warnings
from collections.abc import Callable
from functools import partial

import onnx
import torch
from timm.layers import ConvNormAct, set_layer_config
from timm.models import (
    beit,
    byobnet,
    convnext,
    deit,
    densenet,
    efficientformer,
    efficientnet,
    eva,
    hiera,
    levit,
    maxxvit,
    metaformer,
    mlp_mixer,
    mobilenetv3,
    regnet,
    resnet,
    swin_transformer,
    vgg,
    vision_transformer,
    xcit,
)
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.inception_v3 import InceptionA

CLASSES = 5
TOKENS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_classes": CLASSES}
ONE_BLOCK = {**TOKENS, "depth": 1, "num_heads": 2}
SMALL_BLOCKS = [["ds_r1_k3_s2_e1_c8_se0.25"], ["ir_r1_k5_s2_e4_c12_se0.25", "ir_r1_k3_s1_e4_c12"]]


class Inception(torch.nn.Module):
    """The first block of branches of Inception v3 behind a stem: the widths of the whole are fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 8, kernel_size=3, stride=2)
        self.branches = InceptionA(8, 8)
        self.head = torch.nn.Linear(232, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.branches(self.stem(images)).mean((2, 3)))


def _vgg() -> torch.nn.Module:
    module = vgg.VGG([8, "M", 8, "M"], num_classes=CLASSES, norm_layer=torch.nn.BatchNorm2d)
    module.pre_logits = vgg.ConvMlp(8, 16, 7)  # 4096 wide otherwise
    module.head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, CLASSES))
    return module


def _maxxvit(*blocks: str) -> torch.nn.Module:
    config = maxxvit.MaxxVitCfg(
        embed_dim=(16, 16),
        depths=(1, 1),
        block_type=blocks,
        stem_width=8,
        transformer_cfg=maxxvit.MaxxVitTransformerCfg(dim_head=8, window_size=(4, 4)),
    )
    return maxxvit.MaxxVit(config, img_size=32, num_classes=CLASSES)


ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {
    "vit": partial(vision_transformer.VisionTransformer, **ONE_BLOCK),
    "deit": partial(deit.VisionTransformerDistilled, **ONE_BLOCK),
    "swin": partial(
        swin_transformer.SwinTransformer,
        img_size=32,
        embed_dim=16,
        depths=(2, 1),
        num_heads=(2, 2),
        window_size=4,
        num_classes=CLASSES,
    ),
    "convnext": partial(convnext.ConvNeXt, depths=(1,) * 4, dims=(8, 8, 16, 16), num_classes=CLASSES),
    "mlp_mixer": partial(mlp_mixer.MlpMixer, **TOKENS, num_blocks=1),
    "efficientnet": partial(
        efficientnet.EfficientNet, decode_arch_def(SMALL_BLOCKS), stem_size=8, num_features=16, num_classes=CLASSES
    ),
    "mobilenetv3": partial(
        mobilenetv3.MobileNetV3,
        decode_arch_def(SMALL_BLOCKS),
        stem_size=8,
        num_features=16,
        act_layer=torch.nn.Hardswish,
        se_layer=partial(efficientnet.SqueezeExcite, gate_layer="hard_sigmoid"),
        num_classes=CLASSES,
    ),
    "regnet": lambda: regnet.RegNet(
        regnet.RegNetCfg(depth=5, w0=8, wa=16, wm=2.2, group_size=4, se_ratio=0.25, stem_width=8), num_classes=CLASSES
    ),
    "resnet": partial(
        resnet.ResNet, resnet.Bottleneck, layers=(1,) * 4, stem_width=8, channels=(4, 4, 8, 8), num_classes=CLASSES
    ),
    "vgg": _vgg,
    "densenet": partial(densenet.DenseNet, growth_rate=4, block_config=(2, 1), num_classes=CLASSES),
    "inception": Inception,
    "poolformer": partial(metaformer.MetaFormer, depths=(1,) * 4, dims=(8, 8, 16, 16), num_classes=CLASSES),
    "metaformer": partial(
        metaformer.MetaFormer,
        depths=(1, 1),
        dims=(8, 32),
        token_mixers=[metaformer.SepConv, metaformer.Attention],
        norm_layers=[metaformer.LayerNorm2dNoBias, metaformer.LayerNormNoBias],
        res_scale_init_values=(None, 1.0),
        num_classes=CLASSES,
    ),
    "maxvit": partial(_maxxvit, "C", "M"),
    "levit": partial(
        levit.Levit, img_size=32, embed_dim=(16, 16), key_dim=8, depth=(1, 1), num_heads=(2, 2), stem_type="s8",
        num_classes=CLASSES,
    ),
    "efficientformer": partial(
        efficientformer.EfficientFormer, depths=(1,) * 4, embed_dims=(8, 8, 16, 32), num_vit=1, num_classes=CLASSES
    ),
    "xcit": partial(xcit.Xcit, **ONE_BLOCK, cls_attn_layers=1),
    "beit": partial(beit.Beit, **ONE_BLOCK, init_values=0.1, use_rel_pos_bias=True),
    "eva": partial(eva.Eva, **ONE_BLOCK, swiglu_mlp=True, scale_mlp=True, use_rot_pos_emb=True),
    "coatnet": partial(_maxxvit, "C", "T"),
    "hiera": partial(
        hiera.Hiera, img_size=(32, 32), embed_dim=16, num_heads=2, stages=(1, 1), q_pool=1, mask_unit_size=(4, 4),
        mask_unit_attn=(True, False), num_classes=CLASSES,
    ),
    "repvgg": lambda: byobnet.ByobNet(
        byobnet.ByoModelCfg(
            blocks=(byobnet.ByoBlockCfg(type="rep", d=2, c=8), byobnet.ByoBlockCfg(type="rep", d=1, c=12)), stem_type="rep", stem_chs=8, stem_pool=""
        ),
        num_classes=CLASSES,
    ),
}  # fmt: skip


def build(name: str) -> torch.nn.Module:
    """A tiny instance in evaluation mode, seeded; weights keep the size of signals, and no scale is 0 or tiny."""
    torch.manual_seed(0)
    with set_layer_config(exportable=True):
        module = ARCHITECTURES[name]().eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.randn(parameter.shape, generator=random)
            if parameter.ndim > 1:
                parameter.copy_(drawn * (1.5 / parameter[0].numel()) ** 0.5)
            else:
                parameter.add_(0.2 * drawn)
    return module


def export(module: torch.nn.Module, size: int) -> onnx.ModelProto:
    """An ONNX model by torch's older exporter, which is the faster one by far, and spells many things differently."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, size, size),),
            buffer,
            dynamo=False,
            opset_version=18,
            input_names=["image"],
            output_names=["output"],
            dynamic_axes={"image": {0: "batch"}},
        )
    return onnx.load_from_string(buffer.getvalue())
