"""``netG`` of a KAIR file: the network, its ELSA short forms, and how its weights start."""

from __future__ import annotations

from atelier.options.kair_conversion import Conversion
from atelier.options.kair_distill import STUDENTS
from atelier.options.messages import show

#: net_type -> (our type, KAIR's key -> our key, keys KAIR cannot run without).
_NETWORKS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "swinir": (
        "SwinIR",
        {
            name: name
            for name in (
                *("upscale", "in_chans", "img_size", "window_size", "img_range", "depths", "embed_dim"),
                *("num_heads", "mlp_ratio", "upsampler", "resi_connection", "drop_path_rate", "qkv_bias"),
                *(
                    "use_checkpoint",
                    "qk_scale",
                    "drop_rate",
                    "attn_drop_rate",
                    "ape",
                    "patch_norm",
                    "patch_size",
                ),
            )
        },
        ("window_size", "depths", "embed_dim", "num_heads", "mlp_ratio"),
    ),
    "dncnn": (
        "DnCNN",
        {name: name for name in ("in_nc", "out_nc", "nc", "nb", "act_mode")},
        ("in_nc", "out_nc", "nc", "nb", "act_mode"),
    ),
    "rrdbnet": (
        "RRDBNet",
        {
            "in_nc": "num_in_ch",
            "out_nc": "num_out_ch",
            "nf": "num_feat",
            "nb": "num_block",
            "gc": "num_grow_ch",
        },
        ("in_nc", "out_nc", "nf", "nb", "gc"),
    ),
    "msrresnet1": (
        "MSRResNet1",
        {name: name for name in ("in_nc", "out_nc", "nc", "nb")},
        ("in_nc", "out_nc", "nc", "nb"),
    ),
}
#: What SwinIR's files always hold; where one does not, KAIR fails and ours goes on with this.
_SWINIR_USUAL = {"img_size": 64, "img_range": 1.0, "resi_connection": "1conv"}
_ELSA = {"elsa_kernel_size": ("kernel_size", 7), "elsa_lam": ("lam", 1), "elsa_gamma": ("gamma", 1)}
_HONOURED = frozenset(
    {
        *("drop_path_rate", "qkv_bias", "use_checkpoint", "qk_scale", "drop_rate", "attn_drop_rate"),
        *("ape", "patch_norm", "patch_size"),
    }
)
_NO_INIT = ("default", "none")


def convert_network(conversion: Conversion) -> None:
    """Fill ``network_g`` and ``train.weight_init``.

    Raises:
        UserError: for a network that is not supported.
    """
    conversion.sections(("netG",))
    conversion.put("network_g", {}, ("netG",))
    given = conversion.get("netG", "net_type")
    kind = STUDENTS.get(given, given) if isinstance(given, str) else given
    if not isinstance(kind, str) or kind not in _NETWORKS:
        raise conversion.error(
            f"given {show(kind)}, not supported; supported: {', '.join((*_NETWORKS, *STUDENTS))}",
            ("netG", "net_type"),
        )
    ours, keys, needed = _NETWORKS[kind]
    conversion.put("network_g.type", ours, ("netG", "net_type"))
    if given == "swinir_student_v2":
        conversion.put("network_g.extra_residual", True, ("netG", "net_type"))
    conversion.idle[("netG",)] = f"net_type '{kind}' does not read it"
    if kind == "swinir" and not conversion.has("netG", "in_chans") and conversion.has("n_channels"):
        conversion.put("network_g.in_chans", conversion.get("n_channels"), ("n_channels",))
    elif kind == "swinir" and not conversion.has("netG", "in_chans"):
        conversion.problem("in_chans is missing, and n_channels as well; KAIR needs both", ("netG",))
    for name in needed:
        if not conversion.has("netG", name):
            conversion.problem(f"{name} is missing; net_type '{kind}' needs it", ("netG",))
    for theirs, name in keys.items():
        if conversion.has("netG", theirs) and theirs in _HONOURED:
            conversion.note("KAIR ignores it; honoured here", ("netG", theirs))
        conversion.move(("netG", theirs), f"network_g.{name}")
    if kind == "swinir":
        for name, usual in _SWINIR_USUAL.items():
            conversion.put(
                f"network_g.{name}", conversion.need("netG", name, otherwise=usual), ("netG", name)
            )
        _convert_elsa(conversion)
    _check_scale(conversion)
    _convert_start(conversion)


def channels(conversion: Conversion) -> tuple[int | None, str]:
    """The network's input channels where they are a number, and the key of KAIR's that says so."""
    for name in ("in_chans", "in_nc"):
        value = conversion.get("netG", name) if conversion.has("netG", name) else None
        if isinstance(value, int):
            return value, f"netG.{name}"
    value = conversion.get("n_channels")
    return (value if isinstance(value, int) else None), "n_channels"


def _check_scale(conversion: Conversion) -> None:
    scale, upscale = conversion.get("scale", default=1), conversion.get("netG", "upscale", default=None)
    conversion.put("scale", scale, ("scale",))
    kind = conversion.data["netG"]["net_type"]
    if STUDENTS.get(kind, kind) == "swinir" and upscale not in (None, scale):
        conversion.problem(
            f"given {show(upscale)}, but scale is {show(scale)}"
            f"{'' if conversion.has('scale') else ' (left out)'}; make them equal (KAIR does not check)",
            ("netG", "upscale"),
        )


def _convert_elsa(conversion: Conversion) -> None:
    """The fork runs ELSA inside each window, with both of its ghost filters unless told otherwise."""
    switches = [name for name in ("use_elsa", "elsa") if conversion.has("netG", name)]
    values = {name: conversion.get("netG", name) for name in switches}
    for name, value in values.items():
        if not isinstance(value, bool):
            conversion.problem(f"given {show(value)}, allowed: true or false", ("netG", name))
    if len(set(map(str, values.values()))) > 1:
        conversion.problem("use_elsa and elsa contradict each other; remove one", ("netG", "elsa"))
    if True not in values.values():
        if switches:
            conversion.put("network_g.attention", "window", ("netG", switches[0]))
        if any(conversion.has("netG", name) for name in _ELSA):
            conversion.idle[("netG",)] = "use_elsa is not true"
        return
    conversion.put("network_g.attention", "elsa", ("netG", switches[0]))
    conversion.put("network_g.elsa", {"scope": "window"}, ("netG", switches[0]))
    for theirs, (name, fallback) in _ELSA.items():
        value = conversion.get("netG", theirs, default=fallback)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        conversion.put(
            f"network_g.elsa.{name}",
            value,
            ("netG", theirs if conversion.has("netG", theirs) else switches[0]),
        )
    conversion.note(
        "ELSA inside each window, as the fork runs it, except that shifted windows keep opposite picture borders "
        "apart (network_g.elsa.border: fork for the fork's own result)",
        ("netG", switches[0]),
    )


def _convert_start(conversion: Conversion) -> None:
    """``init_type`` and its companions; without a rule the network starts by its own."""
    kind = conversion.get("netG", "init_type", default="default")
    if kind in _NO_INIT:
        for name in ("init_gain", "init_bn_type"):
            if conversion.has("netG", name):
                conversion.get("netG", name)
                conversion.note(f"does nothing: init_type is '{kind}'", ("netG", name))
        return
    conversion.put("train.weight_init.type", kind, ("netG", "init_type"))
    gain = conversion.need("netG", "init_gain", otherwise=0.2)
    conversion.put("train.weight_init.gain", gain, ("netG", "init_gain"))
    conversion.move(("netG", "init_bn_type"), "train.weight_init.bn_type")
