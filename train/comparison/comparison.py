"""Results by the protocol side by side, each beside the float32 result that shows what its precision cost.

Knows: which results belong together, and which of them is the reference of which. Does not know: files, how a table
or page looks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count
from typing import Any

from e2e_deploy.names import MEASURES, PRECISIONS, Measure, SetName
from e2e_deploy.train.protocol.published import COLUMNS, Pair
from e2e_deploy.train.protocol.published_table import OwnRow
from e2e_deploy.train.protocol.result import Contender, SetResult


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model on one set."""

    result: SetResult
    reference: SetResult | None
    """The float32 result of the same weights on the same pictures; itself where it is that; None: there is none."""

    @property
    def is_reference(self) -> bool:
        """Whether others are compared with it."""
        return self.reference is self.result

    @property
    def delta(self) -> Pair | None:
        """What both numbers of the published tables gain over the reference's; None without one, or for itself."""
        if self.reference is None or self.is_reference:
            return None
        here, there = self.result.pair(), self.reference.pair()
        return here[0] - there[0], here[1] - there[1]

    @property
    def speed(self) -> float | None:
        """How many times as fast as the reference; None without one, for itself, and on other hardware."""
        if self.reference is None or self.is_reference:
            return None
        if not self.result.hardware or self.result.hardware != self.reference.hardware:
            return None
        return self.reference.ms_per_image / max(self.result.ms_per_image, 1e-9)

    @property
    def same_input(self) -> bool:
        """Whether the reference's network saw the pictures as this one did."""
        return self.reference is None or conditions(self.result) == conditions(self.reference)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model, as it was run, on every set that it was measured on."""

    contender: Contender
    cells: dict[SetName, Cell]

    @property
    def time_s(self) -> float:
        """Seconds a picture, the mean over sets."""
        return sum(cell.result.ms_per_image for cell in self.cells.values()) / len(self.cells) / 1e3

    @property
    def problems(self) -> list[str]:
        """Why its numbers are worthless, each reason once."""
        said = (cell.result.problem for cell in self.cells.values())
        return list(dict.fromkeys(problem for problem in said if problem))

    @property
    def hardware(self) -> str:
        """Names of the processors or GPUs that its times are of."""
        names = (cell.result.hardware for cell in self.cells.values())
        return ", ".join(dict.fromkeys(filter(None, names)))

    @property
    def runs(self) -> str:
        """Steps and ensemble, as the published tables have them."""
        settings = self.contender.settings
        return f"{settings.get('steps') or 1}x{settings.get('ensemble') or 1}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Everything that was measured of the same weights, references first."""

    lines: list[Line]

    @property
    def title(self) -> str:
        """Family and the first digits of the weights' hash."""
        contender = self.lines[0].contender
        return f"{contender.family}, weights {contender.checkpoint[:8]}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """All results of one measure."""

    measure: Measure
    groups: list[Group]

    @cached_property
    def sets(self) -> list[SetName]:
        """The sets that anything was measured on, in the order of the published tables."""
        found = {name for line in self.lines for name in line.cells}
        return [name for name in COLUMNS[self.measure] if name in found]

    @property
    def lines(self) -> list[Line]:
        """Of all groups."""
        return [line for group in self.groups for line in group.lines]

    @property
    def missing(self) -> list[SetName]:
        """Sets of the protocol that nothing was measured on."""
        return [name for name in COLUMNS[self.measure] if name not in self.sets]

    def own_rows(self, reasons: Mapping[SetName, str] | None = None) -> list[OwnRow]:
        """Every line as a row of the published table; ``reasons`` say why a set was measured nowhere."""
        reasons = reasons or {}
        return [
            OwnRow(
                method=f"{label}: worthless" if line.problems else label,
                values={name: cell.result.pair() for name, cell in line.cells.items()},
                missing={name: reasons.get(name, "no result here") for name in self.missing},
                runs=line.runs,
                time_s=line.time_s,
            )
            for line, label in zip(self.lines, self.labels, strict=True)
        ]

    @cached_property
    def labels(self) -> list[str]:
        """What each line is called: its own label, and what else tells it from another of that label."""
        plain = [line.contender.label() for line in self.lines]
        full = [
            label if plain.count(label) == 1 else f"{label} {told(line.contender)}"
            for label, line in zip(plain, self.lines, strict=True)
        ]
        return [
            label if full.count(label) == 1 else f"{label} #{full[:i].count(label) + 1}"
            for i, label in enumerate(full)
        ]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results side by side: a section a measure."""

    sections: list[Section]

    @property
    def results(self) -> list[SetResult]:
        """All of them, in the order in which they are shown."""
        return [
            line.cells[name].result
            for section in self.sections
            for line in section.lines
            for name in section.sets
            if name in line.cells
        ]

    def rows(self) -> list[dict[str, Any]]:
        """A flat record of every result, for programs: its numbers, its reference's, and the times of both."""
        return [
            {
                "measure": section.measure,
                "set": name,
                **asdict(line.contender),
                "metrics": cell.result.metrics,
                "num_images": cell.result.num_images,
                "num_published": cell.result.num_published,
                "ms_per_image": cell.result.ms_per_image,
                "hardware": cell.result.hardware,
                "differences": cell.result.differences,
                "problem": cell.result.problem,
                "reference": None if cell.reference is None else cell.reference.contender.label(),
                "is_reference": cell.is_reference,
                "change": None if cell.delta is None else list(cell.delta),
                "times_as_fast": cell.speed,
            }
            for section in self.sections
            for line in section.lines
            for name, cell in line.cells.items()
        ]


def compare(results: Iterable[SetResult]) -> Comparison:
    """Put results side by side: by measure, weights, precision and backend; a copy of one is not shown again."""
    every = list[SetResult]()
    for each in results:
        if each not in every:
            every.append(each)
    sections = []
    for measure in MEASURES:
        of_measure = [each for each in every if each.measure == measure]
        weights = dict.fromkeys((each.contender.checkpoint) for each in of_measure)
        groups = [
            _group([each for each in of_measure if each.contender.checkpoint == one])
            for one in weights
        ]
        if groups:
            groups.sort(key=lambda group: (group.title, group.lines[0].contender.model))
            sections.append(Section(measure=measure, groups=groups))
    return Comparison(sections=sections)


def conditions(result: SetResult) -> list[str]:
    """What is not as published, but for the precision."""
    return [each for each in result.differences if not each.startswith(result.contender.precision)]


def told(contender: Contender) -> str:
    """Settings and device in words: ``steps 4, ensemble 5, cuda:0``."""
    settings = [f"{name} {value}" for name, value in contender.settings.items()]
    return ", ".join([*settings, contender.device])


def _group(results: Sequence[SetResult]) -> Group:
    rows: dict[tuple[str, int], list[SetResult]] = {}
    for each in results:
        for (
            copy
        ) in count():  # what another machine measured of the same stands in a line of its own
            row = rows.setdefault((each.contender.key(), copy), [])
            if each.set not in [other.set for other in row]:
                row.append(each)
                break
    lines = [
        Line(
            contender=row[0].contender,
            cells={
                each.set: Cell(result=each, reference=_reference(each, results)) for each in row
            },
        )
        for row in rows.values()
    ]
    return Group(lines=sorted(lines, key=lambda line: _order(line.contender)))


def _reference(result: SetResult, results: Sequence[SetResult]) -> SetResult | None:
    """The float32 result that ``result`` is compared with, or None.

    On the same pictures with the same settings, and where there is one, with the same input; of these PyTorch's before
    other backends'.
    """
    fitting = [
        each
        for each in results
        if each.contender.precision == "fp32"
        and (each.set, each.pictures) == (result.set, result.pictures)
        and each.contender.kind == result.contender.kind
        and _settings(each) == _settings(result)
        and (each.contender.backend == "diffusers") == (result.contender.backend == "diffusers")
    ]
    return min(
        fitting,
        key=lambda each: (conditions(each) != conditions(result), _order(each.contender)),
        default=None,
    )


def _order(contender: Contender) -> tuple[object, ...]:
    """References first: float32, PyTorch, then other precisions and backends by name."""
    ranks: dict[str, int] = {name: rank for rank, name in enumerate(PRECISIONS)}
    backends = {"pytorch": 0, "torch": 1, "diffusers": 3}
    return (
        contender.backend == "diffusers",
        ranks.get(contender.precision, len(ranks)),
        backends.get(contender.backend, 2),
        contender.backend,
        contender.model,
        contender.key(),
    )


def _settings(result: SetResult) -> dict[str, object]:
    """All but the resolution of a checkpoint, which a bundle has in its size: ``conditions`` tell of both."""
    return {k: v for k, v in result.contender.settings.items() if k != "resolution"}
