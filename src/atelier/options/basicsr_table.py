"""Every key of BasicSR's and Real-ESRGAN's option files: what it becomes here, or why it does nothing.

Key names and meanings are those of BasicSR (github.com/XPixelGroup/BasicSR) and Real-ESRGAN
(github.com/xinntao/Real-ESRGAN). The page made of it is ``docs/from-basicsr.md``.
"""

from __future__ import annotations

from atelier.options.foreign_table import Key, KeyTable

#: Top-level keys of the degradation; the second stage's end in 2.
STAGE_KEYS: tuple[str, ...] = (
    *("resize_prob", "resize_range", "gaussian_noise_prob", "noise_range", "poisson_scale_range"),
    *("gray_noise_prob", "jpeg_range", "second_blur_prob", "resize_prob2", "resize_range2"),
    *("gaussian_noise_prob2", "noise_range2", "poisson_scale_range2", "gray_noise_prob2", "jpeg_range2"),
)
#: Keys of its kernels, which stand under ``datasets.train``.
KERNEL_KEYS: tuple[str, ...] = (
    *("kernel_list", "kernel_prob", "sinc_prob", "blur_sigma", "betag_range", "betap_range"),
    *("kernel_list2", "kernel_prob2", "sinc_prob2", "blur_sigma2", "betag_range2", "betap_range2"),
    "final_sinc_prob",
)

_SHARPENED = "left out: true, in a model of Real-ESRGAN's"
_EPOCHS = "epochs are only counted: every sample follows from seed and step"
_PRETRAINED = "`~`: none"

KEYS: tuple[Key, ...] = (
    Key("", "name", "name"),
    Key(
        "",
        "model_type",
        "objective",
        "`SRModel`, `SwinIRModel`, `RealESRNetModel`: `pixel`; `SRGANModel`, `ESRGANModel` (relativistic), "
        "`RealESRGANModel`: `gan`; others are refused",
    ),
    Key("", "scale", "scale", "must equal the network's own"),
    Key("", "num_gpu", "num_gpu", "`auto`, 0 (CPU), or how many; more than one: `torchrun`"),
    Key("", "manual_seed", "manual_seed", "left out: 0, and saved (BasicSR draws one)"),
    Key("", "l1_gt_usm", "objective.l1_gt_usm", _SHARPENED),
    Key("", "percep_gt_usm", "objective.percep_gt_usm", _SHARPENED),
    Key("", "gan_gt_usm", "objective.gan_gt_usm", _SHARPENED),
    Key(
        "", "gt_usm", "degradation.gt_usm", "RealESRNetModel; the target is sharpened as well (`target_usm`)"
    ),
    Key(
        "", "high_order_degradation", "degradation", "false: pairs of `dataroot_lq`; else `type: realesrgan`"
    ),
    *(
        Key("", name, f"degradation.{name}", "left out: the published value, told once")
        for name in STAGE_KEYS
    ),
    Key("", "gt_size", "datasets.train.gt_size", "the one that counts where lq is made"),
    Key(
        "",
        "queue_size",
        "degradation.queue_size",
        "degradations are drawn per sample; the pool is not needed",
    ),
    Key("", "datasets", "datasets"),
    Key("", "network_g", "network_g", "all its keys; unknown ones are mistakes"),
    Key("", "network_d", "network_d", "all its keys; only with a GAN"),
    Key("", "path", "path"),
    Key("", "train", "train"),
    Key("", "val", "val"),
    Key("", "logger", "logger"),
    Key("", "dist_params", "dist_params"),
    Key("", "auto_resume", "path.resume", "true: `auto`"),
    Key("", "find_unused_parameters", "", "the networks here have no unused parameters"),
    Key("", "cudnn_benchmark", "", "PyTorch's own choice is kept"),
    Key("datasets", "name", "datasets.*.name"),
    Key(
        "datasets",
        "type",
        "datasets.*",
        "`RealESRGANDataset`, `RealESRGANPairedDataset`, `PairedImageDataset`; a validation set of type "
        "`SingleImageDataset` cannot be measured and is left out; others are refused",
    ),
    Key("datasets", "dataroot_gt", "datasets.*.dataroot_gt", "`~` and `$HOME` are expanded"),
    Key("datasets", "dataroot_lq", "datasets.*.dataroot_lq", "types with pairs"),
    Key("datasets", "meta_info", "datasets.*.meta_info", "not with `lmdb`, which holds its own"),
    Key("datasets", "meta_info_file", "datasets.*.meta_info", "PairedImageDataset's name for it"),
    Key("datasets", "filename_tmpl", "datasets.*.filename_tmpl", "names of the lq files"),
    Key(
        "datasets", "io_backend", "datasets.*.dataroot_gt", "`disk`, or `lmdb` for roots that end in `.lmdb`"
    ),
    Key("datasets", "color", "datasets.*.grey_from", "`y`: BT.601 studio range, for a 1-channel network"),
    Key("datasets", "mean", "", "pictures are in [0, 1]; other values are refused"),
    Key("datasets", "std", "", "pictures are in [0, 1]; other values are refused"),
    Key("datasets", "bgr2rgb", "", "pictures are RGB everywhere"),
    Key(
        "datasets", "gt_size", "datasets.train.gt_size", "must agree with the top-level one where lq is made"
    ),
    Key("datasets", "use_hflip", "datasets.train.use_hflip"),
    Key("datasets", "use_rot", "datasets.train.use_rot"),
    Key("datasets", "batch_size_per_gpu", "datasets.train.batch_size_per_gpu", "of each process"),
    Key("datasets", "num_worker_per_gpu", "datasets.train.num_worker_per_gpu", "of each process"),
    Key("datasets", "pin_memory", "datasets.train.pin_memory"),
    Key("datasets", "use_shuffle", "", "always shuffled, by the seed, as BasicSR does whatever it says"),
    Key("datasets", "dataset_enlarge_ratio", "", _EPOCHS),
    Key(
        "datasets",
        "prefetch_mode",
        "",
        "batches are always prepared ahead, and copied while the GPU computes",
    ),
    Key(
        "datasets",
        "num_prefetch_queue",
        "",
        "each worker prepares two batches; `datasets.train.prefetch` is ours",
    ),
    Key("datasets", "persistent_workers", "", "workers stay for the whole run"),
    Key(
        "datasets",
        "blur_kernel_size",
        "degradation.blur_kernel_size",
        "the original ignores it (21); honoured as the largest size",
    ),
    Key("datasets", "blur_kernel_size2", "degradation.blur_kernel_size2", "as `blur_kernel_size`"),
    *(
        Key("datasets", name, f"degradation.{name}", "left out: the published value, told once")
        for name in KERNEL_KEYS
    ),
    Key("path", "pretrain_network_g", "path.pretrain_network_g", _PRETRAINED),
    Key("path", "param_key_g", "path.param_key_g", "left out: `params`; `params_ema` falls back to `params`"),
    Key(
        "path",
        "strict_load_g",
        "path.load",
        "false: `flexible`, what fits by name and shape; the rest is listed. `inherit` carries more over",
    ),
    Key("path", "pretrain_network_d", "path.pretrain_network_d", _PRETRAINED),
    Key("path", "param_key_d", "path.param_key_d", "left out: `params`"),
    Key("path", "strict_load_d", "path.load_d", "false: `flexible`"),
    Key("path", "resume_state", "path.resume_state", "BasicSR's own `N.state` as well"),
    Key("path", "ignore_resume_networks", "", "empty; any name in it is refused"),
    Key("path", "experiments_root", "path.experiments_root", "`--auto_resume` looks there, too"),
    Key("path", "results_root", "", "results are written where `atelier restore -o` says"),
    Key("train", "ema_decay", "train.ema_decay", "left out: 0, no average"),
    Key("train", "optim_g", "train.optim_g", "`Adam`, `AdamW`, `SGD`; others are refused"),
    Key("train", "optim_d", "train.optim_d", "left out: as `optim_g`"),
    Key(
        "train",
        "scheduler",
        "train.scheduler",
        "`MultiStepLR`, `MultiStepRestartLR` (without restarts), `CosineAnnealingRestartLR`; step n = milestone has "
        "the new rate (BasicSR: step n + 1)",
    ),
    Key("train", "total_iter", "train.total_iter"),
    Key("train", "warmup_iter", "train.warmup_iter"),
    Key(
        "train",
        "pixel_opt",
        "train.pixel_opt",
        "weight 0: left out; `WeightedTVLoss` is not weighted by the gt's brightness, as BasicSR does here",
    ),
    Key(
        "train",
        "perceptual_opt",
        "train.perceptual_opt",
        "weights of VGG are downloaded, or `vgg_weights: PATH`; `train.perceptual_opt=~` switches it off",
    ),
    Key("train", "ldl_opt", "train.ldl_opt", "with a GAN and `ema_decay`; its target is the plain gt"),
    Key(
        "train",
        "gan_opt",
        "train.gan_opt",
        "`GANLoss`, `MultiScaleGANLoss`; ESRGANModel: `relativistic: true`",
    ),
    Key("train", "net_d_iters", "objective.net_d_iters"),
    Key("train", "net_d_init_iters", "objective.net_d_init_iters"),
    Key(
        "train",
        "r1_reg_weight",
        "objective.r1_reg_weight",
        "StyleGAN2Model's key; R1 for the discriminator of any GAN here; left out: 0, off",
    ),
    Key(
        "train",
        "net_d_reg_every",
        "objective.net_d_reg_every",
        "the steps between two R1 terms; left out: 16",
    ),
    Key("val", "val_freq", "val.val_freq"),
    Key("val", "save_img", "val.save_img", "at most `val.max_images` of a set"),
    Key("val", "metrics", "val.metrics", "`calculate_psnr`, `calculate_ssim`; `calculate_niqe` is refused"),
    Key("val", "suffix", "", "saved pictures are named after picture and step"),
    Key("val", "pbar", "", "a bar is shown on a terminal"),
    Key("logger", "print_freq", "logger.print_freq"),
    Key("logger", "save_checkpoint_freq", "logger.save_checkpoint_freq"),
    Key("logger", "use_tb_logger", "logger.use_tb_logger"),
    Key("logger", "wandb", "logger.wandb", "`project: ~`: off"),
    Key("dist_params", "backend", "dist_params.backend"),
    Key(
        "dist_params",
        "port",
        "",
        "torchrun chooses the port; `torchrun --master-port` sets it, under Slurm `MASTER_PORT`",
    ),
)

TABLE = KeyTable(
    "BasicSR",
    KEYS,
    {
        "": ("", "degradation", "objective"),
        "datasets": ("datasets.*", "datasets.train", "degradation"),
        "train": ("train", "objective"),
        **{name: (name,) for name in ("path", "val", "logger", "dist_params")},
    },
)
