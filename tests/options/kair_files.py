"""KAIR option files of every task, written after its key names: leading commas, tabs, ``//`` comments."""

from __future__ import annotations

import copy
import json
from typing import Any

_TRAIN: dict[str, Any] = {
    "G_lossfn_type": "l1",
    "G_lossfn_weight": 1.0,
    "E_decay": 0.999,
    "G_optimizer_type": "adam",
    "G_optimizer_lr": 2e-4,
    "G_optimizer_wd": 0,
    "G_optimizer_clipgrad": None,
    "G_optimizer_reuse": True,
    "G_scheduler_type": "MultiStepLR",
    "G_scheduler_milestones": [250000, 400000, 450000, 475000, 500000],
    "G_scheduler_gamma": 0.5,
    "G_regularizer_orthstep": None,
    "G_regularizer_clipstep": None,
    "G_param_strict": True,
    "E_param_strict": True,
    "checkpoint_test": 5000,
    "checkpoint_save": 5000,
    "checkpoint_print": 200,
}
_LONG = {
    "G_lossfn_type": "charbonnier",
    "G_charbonnier_eps": 1e-9,
    "G_scheduler_milestones": [800000, 1200000, 1400000, 1500000, 1600000],
}
_ADVERSARIAL = {
    "F_lossfn_type": "l1",
    "F_lossfn_weight": 1,
    "F_feature_layer": [2, 7, 16, 25, 34],
    "F_weights": [0.1, 0.1, 1.0, 1.0, 1.0],
    "gan_type": "gan",
    "D_lossfn_weight": 0.1,
    "D_init_iters": 0,
    "D_optimizer_type": "adam",
    "D_optimizer_lr": 1e-4,
}


def _swinir(**changes: Any) -> dict[str, Any]:
    return {
        "net_type": "swinir",
        "upscale": 1,
        "in_chans": 3,
        "img_size": 64,
        "window_size": 8,
        "img_range": 1.0,
        "depths": [6] * 6,
        "embed_dim": 180,
        "num_heads": [6] * 6,
        "mlp_ratio": 2,
        "upsampler": None,
        "resi_connection": "1conv",
        "init_type": "default",
        **changes,
    }


def _file(
    task: str,
    root: str,
    kind: str,
    data: dict[str, Any],
    test: dict[str, Any],
    net: dict[str, Any],
    **top: Any,
) -> dict[str, Any]:
    shared = {"dataset_type": kind, "dataroot_L": None}
    train = top.pop("train", {})
    return {
        "task": task,
        "model": "plain",
        "gpu_ids": [0, 1],
        "dist": True,
        **top,
        "path": {"root": root, "pretrained_netG": None, "pretrained_netE": None},
        "datasets": {
            "train": {
                "name": "train_dataset",
                **shared,
                "dataroot_H": "trainsets/trainH",
                "dataloader_shuffle": True,
                "dataloader_num_workers": 16,
                "dataloader_batch_size": 8,
                **data,
            },
            "test": {"name": "test_dataset", **shared, "dataroot_H": "testsets/Set5/HR", **test},
        },
        "netG": net,
        "train": {**_TRAIN, **train},
    }


def _noise(task: str, channels: int, sigma: float = 15, **net: Any) -> dict[str, Any]:
    levels = {"sigma": sigma, "sigma_test": sigma}
    return _file(
        task,
        "denoising",
        "dncnn",
        {"H_size": 128, **levels},
        levels,
        _swinir(in_chans=channels, img_size=128, **net),
        n_channels=channels,
        train=_LONG,
    )


_BLIND = {
    "degradation_type": "bsrgan",
    "H_size": 256,
    "shuffle_prob": 0.1,
    "lq_patchsize": 64,
    "use_sharp": True,
}
_QUALITY = {"quality_factor": 40, "quality_factor_test": 40, "is_color": False}
_OLD_STYLE_NET = {
    "in_nc": 1,
    "out_nc": 1,
    "nc": 64,
    "nb": 17,
    "gc": 32,
    "ng": 2,
    "reduction": 16,
    "act_mode": "BR",
}
_REAL = _swinir(upscale=4, upsampler="nearest+conv")

#: Those of KAIR's SwinIR files that train without an adversary, its DnCNN file, and two of its ELSA fork.
PLAIN: dict[str, dict[str, Any]] = {
    "classical": _file(
        "swinir_sr_classical_x2",
        "superresolution",
        "sr",
        {"H_size": 96, "dataroot_L": "trainsets/trainL", "dataloader_batch_size": 32},
        {"dataroot_L": "testsets/Set5/LR_bicubic/X2"},
        _swinir(upscale=2, img_size=48, upsampler="pixelshuffle"),
        scale=2,
        n_channels=3,
    ),
    "lightweight": _file(
        "swinir_sr_lightweight_x4",
        "superresolution",
        "sr",
        {"H_size": 256, "dataloader_batch_size": 64},
        {},
        _swinir(upscale=4, embed_dim=60, depths=[6] * 4, num_heads=[6] * 4, upsampler="pixelshuffledirect"),
        scale=4,
        n_channels=3,
    ),
    "real_psnr": _file(
        "swinir_sr_realworld_x4_psnr",
        "superresolution",
        "blindsr",
        {**_BLIND, "dataloader_batch_size": 32},
        {**_BLIND, "use_sharp": False},
        _REAL,
        scale=4,
        n_channels=3,
    ),
    "grey_dn": _noise("swinir_denoising_gray_15", 1),
    "colour_dn": _noise("swinir_denoising_color_25", 3, 25),
    "jpeg": _file(
        "swinir_car_jpeg_40",
        "dejpeg",
        "jpeg",
        {"H_size": 126, **_QUALITY},
        _QUALITY,
        _swinir(in_chans=1, img_size=126, window_size=7, img_range=255.0),
        is_color=False,
        train=_LONG,
    ),
    "dncnn": _file(
        "dncnn25",
        "denoising",
        "dncnn",
        {"H_size": 40, "dataloader_batch_size": 64, "sigma": 25},
        {"sigma_test": 25},
        {
            "net_type": "dncnn",
            **_OLD_STYLE_NET,
            "upsample_mode": "convtranspose",
            "downsample_mode": "strideconv",
            "init_type": "orthogonal",
            "init_bn_type": "uniform",
            "init_gain": 0.2,
        },
        scale=1,
        n_channels=1,
        sigma=25,
        sigma_test=25,
        merge_bn=True,
        merge_bn_startpoint=400000,
    ),
    "elsa_small": _noise(
        "swinir_denoising_gray_15", 1, embed_dim=96, depths=[2] * 6, num_heads=[3] * 6, use_elsa=True
    ),
    "elsa_large": _noise(
        "swinir_denoising_gray_15", 1, use_elsa=True, elsa_kernel_size=7, elsa_lam=1.0, elsa_gamma=1.0
    ),
}
PLAIN["elsa_large"]["path"]["ignore_resume_network"] = True
PLAIN["elsa_large"]["train"] |= {"G_param_strict": False, "E_param_strict": False}

REAL_GAN = _file(
    "swinir_sr_realworld_x4_gan",
    "superresolution",
    "blindsr",
    _BLIND,
    _BLIND,
    _REAL,
    scale=4,
    n_channels=3,
    model="gan",
    netD={"net_type": "discriminator_unet", "in_nc": 3},
    train=_ADVERSARIAL,
)


def changed(name: str, **values: Any) -> dict[str, Any]:
    """A file with some keys set: ``train__E_decay=0`` is ``train.E_decay``; ``...`` takes a key away."""
    data = copy.deepcopy(PLAIN[name])
    for key, value in values.items():
        *sections, last = key.split("__")
        holder = data
        for section in sections:
            holder = holder.setdefault(section, {})
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    return data


def as_kair_writes(data: dict[str, Any]) -> str:
    """JSON text in KAIR's hand: one key a line, commas in front, tabs, comments (also with ``//`` inside them)."""
    return "{ // options, see https://github.com/cszn/KAIR\n" + _section(data, 1) + "}\n"


def _section(data: dict[str, Any], depth: int) -> str:
    text = ""
    for place, (key, value) in enumerate(data.items()):
        text += "\t" * depth + (", " if place else "") + f'"{key}": '
        if isinstance(value, dict):
            text += "{\n" + _section(value, depth + 1) + "\t" * depth + "}\n"
        else:
            text += f'{json.dumps(value)}// a, b // c: "d"\n'
    return text
