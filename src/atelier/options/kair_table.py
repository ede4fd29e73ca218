"""Every key of KAIR's option files: what it becomes here, or why it does nothing.

Key names and meanings are those of KAIR (github.com/cszn/KAIR, option files of SwinIR, DnCNN, MSRResNet and BSRGAN)
and of its forks with ELSA and with distillation. The page made of it is ``docs/from-kair.md``.
"""

from __future__ import annotations

from atelier.options.foreign_table import Key, KeyTable

_DUMPED = "KAIR writes it into the option files it saves; worked out anew here"
_HONOURED = "KAIR ignores it; honoured here"
_MERGE = "BatchNorm is not folded into the convolutions: evaluated, both compute the same"
_GAN = "only the GAN trainer reads it"

KEYS: tuple[Key, ...] = (
    Key("", "task", "name", "with `path.root` the same folder as KAIR's, so its checkpoints are found"),
    Key("", "model", "objective", "`plain`; `plain2`, `plain4`, `gan` and `vrt` are refused"),
    Key("", "gpu_ids", "num_gpu", "`[]` is the CPU; which GPUs: `CUDA_VISIBLE_DEVICES`; several: `torchrun`"),
    Key("", "dist", "--launcher pytorch", "`torchrun` starts the processes; the total batch stays"),
    Key("", "scale", "scale", "must equal `netG.upscale`"),
    Key("", "n_channels", "network_g.in_chans", "may be left out; must agree with the network"),
    Key("", "is_color", "", "KAIR reads the data set's own `is_color`"),
    Key("", "sigma", "", "KAIR reads the data set's own `sigma`"),
    Key("", "sigma_test", "", "KAIR reads the data set's own `sigma_test`"),
    Key(
        "", "merge_bn", "", "BatchNorm is not folded into the convolutions: evaluated, both compute the same"
    ),
    Key("", "merge_bn_startpoint", "", _MERGE),
    Key("", "find_unused_parameters", "", "the networks here have no unused parameters"),
    Key("", "use_static_graph", "", "the networks here have no unused parameters"),
    Key("", "path", "path", ""),
    Key("", "datasets", "datasets", ""),
    Key("", "netG", "network_g", ""),
    Key("", "netD", "", _GAN),
    Key("", "train", "train", ""),
    Key("", "opt_path", "", _DUMPED),
    Key("", "is_train", "", _DUMPED),
    Key("", "num_gpu", "", _DUMPED),
    Key("", "rank", "", _DUMPED),
    Key("", "world_size", "", _DUMPED),
    Key("path", "root", "path.experiments_root", ""),
    Key(
        "path",
        "pretrained_netG",
        "path.pretrain_network_g",
        "KAIR's trainers ignore it; honoured here where nothing can be resumed",
    ),
    Key("path", "pretrained_netE", "path.pretrain_network_ema", "as `pretrained_netG`"),
    Key("path", "pretrained_optimizerG", "", "KAIR never reads it; `path.resume_state: models/N_G.pth` does"),
    Key(
        "path",
        "pretrained_netTeacher",
        "distill.teacher.0.weights",
        "of the fork that distils; needed unless `distillation_type` is `none`",
    ),
    Key(
        "path",
        "pretrained_netP",
        "distill.pretrain_projectors",
        "start weights of the projectors, the fork's `N_P.pth`",
    ),
    Key("path", "pretrained_netD", "", _GAN),
    Key("path", "pretrained_optimizerD", "", _GAN),
    Key("path", "strict_netD", "", _GAN),
    Key("path", "ignore_resume_network", "path.resume", "true: `never`; else `auto`, KAIR's own way"),
    Key("path", "strict_netG", "", "KAIR never reads it; see `train.G_param_strict`"),
    Key("path", "strict_netE", "", "KAIR never reads it; see `train.E_param_strict`"),
    Key("path", "task", "", _DUMPED),
    Key("path", "log", "", _DUMPED),
    Key("path", "options", "", _DUMPED),
    Key("path", "models", "", _DUMPED),
    Key("path", "images", "", _DUMPED),
    Key("datasets", "name", "datasets.*.name", ""),
    Key(
        "datasets",
        "dataset_type",
        "degradation",
        "`sr`, `dncnn`, `dnpatch`, `jpeg`, `plain`, `plainpatch`, `blindsr` and their aliases; others are refused",
    ),
    Key("datasets", "dataroot_H", "datasets.*.dataroot_gt", "a folder or a list of folders"),
    Key(
        "datasets",
        "dataroot_L",
        "datasets.*.dataroot_lq",
        "pairs are matched by name (`NAME`, or `NAMEx4` at scale 4), not by position",
    ),
    Key("datasets", "H_size", "datasets.train.gt_size", "a multiple of scale and window"),
    Key(
        "datasets",
        "dataloader_batch_size",
        "datasets.train.batch_size_per_gpu",
        "the total; divided by the number of processes",
    ),
    Key(
        "datasets",
        "dataloader_num_workers",
        "datasets.train.num_worker_per_gpu",
        "the total; divided by the number of processes",
    ),
    Key(
        "datasets",
        "dataloader_shuffle",
        "",
        "training always takes its pictures in a random order that follows from the seed, validation in order",
    ),
    Key("datasets", "sigma", "degradation.sigma", "0 is 0 (KAIR makes it 25); `[low, high]` also works"),
    Key(
        "datasets", "sigma_test", "datasets.val.degradation.sigma", "noise of NumPy's seed 0 for each picture"
    ),
    Key("datasets", "quality_factor", "degradation.quality", "JPEG quality; `[low, high]` also works"),
    Key("datasets", "quality_factor_test", "datasets.val.degradation.quality", ""),
    Key("datasets", "quality", "degradation.quality", "older name of `quality_factor`"),
    Key("datasets", "quality_test", "datasets.val.degradation.quality", "older name"),
    Key("datasets", "is_color", "network_g.in_chans", "must agree with the network"),
    Key("datasets", "degradation_type", "degradation.variant", "`bsrgan` or `bsrgan_plus`"),
    Key("datasets", "shuffle_prob", "degradation.shuffle_prob", ""),
    Key("datasets", "use_sharp", "degradation.use_sharp", ""),
    Key("datasets", "lq_patchsize", "datasets.train.gt_size", "must be `H_size` / `scale`"),
    Key(
        "datasets",
        "num_patches_per_image",
        "",
        "crops are drawn from whole pictures, no patches are cut ahead",
    ),
    Key("datasets", "num_sampled", "", "crops are drawn from whole pictures, no patches are cut ahead"),
    Key("datasets", "phase", "", _DUMPED),
    Key("datasets", "scale", "", _DUMPED),
    Key("datasets", "n_channels", "", _DUMPED),
    Key(
        "netG",
        "net_type",
        "network_g.type",
        "`swinir`, `dncnn`, `rrdbnet`, `msrresnet1`; `swinir_student` is `swinir`, `swinir_student_v2` with "
        "`extra_residual: true`; others are refused",
    ),
    Key("netG", "upscale", "network_g.upscale", "must equal `scale`"),
    *(
        Key("netG", name, f"network_g.{name}", "")
        for name in (
            *("in_chans", "img_size", "window_size", "img_range", "depths", "embed_dim", "num_heads"),
            *("mlp_ratio", "upsampler", "resi_connection"),
        )
    ),
    *(
        Key("netG", name, f"network_g.{name}", _HONOURED)
        for name in (
            *("drop_path_rate", "qkv_bias", "use_checkpoint", "qk_scale", "drop_rate", "attn_drop_rate"),
            *("ape", "patch_norm", "patch_size"),
        )
    ),
    Key("netG", "use_elsa", "network_g.attention", "true: `elsa`, inside each window as the fork has it"),
    Key("netG", "elsa", "network_g.attention", "as `use_elsa`"),
    Key("netG", "elsa_kernel_size", "network_g.elsa.kernel_size", "7 where left out"),
    Key("netG", "elsa_lam", "network_g.elsa.lam", "1 where left out"),
    Key("netG", "elsa_gamma", "network_g.elsa.gamma", "1 where left out"),
    Key("netG", "in_nc", "network_g.in_nc", "DnCNN, MSRResNet1; `num_in_ch` of RRDBNet"),
    Key("netG", "out_nc", "network_g.out_nc", "DnCNN, MSRResNet1; `num_out_ch` of RRDBNet"),
    Key("netG", "nc", "network_g.nc", "DnCNN, MSRResNet1"),
    Key("netG", "nf", "network_g.num_feat", "RRDBNet"),
    Key("netG", "nb", "network_g.nb", "DnCNN, MSRResNet1; `num_block` of RRDBNet"),
    Key("netG", "gc", "network_g.num_grow_ch", "RRDBNet"),
    Key("netG", "act_mode", "network_g.act_mode", "DnCNN"),
    Key(
        "netG",
        "upsample_mode",
        "",
        "no network here asks for it: DnCNN and SwinIR have none, MSRResNet1 and RRDBNet enlarge in their own way",
    ),
    Key("netG", "ng", "", "no network of KAIR's reads it"),
    Key("netG", "reduction", "", "no network of KAIR's reads it"),
    Key("netG", "downsample_mode", "", "only U-Nets read it, which are not supported"),
    Key("netG", "bias", "", "only U-Nets read it, which are not supported"),
    Key("netG", "init_type", "train.weight_init.type", "`default` and `none`: the network's own start"),
    Key("netG", "init_gain", "train.weight_init.gain", ""),
    Key("netG", "init_bn_type", "train.weight_init.bn_type", ""),
    Key("netG", "scale", "", _DUMPED),
    Key("train", "manual_seed", "manual_seed", "left out: 0, and saved (KAIR draws one and forgets it)"),
    Key("train", "total_iter", "train.total_iter", "KAIR never ends; left out: the last milestone"),
    Key(
        "train",
        "G_lossfn_type",
        "train.pixel_opt.type",
        "`l1`, `l2`, `l2sum`, `ssim` (1 - SSIM; KAIR minimises SSIM itself), `charbonnier`",
    ),
    Key("train", "G_lossfn_weight", "train.pixel_opt.loss_weight", ""),
    Key("train", "G_charbonnier_eps", "train.pixel_opt.eps", "1e-9 where left out"),
    Key(
        "train",
        "distillation_type",
        "distill.recipe",
        "`none`, `response`, `feature`: `classic-none@1`, `classic-response@1`, `classic-feature@1`",
    ),
    Key("train", "distill_lossfn_type", "distill.terms.response.loss", "`l1` where left out"),
    Key("train", "distill_lossfn_weight", "distill.terms.response.weight", "1 where left out"),
    Key("train", "feature_lossfn_type", "distill.terms.feature.loss", "`l1` where left out"),
    Key("train", "feature_lossfn_weight", "distill.terms.feature.weight", "1 where left out"),
    Key(
        "train",
        "start_feature_iter",
        "distill.terms.feature.weight.start",
        "honoured; the fork never reads it, so 0 does what it did",
    ),
    Key("train", "E_decay", "train.ema_decay", "0 where left out; network and average are both measured"),
    Key("train", "G_optimizer_type", "train.optim_g.type", "`adam`"),
    Key("train", "G_optimizer_lr", "train.optim_g.lr", ""),
    Key("train", "G_optimizer_betas", "train.optim_g.betas", ""),
    Key("train", "G_optimizer_wd", "train.optim_g.weight_decay", ""),
    Key("train", "G_optimizer_clipgrad", "train.grad_clip", "works (KAIR crashes); 0 and null: off"),
    Key("train", "G_optimizer_reuse", "", "a resumed run always restores its optimiser, as with true"),
    Key(
        "train",
        "G_scheduler_type",
        "train.scheduler.type",
        "`MultiStepLR`; `CosineAnnealingWarmRestarts` is CosineAnnealingRestartLR",
    ),
    Key(
        "train", "G_scheduler_milestones", "train.scheduler.milestones", "step n = milestone has the new rate"
    ),
    Key("train", "G_scheduler_gamma", "train.scheduler.gamma", ""),
    Key("train", "G_scheduler_periods", "train.scheduler.periods", ""),
    Key("train", "G_scheduler_restart_weights", "train.scheduler.restart_weights", "1 where left out"),
    Key("train", "G_scheduler_eta_min", "train.scheduler.eta_min", ""),
    Key("train", "G_regularizer_orthstep", "train.regularizer.orth_freq", ""),
    Key("train", "G_regularizer_clipstep", "train.regularizer.clip_freq", ""),
    Key("train", "G_param_strict", "path.load", "false: `flexible` (KAIR replaces it by true)"),
    Key("train", "E_param_strict", "path.load_ema", "false: `flexible` (KAIR replaces it by true)"),
    Key("train", "D_param_strict", "", _GAN),
    Key("train", "checkpoint_test", "val.val_freq", ""),
    Key("train", "checkpoint_save", "logger.save_checkpoint_freq", ""),
    Key("train", "checkpoint_print", "logger.print_freq", ""),
    Key("train", "F_*", "", f"{_GAN}; here any run may have a `train.perceptual_opt`"),
    Key("train", "gan_type", "", _GAN),
    Key("train", "D_*", "", _GAN),
)

TABLE = KeyTable("KAIR", KEYS, {"netG": ("network_g",)})
