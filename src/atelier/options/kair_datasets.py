"""``datasets`` of a KAIR file: pictures, how lq is made of them, and the protocol of each test set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atelier.options.kair_conversion import Conversion
from atelier.options.kair_network import channels
from atelier.options.messages import show

#: dataset_type and its aliases -> how it is read.
_TYPES = {
    **dict.fromkeys(("sr", "super-resolution"), "sr"),
    **dict.fromkeys(("dncnn", "denoising"), "noise"),
    "dnpatch": "noise",
    **dict.fromkeys(("jpeg", "deblocking"), "jpeg"),
    **dict.fromkeys(("plain", "plainpatch"), "pairs"),
    **dict.fromkeys(("blindsr", "bsrnet", "bsrgan"), "blind"),
}
_NOTES = {
    "dnpatch": "read as dncnn: crops are drawn from whole pictures instead of patches cut ahead",
    "plainpatch": "read as plain: crops are drawn from whole pictures instead of patches cut ahead",
    "deblocking": "the older name of jpeg",
}
_LEVEL = "it feeds the noise level to the network, which no network here takes; dncnn with sigma [0, 75] trains blind"
_REFUSED = {
    "fdncnn": _LEVEL,
    "ffdnet": _LEVEL,
    "srmd": "it feeds blur kernel and noise level to the network",
    "dpsr": "it feeds the noise level to the network",
    "usrnet": "it feeds blur kernel and noise level to the network",
    "l": "it has no clean pictures to train on or to measure against",
}
_DEFAULT_SIZE = {"sr": 96, "noise": 64, "jpeg": 128, "pairs": 64, "blind": 256}
_DEFAULT_SIGMA, _DEFAULT_QUALITY = 25, 40


def convert_datasets(conversion: Conversion, processes: int) -> None:
    """Fill ``datasets``, ``degradation`` and the metrics.

    Args:
        processes: among which the total batch and the loader processes are divided.

    Raises:
        UserError: for a data set of a kind that is not supported.
    """
    sets = conversion.sections(("datasets",))
    conversion.put("datasets", {}, ("datasets",))
    if "train" not in sets:
        conversion.problem("datasets.train is missing", ("datasets",))
    taken: dict[str, str] = {}
    for key in sets:
        if key == "train":
            _convert_train(conversion, processes)
        elif match := re.fullmatch(r"test[_-]?(.*)", key):
            ours = f"val_{match.group(1)}" if match.group(1) else "val"
            if ours in taken:
                conversion.problem(f"becomes {ours}, as {taken[ours]} does; rename one", ("datasets", key))
            taken[ours] = key
            _convert_test(conversion, key, ours)
        else:
            conversion.problem("data sets are called train, test, test_2, test_NAME ...", ("datasets", key))
    _check_channels(conversion)


def lq_template(gt: Path, lq: Path, scale: int) -> str:
    """``{}x4`` where the lq files carry the scale in their names (``baby.png``, ``babyx4.png``), else ``{}``.

    KAIR pairs by position and needs no names; this looks into both folders. ``{}`` where one is not there.
    """
    try:
        clean, small = ({file.stem for file in folder.expanduser().iterdir()} for folder in (gt, lq))
    except OSError:
        return "{}"
    marked = f"{{}}x{scale}"
    return marked if not clean & small and any(marked.format(stem) in small for stem in clean) else "{}"


def _convert_train(conversion: Conversion, processes: int) -> None:
    source, ours = ("datasets", "train"), "datasets.train"
    kind = _begin(conversion, "train", ours)
    if not conversion.has(*source, "H_size"):
        conversion.note(f"H_size is left out; KAIR's {_DEFAULT_SIZE[kind]} is taken", source)
        conversion.put(f"{ours}.gt_size", _DEFAULT_SIZE[kind], source)
    conversion.move((*source, "H_size"), f"{ours}.gt_size")
    _convert_loader(conversion, processes)
    if conversion.get(*source, "dataloader_shuffle", default=True) is not True:
        conversion.note(
            "does nothing: training always takes its pictures in a random order that follows from the seed",
            (*source, "dataloader_shuffle"),
        )
    if not _convert_lq(conversion, "train", ours, kind):
        degradation = _degradation(conversion, "train", kind)
        if degradation is not None:
            _put_degradation(conversion, "degradation", "train", degradation)
    scale = conversion.get("scale", default=1)
    if kind == "blind" and isinstance(scale, int) and scale > 0 and conversion.has(*source, "lq_patchsize"):
        patch, size = conversion.get(*source, "lq_patchsize"), conversion.get(*source, "H_size", default=256)
        if isinstance(patch, int) and isinstance(size, int) and patch * scale != size:
            conversion.problem(
                f"given {patch}, but H_size {size} at scale {scale} gives lq crops of {size / scale:g}; make them "
                "equal",
                (*source, "lq_patchsize"),
            )


def _convert_test(conversion: Conversion, key: str, ours: str) -> None:
    source, place = ("datasets", key), f"datasets.{ours}"
    kind = _begin(conversion, key, place)
    conversion.idle[source] = (
        f"a test set of dataset_type '{conversion.get(*source, 'dataset_type')}' has no use for it"
    )
    if conversion.has(*source, "lq_patchsize"):
        conversion.get(*source, "lq_patchsize")
        conversion.note("does nothing: whole pictures are measured", (*source, "lq_patchsize"))
    if not _convert_lq(conversion, key, place, kind):
        degradation = _degradation(conversion, key, kind)
        if degradation is not None:
            _put_degradation(conversion, f"{place}.degradation", key, degradation)


def _begin(conversion: Conversion, key: str, ours: str) -> str:
    """What every data set has: its kind, name and clean pictures."""
    source = ("datasets", key)
    conversion.sections(source)
    conversion.put(ours, {}, source)
    written = conversion.get(*source, "dataset_type")
    word = written.lower() if isinstance(written, str) else ""
    place = (*source, "dataset_type")
    if word in _REFUSED:
        raise conversion.error(f"given {show(written)}, not supported: {_REFUSED[word]}", place)
    if word.startswith("video"):
        raise conversion.error(f"given {show(written)}, not supported: video is not trained here", place)
    if word not in _TYPES:
        raise conversion.error(f"given {show(written)}, not supported; supported: {', '.join(_TYPES)}", place)
    if word in _NOTES:
        conversion.note(_NOTES[word], place)
    conversion.idle[source] = f"dataset_type '{written}' does not read it"
    conversion.move((*source, "name"), f"{ours}.name")
    if not conversion.has(*source, "dataroot_H"):
        conversion.problem("dataroot_H is missing: the folder of clean pictures", source)
    conversion.move((*source, "dataroot_H"), f"{ours}.dataroot_gt")
    # KAIR's reader turns every picture into the network's channels.
    conversion.put(f"{ours}.convert_channels", True)
    kind = _TYPES[word]
    if kind == "jpeg" and channels(conversion)[0] == 1:
        # KAIR trains on Y and on OpenCV's grey in turn, and tests on Y.
        conversion.put(f"{ours}.grey_from", "mixed" if key == "train" else "y", place)
    return kind


def _convert_loader(conversion: Conversion, processes: int) -> None:
    """Totals become shares of each process."""
    source, ours = ("datasets", "train"), "datasets.train"
    total = conversion.need(*source, "dataloader_batch_size", otherwise=16)
    place = (*source, "dataloader_batch_size")
    if not isinstance(total, int) or processes == 1:
        conversion.put(f"{ours}.batch_size_per_gpu", total, place)
    elif total % processes:
        conversion.problem(
            f"a total of {total} cannot be divided among {processes} processes; KAIR would silently train on "
            f"{total // processes * processes}",
            place,
        )
    else:
        conversion.put(f"{ours}.batch_size_per_gpu", total // processes, place)
    workers = conversion.get(*source, "dataloader_num_workers")
    if isinstance(workers, int):
        workers //= processes
    if workers is not None:
        conversion.put(f"{ours}.num_worker_per_gpu", workers, (*source, "dataloader_num_workers"))


def _convert_lq(conversion: Conversion, key: str, ours: str, kind: str) -> bool:
    """``dataroot_L`` where this kind of data set reads it; True when there is one."""
    source = ("datasets", key)
    place = (*source, "dataroot_L")
    lq = conversion.get(*place)
    if lq is not None and kind not in ("sr", "pairs"):
        conversion.note(
            f"does nothing: dataset_type '{conversion.get(*source, 'dataset_type')}' makes lq of dataroot_H; "
            "dataset_type 'plain' (or 'sr') takes pairs",
            place,
        )
        return False
    if lq is None:
        if kind == "pairs":
            conversion.problem("dataroot_L is missing: dataset_type 'plain' pairs two folders", source)
        return False
    conversion.put(f"{ours}.dataroot_lq", lq, place)
    gt, scale = conversion.get(*source, "dataroot_H"), conversion.get("scale", default=1)
    if isinstance(lq, str) and isinstance(gt, str) and isinstance(scale, int):
        template = lq_template(Path(gt), Path(lq), scale)
        if template != "{}":
            conversion.put(f"{ours}.filename_tmpl", template, place)
            conversion.note(
                f"pairs are matched by name; its files are called {template.format('NAME')}", place
            )
    return True


def _degradation(conversion: Conversion, key: str, kind: str) -> dict[str, tuple[Any, str]] | None:
    """Our degradation: option -> (value, KAIR's key it comes from, "" for none); None where there are pairs."""
    test = key != "train"
    if kind == "sr":
        # KAIR's own reduction is neither rounded nor clipped, in training and in testing.
        return {"type": ("bicubic", "dataset_type"), "lq_round": (False, "dataset_type")}
    if kind == "noise":
        sigma = _level(conversion, key, "sigma", _DEFAULT_SIGMA)
        found = {"type": ("gaussian_noise", "dataset_type"), "sigma": sigma}
        return found | {"noise_seed": (0, ""), "noise_order": ("rgb", "")} if test else found
    if kind == "jpeg":
        names = [name for name in ("quality_factor", "quality") if conversion.has("datasets", key, name)]
        quality = _level(conversion, key, names[0] if names else "quality_factor", _DEFAULT_QUALITY)
        found = {"type": ("jpeg", "dataset_type"), "quality": quality}
        return found if test else found | {"aligned_prob": (0.5, "dataset_type")}
    if kind == "blind":
        return _blind(conversion, key)
    return None


def _level(conversion: Conversion, key: str, name: str, fallback: int) -> tuple[Any, str]:
    """``sigma`` in training, ``sigma_test`` in testing (and quality likewise); 0 is taken as written."""
    source = ("datasets", key)
    tested = f"{name}_test"
    trained = conversion.get(*source, name) if conversion.has(*source, name) else None
    used = tested if key != "train" and conversion.has(*source, tested) else name
    value = conversion.get(*source, used)
    if key == "train" and conversion.has(*source, tested):
        conversion.get(*source, tested)
        conversion.note(f"does nothing in training: the test set's own {tested} is read", (*source, tested))
    if used == tested and trained is not None:
        conversion.note(f"does nothing in testing: {tested} is there", (*source, name))
    if value is None:
        conversion.note(f"{name} is left out; KAIR's {fallback} is taken", source)
        return fallback, ""
    if value == 0 and not isinstance(value, bool):
        conversion.note(f"0 is taken as written; KAIR makes it {fallback}", (*source, used))
    return value, used


def _blind(conversion: Conversion, key: str) -> dict[str, tuple[Any, str]]:
    source = ("datasets", key)
    variant = conversion.need(*source, "degradation_type", otherwise="bsrgan")
    found: dict[str, tuple[Any, str]] = {
        "type": ("bsrgan", "dataset_type"),
        "variant": (variant, "degradation_type"),
    }
    for name in ("shuffle_prob", "use_sharp"):
        value = conversion.get(*source, name)
        if value is not None and variant == "bsrgan":
            conversion.note("does nothing: degradation_type is 'bsrgan'", (*source, name))
        elif value is not None:
            found[name] = (value, name)
    if key != "train":
        conversion.note(
            "test pictures are degraded at random, in the same way at every validation (KAIR: anew each time); "
            "whole pictures, none is replaced by a flat colour",
            (*source, "dataset_type"),
        )
    return found


def _put_degradation(
    conversion: Conversion, place: str, key: str, options: dict[str, tuple[Any, str]]
) -> None:
    source = ("datasets", key)
    conversion.put(place, {}, (*source, "dataset_type"))
    for name, (value, theirs) in options.items():
        conversion.put(f"{place}.{name}", value, (*source, theirs) if theirs else None)


def _check_channels(conversion: Conversion) -> None:
    """``n_channels`` and ``is_color`` say what the network says already, so they must agree with it."""
    wanted, where = channels(conversion)
    given = conversion.get("n_channels")
    if wanted is not None and given not in (None, wanted):
        conversion.problem(f"given {show(given)}, but {where} is {wanted}; make them equal", ("n_channels",))
    for key, values in conversion.sections(("datasets",)).items():
        if isinstance(values, dict) and values.get("is_color") is not None:
            colour = conversion.get("datasets", key, "is_color")
            if wanted is not None and colour != (wanted == 3):
                conversion.problem(
                    f"given {show(colour)}, but {where} is {wanted}; make them agree",
                    ("datasets", key, "is_color"),
                )
