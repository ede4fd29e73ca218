"""From options to the apprentice and its school: teachers read, taps placed, pairs found, projectors drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from atelier.archs.weights import read_weights
from atelier.errors import UserError
from atelier.objectives.base import Setting
from atelier.objectives.distill.apprentice import Apprentice
from atelier.objectives.distill.mapping import describe_pairs, pairs_of
from atelier.objectives.distill.options import DistillOptions
from atelier.objectives.distill.plan_cache import Kind, PlanCache, check_room
from atelier.objectives.distill.projectors import PairShape, load_projectors
from atelier.objectives.distill.school import Faculty, School, Side, kinds_of
from atelier.objectives.distill.taps import Taps
from atelier.objectives.distill.teacher import Teacher, random_twin, read_teacher
from atelier.objectives.distill.term_options import ProjectorOptions
from atelier.objectives.distill.terms import build_terms
from atelier.randomness import Streams

# Terms on features; the others read outputs alone.
_ON_FEATURES = ("feature", "affinity", "attention")


def assemble(options: DistillOptions, network: nn.Module, setting: Setting) -> Apprentice:
    """The student with projectors, statistics and school, on the run's device.

    Projectors are drawn from a stream of their own: with or without them the student's start is the same.

    Raises:
        UserError: a teacher, tap, pair or file of start weights that does not fit.
    """
    teachers = [read_teacher(each, setting, place) for place, each in enumerate(options.teacher)]
    wanted = set(options.terms.active)
    size = (setting.lq_size, setting.lq_size)
    taps = teacher_taps = None
    pairs: list[tuple[int, int]] = []
    shapes: list[PairShape] = []
    if wanted & set(_ON_FEATURES):
        taps = Taps(
            network, options.taps.student, size, channels=setting.channels[0], where="distill.taps.student"
        )
        teacher_taps = _teacher_taps(teachers[0], options, setting)
        pairs = pairs_of(options.mapping, len(taps.names), len(teacher_taps.names))
        shapes = [
            PairShape(
                taps.shapes[own - 1][0],
                teacher_taps.shapes[theirs - 1][0],
                (taps.names[own - 1], teacher_taps.names[theirs - 1]),
            )
            for theirs, own in pairs
        ]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(Streams(setting.seed, 0, 0).torch_seed("projectors"))
        separate = len(teachers) if options.combine == "separate" and len(teachers) > 1 else 0
        terms = build_terms(options.terms, shapes, separate)
    lines: list[str] = []
    if taps is not None and teacher_taps is not None:
        feature = options.terms.feature
        projector = feature.projector if feature is not None else ProjectorOptions(type="none")
        lines = describe_pairs(pairs, taps, teacher_taps, projector=projector.type, side=projector.side)
        # What no pair names is not kept in memory; the pairs are told in the names of the full lists.
        own_places = sorted({own - 1 for _, own in pairs})
        taps.keep(own_places)
        taps.enabled = False
    faculties = _faculties(options, setting, teachers, teacher_taps, pairs)
    school = School(options, setting, faculties, lines)
    for side, faculty in faculties.items():
        mine = {name: term for name, term in terms.items() if school.side_of(name) == side}
        faculty.caches = caches_of(options, setting, faculty.teachers, kinds_of(options, mine))
    check_room(school.caches)
    order = [own_places.index(own - 1) for _, own in pairs] if taps is not None else []
    apprentice = Apprentice(network, terms, taps, order, pairs, school, [shape.names for shape in shapes])
    apprentice.terms.to(setting.device)
    if options.pretrain_projectors is not None:
        if apprentice.projectors is None:
            raise UserError(
                "distill.pretrain_projectors: there is no feature term whose projectors could take them"
            )
        file = read_weights(options.pretrain_projectors)
        source = f"distill.pretrain_projectors: {options.pretrain_projectors}"
        load_projectors(apprentice.projectors, file.state, source)
    return apprentice


def caches_of(
    options: DistillOptions, setting: Setting, teachers: Sequence[Teacher], kinds: Sequence[Kind]
) -> list[PlanCache | None]:
    """For each teacher with ``source: plan_cache`` its cache; None where the run's plan is not known."""
    tiles = options.terms.upcycle.tiles if options.terms.upcycle is not None else 0
    return [
        PlanCache(teacher, options.cache, setting, kinds, tiles)
        if teacher.options.source == "plan_cache" and setting.plan is not None
        else None
        for teacher in teachers
    ]


def _teacher_taps(teacher: Teacher, options: DistillOptions, setting: Setting) -> Taps:
    return Taps(
        teacher.net,
        options.taps.teacher,
        (setting.lq_size, setting.lq_size),
        channels=setting.channels[0],
        most=None,
        where="distill.taps.teacher",
    )


def _faculties(
    options: DistillOptions,
    setting: Setting,
    teachers: Sequence[Teacher],
    taps: Taps | None,
    pairs: Sequence[tuple[int, int]],
) -> dict[Side, Faculty]:
    """The real teachers where a term learns from them, their untrained twins where random_teacher names one."""
    random = options.random_terms
    places = sorted({theirs - 1 for theirs, _ in pairs})
    order = [places.index(theirs - 1) for theirs, _ in pairs]
    found: dict[Side, Faculty] = {}
    if set(options.terms.active) - random:
        found["real"] = Faculty(teachers, taps, order, options)
    if random:
        # One stands for all, unless each teacher has a response term of its own that asks for its twin.
        several = options.combine == "separate" and "response" in random
        twins = [
            random_twin(teacher, teacher.options, setting, place)
            for place, teacher in enumerate(teachers if several else teachers[:1])
        ]
        twin_taps = _teacher_taps(twins[0], options, setting) if taps is not None else None
        found["random"] = Faculty(twins, twin_taps, order, options)
        if twin_taps is not None:
            twin_taps.keep(places)
            twin_taps.enabled = False
    if taps is not None:
        taps.keep(places)
        taps.enabled = False
    return found
