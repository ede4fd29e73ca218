"""Open the pictures of a data set and find everything that is wrong with them before any work starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier.data.bundled import bundled_path
from atelier.data.channels import channel_problem
from atelier.data.meta_info import MetaLine, read_meta_info
from atelier.data.options import ImagesOptions
from atelier.data.sources import (
    FileSource,
    Item,
    Shape,
    Source,
    digest,
    is_lmdb,
    listed,
    open_folders,
    parallel,
    roots_of,
    select,
)
from atelier.data.templates import require_template
from atelier.errors import UserError

Shapes = Callable[[Source], Sequence[Shape | UserError]]


@dataclass(frozen=True)
class Pictures:
    """The checked pictures of a data set.

    Attributes:
        gt: the clean pictures.
        gt_shapes: their ``(H, W, C)``.
        lq: their degraded versions in the same order, or None when the run's degradation makes them.
        lq_shapes: ``(h, w, C)`` of every whole ``lq`` picture (made by degradation: gt's sides divided by the scale,
            rounded down).
    """

    gt: Source
    gt_shapes: list[Shape]
    lq: Source | None
    lq_shapes: list[Shape]

    @property
    def fingerprint(self) -> str:
        """A digest of names, sizes and pairing: the same on every machine that holds the same data set."""
        parts = [
            f"{item.group}/{item.name} {shape}"
            for item, shape in zip(self.gt.items, self.gt_shapes, strict=True)
        ]
        if self.lq is not None:
            parts += [
                f"lq {item.name} {shape}" for item, shape in zip(self.lq.items, self.lq_shapes, strict=True)
            ]
        return digest(parts)


def header_shapes(source: Source) -> Sequence[Shape | UserError]:
    """Every picture's shape from its header, or the error of reading it."""
    return parallel(source.shape, len(source))


def open_pictures(
    options: ImagesOptions,
    *,
    scale: int,
    in_channels: int,
    shapes: Shapes = header_shapes,
    smallest_gt: int = 0,
) -> Pictures:
    """Open ``gt`` (and ``lq``), match them and check all of them.

    Args:
        options: where the pictures are.
        scale: gt side / lq side. A gt picture may be up to ``scale - 1`` pixels larger than ``lq * scale``
            (the rest of a division); the surplus right and bottom is cut off.
        in_channels: of the network.
        shapes: how to learn the shapes of a source.
        smallest_gt: gt pictures with a side below this are an error (0: they only must hold one lq pixel).

    Raises:
        UserError: one message for the whole set that lists every picture which is missing, unreadable, without
            partner, of the wrong size or of the wrong channel count.
    """
    if options.grey_from != "luma" and in_channels != 1:
        raise UserError(
            f"data set '{options.name}': grey_from {options.grey_from} does nothing for a network of {in_channels} "
            "channels; remove it"
        )
    sources = open_sources(options)
    gt, lq, problems = sources.gt, sources.lq, list(sources.problems)
    partners: list[int | None] = [None] * len(gt)
    lq_shapes: dict[int, Shape | UserError] = {}
    if lq is not None:
        partners, unmatched = match(
            gt.items,
            lq.items,
            options.filename_tmpl,
            listed_pairs=sources.listed_pairs,
            subset=options.meta_info is not None,
        )
        problems += unmatched
        matched = [index for index, partner in enumerate(partners) if partner is not None]
        lq = select(lq, [partner for partner in partners if partner is not None], by=gt)
        lq_shapes = dict(zip(matched, shapes(lq), strict=True))
        lq_places = dict(zip(matched, (item.place for item in lq.items), strict=True))
    gt_shapes: list[Shape] = []
    for index, (item, shape) in enumerate(zip(gt.items, shapes(gt), strict=True)):
        if isinstance(shape, UserError):
            problems.append(str(shape))
            continue
        gt_shapes.append(shape)
        problem = channel_problem(shape[2], in_channels, options.convert_channels)
        if problem is None:
            problem = _size_problem(shape, scale, smallest_gt, sources.stated.get(index))
        if problem is not None:
            problems.append(f"{item.place}: {problem}")
        if index in lq_shapes:
            problem = _lq_problem(shape, lq_shapes[index], scale, in_channels, options.convert_channels)
            if problem is not None:
                problems.append(f"{lq_places[index]}: {problem}")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise listed(f"data set '{options.name}' cannot be used, {count}:", problems)
    if lq is None:
        return Pictures(gt, gt_shapes, None, [(h // scale, w // scale, c) for h, w, c in gt_shapes])
    known = [shape for shape in lq_shapes.values() if not isinstance(shape, UserError)]
    return Pictures(gt, gt_shapes, lq, known)


def _size_problem(shape: Shape, scale: int, smallest_gt: int, stated: Shape | None) -> str | None:
    size = f"{shape[0]}x{shape[1]} pixels"
    if min(shape[:2]) < scale:
        return f"{size}, smaller than scale {scale}"
    if min(shape[:2]) < smallest_gt:
        return f"{size}, smaller than gt_size {smallest_gt} (small_pictures: pad accepts it)"
    if stated is not None and not _agrees(stated, shape):
        return f"the meta_info file says {stated}, the picture is {shape}"
    return None


def _agrees(stated: Shape, shape: Shape) -> bool:
    return stated[:2] == shape[:2] and stated[2] in (0, shape[2])


def _lq_problem(gt: Shape, lq: Shape | UserError, scale: int, in_channels: int, convert: bool) -> str | None:
    if isinstance(lq, UserError):
        return str(lq)
    if (gt[0] // scale, gt[1] // scale) != lq[:2]:
        return (
            f"{lq[0]}x{lq[1]}, but its gt is {gt[0]}x{gt[1]}: at scale {scale} it must be "
            f"{gt[0] // scale}x{gt[1] // scale}"
        )
    return channel_problem(lq[2], in_channels, convert)


@dataclass(frozen=True)
class OpenedSources:
    """Sources before their pictures are looked at.

    Attributes:
        gt: clean pictures.
        lq: degraded pictures, in any order unless ``listed_pairs``.
        listed_pairs: True where a meta-info file pairs them line by line.
        stated: gt index -> shape that the meta-info file states.
        problems: files that the meta-info file names and that do not exist.
    """

    gt: Source
    lq: Source | None
    listed_pairs: bool
    stated: dict[int, Shape]
    problems: list[str]


def open_sources(options: ImagesOptions) -> OpenedSources:
    """Open what ``options`` name without looking into the pictures; raises :class:`UserError`."""
    where = f"data set '{options.name}': dataroot_"
    if options.dataroot_gt == "bundled":
        names = options.pictures or list(options.default_pictures)
        files = [(path.name, path, 0) for path in map(bundled_path, names)]
        source = FileSource(files, "the bundled photographs", digest(["bundled", *names]))
        return OpenedSources(source, None, False, {}, [])
    gt_roots = roots_of(options.dataroot_gt)
    lq_roots = roots_of(options.dataroot_lq) if options.dataroot_lq is not None else []
    if lq_roots and len(lq_roots) != len(gt_roots):
        raise UserError(
            f"data set '{options.name}': {len(gt_roots)} folders in dataroot_gt but {len(lq_roots)} in dataroot_lq; "
            "they pair one by one"
        )
    if options.meta_info is not None:
        return _open_listed(options.meta_info, gt_roots, lq_roots, where)
    lq = open_folders(lq_roots, where + "lq") if lq_roots else None
    return OpenedSources(open_folders(gt_roots, where + "gt"), lq, False, {}, [])


def _open_listed(meta_info: Path, gt_roots: list[Path], lq_roots: list[Path], where: str) -> OpenedSources:
    """The pictures that a meta-info file names."""
    if len(gt_roots) > 1:
        raise UserError(f"{where}gt: meta_info names pictures below one folder; {len(gt_roots)} are given")
    if any(is_lmdb(root) for root in [*gt_roots, *lq_roots]):
        raise UserError(f"{where}gt: an LMDB is read by its own meta_info.txt; leave meta_info out")
    lines = read_meta_info(meta_info, pairs=bool(lq_roots))
    with_lq = [line for line in lines if line.lq is not None]
    if with_lq and len(with_lq) < len(lines):
        odd = next(line for line in lines if line.lq is None)
        raise UserError(
            f"{meta_info}, line {odd.number}: '{odd.name}' has no ', lq name' though other lines have one"
        )
    gt_files: list[tuple[str, Path, int]] = []
    lq_files: list[tuple[str, Path, int]] = []
    problems: list[str] = []
    stated: dict[int, Shape] = {}
    for line in lines:
        gt_file = _find(line, gt_roots[0])
        lq_file = _find(MetaLine(line.number, line.lq), lq_roots[0]) if line.lq is not None else None
        if gt_file is None:
            problems.append(f"{meta_info}, line {line.number}: '{line.name}' is not in {gt_roots[0]}")
        if line.lq is not None and lq_file is None:
            problems.append(f"{meta_info}, line {line.number}: '{line.lq}' is not in {lq_roots[0]}")
        if gt_file is None or (line.lq is not None and lq_file is None):
            continue
        if line.shape is not None:
            stated[len(gt_files)] = line.shape
        gt_files.append(gt_file)
        if lq_file is not None:
            lq_files.append(lq_file)

    def listed_source(files: list[tuple[str, Path, int]], root: Path) -> FileSource:
        identity = digest(["listed", str(root.absolute()), str(meta_info.absolute())])
        return FileSource(files, f"{root} by {meta_info}", identity)

    lq: Source | None = None
    if with_lq:
        lq = listed_source(lq_files, lq_roots[0])
    elif lq_roots:
        lq = open_folders(lq_roots, where + "lq")
    return OpenedSources(listed_source(gt_files, gt_roots[0]), lq, bool(with_lq), stated, problems)


def _find(line: MetaLine, root: Path) -> tuple[str, Path, int] | None:
    for name in line.candidates():
        if (root / name).is_file():
            return name.replace("\\", "/"), root / name, 0
    return None


def match(
    gt: Sequence[Item],
    lq: Sequence[Item],
    filename_tmpl: str,
    *,
    listed_pairs: bool = False,
    subset: bool = False,
) -> tuple[list[int | None], list[str]]:
    """For each gt picture the index of its lq partner, and one line per picture that has none.

    The partner lies in the same folder below its root and is called ``filename_tmpl`` with the gt's stem, with any
    picture suffix (the gt's own one is preferred). With ``listed_pairs`` line k pairs with line k. With ``subset``
    the gt pictures are a choice, so lq pictures without partner are no mistake.

    Raises:
        UserError: ``filename_tmpl`` is no template.
    """
    require_template(filename_tmpl)
    if listed_pairs:
        return list(range(len(gt))), []
    by_stem: dict[tuple[int, str], list[int]] = defaultdict(list)
    for index, item in enumerate(lq):
        by_stem[item.group, item.stem].append(index)
    partners: list[int | None] = []
    problems: list[str] = []
    for item in gt:
        folder, slash, stem = item.stem.rpartition("/")
        wanted = folder + slash + filename_tmpl.format(stem)
        found = by_stem.get((item.group, wanted), [])
        if len(found) > 1:
            found = [
                index for index in found if lq[index].name.endswith(item.name[len(item.stem) :])
            ] or found
        partners.append(found[0] if len(found) == 1 else None)
        if not found:
            problems.append(f"{item.place}: no lq picture named '{wanted}.*'")
        elif len(found) > 1:
            problems.append(
                f"{item.place}: several lq pictures: {', '.join(lq[index].name for index in found)}"
            )
    if not subset:
        used = set(partners)
        problems += [
            f"{item.place}: no gt picture for it" for index, item in enumerate(lq) if index not in used
        ]
    return partners, problems
