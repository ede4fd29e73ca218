"""``datasets`` of a BasicSR file, and the degradation, whose keys stand there and at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atelier.options.basicsr_conversion import Conversion
from atelier.options.basicsr_table import KERNEL_KEYS, STAGE_KEYS
from atelier.options.messages import show
from atelier.options.places import KeyPath

_CLEAN = "RealESRGANDataset"
#: Types that pair two folders, and the key under which each reads a list of names.
_PAIRED = {"RealESRGANPairedDataset": "meta_info", "PairedImageDataset": "meta_info_file"}
_SINGLE = "SingleImageDataset"
_REFUSED = {
    _SINGLE: "it has no clean pictures",
    "FFHQDataset": "faces are not trained here",
    **dict.fromkeys(
        (
            *("REDSDataset", "REDSRecurrentDataset", "Vimeo90KDataset", "Vimeo90KRecurrentDataset"),
            *(
                "VideoTestDataset",
                "VideoTestVimeo90KDataset",
                "VideoTestDUFDataset",
                "VideoRecurrentTestDataset",
            ),
        ),
        "video is not trained here",
    ),
}
_NO_CHANGE = {"mean": 0, "std": 1}


def convert_datasets(conversion: Conversion, *, degrades: bool, kind: str) -> None:
    """Fill ``datasets`` and ``degradation``.

    Args:
        degrades: whether the model makes lq itself unless ``high_order_degradation`` is false.
        kind: the ``model_type``, for messages.

    Raises:
        UserError: for a data set of a kind that is not supported.
    """
    sets = conversion.sections(("datasets",))
    conversion.put("datasets", {}, ("datasets",))
    makes_lq = degrades and conversion.flag("high_order_degradation", default=True)
    if "train" in sets:
        _convert_train(conversion, makes_lq=makes_lq, degrades=degrades, kind=kind)
    else:
        conversion.problem("train is missing", ("datasets",))
    for key in sets:
        if key == "val" or key.startswith("val_"):
            _convert_val(conversion, key)
        elif key == "test" or key.startswith("test_"):
            conversion.pass_over("datasets", key)
            conversion.note(
                "does nothing in training: atelier evaluate and atelier restore take folders",
                ("datasets", key),
            )
        elif key != "train":
            conversion.problem("data sets are called train, val, val_2, val_NAME ...", ("datasets", key))


def _convert_train(conversion: Conversion, *, makes_lq: bool, degrades: bool, kind: str) -> None:
    source, ours = ("datasets", "train"), "datasets.train"
    word = _type_of(conversion, source)
    place = (*source, "type")
    if word == _SINGLE:
        raise conversion.error(f"given {show(word)}, not supported: {_REFUSED[_SINGLE]} to train on", place)
    if word == _CLEAN and not makes_lq:
        why = "high_order_degradation is false" if degrades else f"model_type {kind} degrades none"
        conversion.problem(
            f"given {show(word)}, which has clean pictures alone, but {why}; take PairedImageDataset", place
        )
    if word in _PAIRED and makes_lq:
        conversion.problem(
            f"given {show(word)}, but model_type {kind} makes lq itself; for pairs set high_order_degradation: false",
            place,
        )
    conversion.idle[source] = f"type {word} does not read it"
    conversion.put(ours, {}, source)
    _convert_pictures(conversion, source, ours, word)
    _mention_subset(conversion, source)
    _convert_size(conversion, makes_lq=makes_lq)
    for name in ("use_hflip", "use_rot"):
        conversion.put(f"{ours}.{name}", conversion.need(*source, name, otherwise=False), (*source, name))
    for name in ("batch_size_per_gpu", "num_worker_per_gpu", "pin_memory"):
        conversion.move((*source, name), f"{ours}.{name}")
    if not conversion.has(*source, "batch_size_per_gpu"):
        conversion.problem("batch_size_per_gpu is missing", source)
    _convert_bookkeeping(conversion, source)
    if makes_lq:
        _convert_degradation(conversion, kind)


def _mention_subset(conversion: Conversion, source: tuple[str, ...]) -> None:
    """Real-ESRGAN's tools write ``DF2K_subset`` while its files read ``DF2K``: with both there, say which is read."""
    root = conversion.get(*source, "dataroot_gt")
    if isinstance(root, str):
        folder = Path(root).expanduser()
        beside = folder.with_name(f"{folder.name}_subset")
        if folder.name and folder.is_dir() and beside.is_dir():
            conversion.note(
                f"{root} is read; {beside.name} lies beside it: datasets.train.dataroot_gt={beside} takes that",
                (*source, "dataroot_gt"),
            )


def _convert_bookkeeping(conversion: Conversion, source: KeyPath) -> None:
    """Keys that say here what happens anyway: silent at their usual value."""
    for name, usual in (
        ("use_shuffle", (None, True)),
        ("dataset_enlarge_ratio", (None, 1)),
        ("prefetch_mode", (None,)),
    ):
        place = (*source, name)
        value = conversion.get(*(str(part) for part in place))
        if value not in usual:
            known = conversion.table.find("datasets", name)
            assert known is not None
            conversion.note(f"given {show(value)}, does nothing: {known.why}", place)


def _convert_val(conversion: Conversion, key: str) -> None:
    source, ours = ("datasets", key), f"datasets.{key}"
    word = _type_of(conversion, source)
    if word == _SINGLE:
        conversion.pass_over(*source)
        conversion.note(
            f"left out: {word} has no clean pictures to measure against; atelier restore -i DIR restores them",
            (*source, "type"),
        )
        return
    if word == _CLEAN:
        conversion.problem(
            f"given {show(word)}; a validation set needs pairs, as of PairedImageDataset", (*source, "type")
        )
    conversion.idle[source] = "whole pictures are measured, in order"
    conversion.put(ours, {}, source)
    _convert_pictures(conversion, source, ours, word)


def _type_of(conversion: Conversion, source: tuple[str, ...]) -> str:
    conversion.sections(source)
    word = conversion.get(*source, "type")
    place = (*source, "type")
    if isinstance(word, str) and word in _REFUSED and word != _SINGLE:
        raise conversion.error(f"given {show(word)}, not supported: {_REFUSED[word]}", place)
    if not isinstance(word, str) or word not in (_CLEAN, *_PAIRED, _SINGLE):
        raise conversion.error(
            f"given {show(word)}, not supported; supported: {', '.join((_CLEAN, *_PAIRED))}", place
        )
    return word


def _convert_pictures(conversion: Conversion, source: tuple[str, ...], ours: str, word: str) -> None:
    """Where the pictures are, and how they are read."""
    roots = ["dataroot_gt", *(["dataroot_lq"] if word in _PAIRED else [])]
    conversion.move((*source, "name"), f"{ours}.name")
    for name in roots:
        if not conversion.has(*source, name):
            conversion.problem(f"{name} is missing", source)
        conversion.move((*source, name), f"{ours}.{name}")
    packed = _reads_lmdb(conversion, source, roots)
    names = (*source, _PAIRED.get(word, "meta_info"))
    if packed and conversion.has(*names):
        conversion.get(*names)
        conversion.note("does nothing: an LMDB holds its own list", names)
    elif conversion.has(*names):
        conversion.put(f"{ours}.meta_info", conversion.get(*names), names)
    elif word == _CLEAN and not packed:
        conversion.note("meta_info is left out: all pictures below dataroot_gt are taken", source)
    if word in _PAIRED and conversion.get(*source, "filename_tmpl", default="{}") != "{}":
        conversion.move((*source, "filename_tmpl"), f"{ours}.filename_tmpl")
    elif conversion.get(*source, "filename_tmpl", default="{}") != "{}":
        conversion.note(f"does nothing: type {word} has no lq files", (*source, "filename_tmpl"))
    # BasicSR's reader turns every picture into three channels.
    conversion.put(f"{ours}.convert_channels", True)
    colour = conversion.get(*source, "color")
    if colour == "y":
        conversion.put(f"{ours}.grey_from", "y", (*source, "color"))
    elif colour is not None:
        conversion.problem(f"given {show(colour)}, allowed: y, or leave it out", (*source, "color"))
    for name, neutral in _NO_CHANGE.items():
        values = conversion.get(*source, name)
        listed = values if isinstance(values, list) else [values]
        if values is not None and any(value != neutral for value in listed):
            conversion.problem(
                f"given {show(values)}, not supported: networks here see pictures in [0, 1]", (*source, name)
            )


def _reads_lmdb(conversion: Conversion, source: tuple[str, ...], roots: list[str]) -> bool:
    place = (*source, "io_backend")
    backend = conversion.sections(place)
    kind = backend.get("type", "disk")
    if kind not in ("disk", "lmdb"):
        conversion.problem(f"type {show(kind)} is not supported; supported: disk, lmdb", place)
    for name in backend:
        if name != "type":
            conversion.problem(f"unknown key '{name}'; io_backend has type alone", place)
    if kind == "lmdb":
        for name in roots:
            root = conversion.get(*source, name)
            if isinstance(root, str) and Path(root).suffix != ".lmdb":
                conversion.problem(
                    f"given {show(root)}, but io_backend is lmdb, whose folders end in .lmdb", (*source, name)
                )
    return bool(kind == "lmdb")


def _convert_size(conversion: Conversion, *, makes_lq: bool) -> None:
    """The crop's size: the top-level key where the model makes lq, else the data set's."""
    top, own = ("gt_size",), ("datasets", "train", "gt_size")
    wanted, inner = (conversion.get(*place) if conversion.has(*place) else None for place in (top, own))
    if not makes_lq:
        if conversion.has(*top):
            conversion.note("does nothing: datasets.train.gt_size counts where pairs are given", top)
        if inner is None:
            conversion.problem("gt_size is missing", own[:-1])
        conversion.move(own, "datasets.train.gt_size")
        return
    if wanted is None and inner is None:
        conversion.problem("gt_size is missing, at the top of the file", ())
    elif wanted is None:
        conversion.note("counts only at the top of the file for BasicSR; taken all the same", own)
        conversion.put("datasets.train.gt_size", inner, own)
    else:
        if inner not in (None, wanted):
            conversion.problem(
                f"given {show(inner)}, but gt_size at the top of the file is {show(wanted)}, which alone counts for "
                "BasicSR; make them equal",
                own,
            )
        conversion.put("datasets.train.gt_size", wanted, top)


def _convert_degradation(conversion: Conversion, kind: str) -> None:
    conversion.put("degradation", {"type": "realesrgan"}, ("model_type",))
    if kind == "RealESRNetModel":
        sharpens = conversion.need("gt_usm", otherwise=True)
        for name in ("gt_usm", "target_usm"):
            conversion.put(f"degradation.{name}", sharpens, ("gt_usm",))
    keys: list[tuple[tuple[str, ...], bool]] = [((name,), True) for name in STAGE_KEYS]
    keys += [(("datasets", "train", name), True) for name in KERNEL_KEYS]
    keys += [(("datasets", "train", name), False) for name in ("blur_kernel_size", "blur_kernel_size2")]
    keys.append((("queue_size",), False))
    missing: list[Any] = []
    for place, needed in keys:
        if needed and not conversion.has(*place):
            missing.append(place[-1])
        conversion.move(place, f"degradation.{place[-1]}")
    if missing:
        conversion.note(
            f"{', '.join(missing)}: left out, which BasicSR cannot run with; the published values are taken",
            (),
        )
