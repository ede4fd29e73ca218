"""Option files of Real-ESRGAN, written from the published values: four for training, two for fine-tuning."""

from __future__ import annotations

import copy
from typing import Any

from atelier.options.write import dump_yaml

_STAGES: dict[str, Any] = {
    "resize_prob": [0.2, 0.7, 0.1],
    "resize_range": [0.15, 1.5],
    "gaussian_noise_prob": 0.5,
    "noise_range": [1, 30],
    "poisson_scale_range": [0.05, 3],
    "gray_noise_prob": 0.4,
    "jpeg_range": [30, 95],
    "second_blur_prob": 0.8,
    "resize_prob2": [0.3, 0.4, 0.3],
    "resize_range2": [0.3, 1.2],
    "gaussian_noise_prob2": 0.5,
    "noise_range2": [1, 25],
    "poisson_scale_range2": [0.05, 2.5],
    "gray_noise_prob2": 0.4,
    "jpeg_range2": [30, 95],
    "gt_size": 256,
    "queue_size": 180,
}
_NAMES = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
_KERNELS: dict[str, Any] = {
    f"{name}{suffix}": value
    for suffix, sigma in (("", 3), ("2", 1.5))
    for name, value in (
        ("blur_kernel_size", 21),
        ("kernel_list", _NAMES),
        ("kernel_prob", [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]),
        ("sinc_prob", 0.1),
        ("blur_sigma", [0.2, sigma]),
        ("betag_range", [0.5, 4]),
        ("betap_range", [1, 2]),
    )
} | {"final_sinc_prob": 0.8}
_LOADER: dict[str, Any] = {
    "gt_size": 256,
    "use_hflip": True,
    "use_rot": False,
    "use_shuffle": True,
    "num_worker_per_gpu": 5,
    "batch_size_per_gpu": 12,
    "dataset_enlarge_ratio": 1,
    "prefetch_mode": None,
}
_ADAM = {"type": "Adam", "weight_decay": 0, "betas": [0.9, 0.99]}
_GAN: dict[str, Any] = {
    "perceptual_opt": {
        "type": "PerceptualLoss",
        "layer_weights": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1},
        "vgg_type": "vgg19",
        "use_input_norm": True,
        "perceptual_weight": 1.0,
        "style_weight": 0,
        "range_norm": False,
        "criterion": "l1",
    },
    "gan_opt": {
        "type": "GANLoss",
        "gan_type": "vanilla",
        "real_label_val": 1.0,
        "fake_label_val": 0.0,
        "loss_weight": 0.1,
    },
    "net_d_iters": 1,
    "net_d_init_iters": 0,
}


def _file(
    name: str, scale: int, *, gan: bool, steps: int, rate: float, pairs: bool = False
) -> dict[str, Any]:
    network: dict[str, Any] = {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3}
    network |= {"scale": 2} if scale == 2 else {}
    network |= {"num_feat": 64, "num_block": 23, "num_grow_ch": 32}
    data: dict[str, Any] = {
        "name": name,
        "model_type": "RealESRGANModel" if gan else "RealESRNetModel",
        "scale": scale,
        "num_gpu": "auto",
        "manual_seed": 0,
    }
    data |= {"l1_gt_usm": True, "percep_gt_usm": True, "gan_gt_usm": False} if gan else {"gt_usm": True}
    data |= {"high_order_degradation": False} if pairs else _STAGES
    train: dict[str, Any] = {
        "name": "DF2K",
        "type": "RealESRGANPairedDataset" if pairs else "RealESRGANDataset",
        "dataroot_gt": "datasets/DF2K",
        **({"dataroot_lq": "datasets/DF2K"} if pairs else {}),
        "meta_info": "datasets/DF2K/meta_info/meta_info_DF2K.txt",
        "io_backend": {"type": "disk"},
        **({} if pairs else _KERNELS),
        **_LOADER,
    }
    path: dict[str, Any] = {
        "pretrain_network_g": "models/net_g.pth",
        "strict_load_g": True,
        "resume_state": None,
    }
    optimise: dict[str, Any] = {"ema_decay": 0.999, "optim_g": {**_ADAM, "lr": rate}}
    if gan:
        path |= {"param_key_g": "params_ema", "pretrain_network_d": None, "param_key_d": "params"}
        path |= {"strict_load_d": True}
        optimise["optim_d"] = {**_ADAM, "lr": rate}
    optimise |= {
        "scheduler": {"type": "MultiStepLR", "milestones": [steps], "gamma": 0.5},
        "total_iter": steps,
        "warmup_iter": -1,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        **(_GAN if gan else {}),
    }
    data |= {"datasets": {"train": train}, "network_g": network}
    if gan:
        data["network_d"] = {
            "type": "UNetDiscriminatorSN",
            "num_in_ch": 3,
            "num_feat": 64,
            "skip_connection": True,
        }
    return data | {
        "path": path,
        "train": optimise,
        "logger": {
            "print_freq": 100,
            "save_checkpoint_freq": 5e3,
            "use_tb_logger": True,
            "wandb": {"project": None, "resume_id": None},
        },
        "dist_params": {"backend": "nccl", "port": 29500},
    }


FILES: dict[str, dict[str, Any]] = {
    "train_realesrnet_x2plus": _file("net_x2", 2, gan=False, steps=1_000_000, rate=2e-4),
    "train_realesrnet_x4plus": _file("net_x4", 4, gan=False, steps=1_000_000, rate=2e-4),
    "train_realesrgan_x2plus": _file("gan_x2", 2, gan=True, steps=400_000, rate=1e-4),
    "train_realesrgan_x4plus": _file("gan_x4", 4, gan=True, steps=400_000, rate=1e-4),
    "finetune_realesrgan_x4plus": _file("fine_x4", 4, gan=True, steps=400_000, rate=1e-4),
    "finetune_realesrgan_x4plus_pairdata": _file(
        "pairs_x4", 4, gan=True, steps=400_000, rate=1e-4, pairs=True
    ),
}
_VALIDATION: dict[str, Any] = {
    "name": "validation",
    "type": "PairedImageDataset",
    "dataroot_gt": "gt",
    "dataroot_lq": "lq",
    "io_backend": {"type": "disk"},
}
_METRICS = {
    "val_freq": 5e3,
    "save_img": True,
    "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": False}},
}
# The same with what their comments offer for validation.
for _name in ("train_realesrnet_x2plus", "train_realesrgan_x4plus"):
    FILES[f"{_name}+val"] = FILES[_name] | {"val": _METRICS}
    FILES[f"{_name}+val"]["datasets"] = FILES[_name]["datasets"] | {"val": _VALIDATION}


def changed(name: str, **changes: Any) -> dict[str, Any]:
    """A copy of a file with ``train__total_iter=5`` and its like put in; the value ... removes the key."""
    data = copy.deepcopy(FILES[name])
    for key, value in changes.items():
        holder: Any = data
        *parts, last = key.split("__")
        for part in parts:
            holder = holder.setdefault(part, {})
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    return data


def as_yaml(data: dict[str, Any]) -> str:
    """The text of the file."""
    return dump_yaml(data)
