"""What ``run`` says: one line while it runs, a summary and JSON at the end."""

import time
from dataclasses import asdict
from typing import Any

import click

from e2e_deploy.cli.wording import with_options
from e2e_deploy.progress import Line
from e2e_deploy.runtime.checks.parity_watch import ParityReport
from e2e_deploy.runtime.report import STAGES, RunReport
from e2e_deploy.runtime.sinks.picture_sink import MAX_LISTED
from e2e_deploy.runtime.sources.picture_source import PictureSource
from e2e_deploy.runtime.timing import Latency
from e2e_deploy.system.text import clean

EVERY_S = 0.5


class Status(Line):
    """Frames a second, engine p50 and p99, drops and age; what the source notes is printed above it when it comes.

    Args:
        limit: of frames, where one was given.

    Attributes:
        report: the run's so far; None before it began.
    """

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self._limit = limit
        self.report: RunReport | None = None
        self._noted = 0
        self._since_s, self._frames, self._rate = time.monotonic(), 0, 0.0

    def __call__(self, report: RunReport) -> None:
        """Show the report."""
        if self.report is None and report.view:
            self.say(f"view: {report.view}")
        self.report = report
        self._say_notes()
        self.show(lambda: self._described(report))

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._say_notes()

    def _described(self, report: RunReport) -> str:
        now = time.monotonic()
        if now - self._since_s >= EVERY_S:
            self._rate = (report.frames - self._frames) / (now - self._since_s)
            self._since_s, self._frames = now, report.frames
        total = self._limit or report.source.total
        words = [f"{report.frames}{f'/{total}' if total else ''} frames", f"{self._rate:.1f} fps"]
        if report.latency is not None:
            words.append(f"engine {report.latency.p50_ms:.0f}/{report.latency.p99_ms:.0f} ms")
        if report.age is not None:
            words.append(f"age {report.age.p50_ms:.0f} ms")
        if report.dropped:
            words.append(f"{report.dropped} dropped")
        if report.parity is not None:
            words.append(report.parity.words())
        return ", ".join(filter(None, words))

    def _say_notes(self) -> None:
        for note in self.report.source.notes[self._noted :] if self.report else ():
            self.say(with_options(note))
            self._noted += 1


def _row(name: str, latency: Latency) -> str:
    numbers = (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms)
    return f"{name:<8}" + "".join(f"{number:9.1f}" for number in numbers)


def print_summary(report: RunReport) -> None:
    """The end of a run, for people, on stderr."""
    lines = [*_about_source(report), *_about_results(report)]
    if report.latency is not None:
        lines += [*_about_speed(report), *_about_copies(report), _in_all(report, report.latency)]
    lines += _about_parity(report.parity)
    lines += [f"note: {report.note}"] if report.note else []
    lines += [f"error: {s.name} stopped early: {s.failure}" for s in report.sinks if s.failure]
    for line in lines:
        click.echo(with_options(line), err=True)


def _about_source(report: RunReport) -> list[str]:
    source = report.source
    lines = [
        f"frames of {h}x{w} (height x width) were fitted into the engine's {engine_h}x{engine_w}; "
        f"one that takes them as they are: e2e-deploy export --frame-size {h}x{w}"
        for (h, w), (engine_h, engine_w) in report.fitted.items()
    ]
    if source.skipped and isinstance(source, PictureSource):
        lines.append(
            f"{source.skipped} of the {source.total} pictures of {source.name} were left out"
        )
    elif source.skipped:
        lines.append(f"{source.skipped} damaged frames of {source.name} were skipped")
    if source.gaps:
        lines.append(f"{source.name} was lost and came back {source.gaps} times")
    return lines


def _about_results(report: RunReport) -> list[str]:
    lines = []
    if report.failed_steps:
        lines.append(
            f"{report.failed_steps} of {report.frames} results are unknown: {clean(report.failed_step)}"
        )
    if report.unknown_pixels:
        lines.append(
            f"{report.unknown_pixels / report.pixels:.2%} of all pixels are unknown (NaN); "
            f"{report.unknown_results} of {report.frames} results hold no number at all"
        )
    if len(report.files) >= MAX_LISTED:
        lines.append(f"of each output the first {MAX_LISTED} files are listed, and all are there")
    return lines


def _about_speed(report: RunReport) -> list[str]:
    """Of a live source what each stage took, and of every sink what it dropped."""
    lines = []
    if report.source.is_live:
        lines.append("ms           p50      p95      p99      max")
        stages = {stage: report.times[stage].latency() for stage in STAGES}
        lines += [_row(stage, latency) for stage, latency in stages.items() if latency is not None]
        lines.append(f"{report.captured} frames captured, {report.dropped} dropped for newer ones")
    return lines + [
        f"{sink.name}: {sink.dropped} results dropped for newer ones"
        for sink in report.sinks
        if sink.dropped
    ]


def _about_copies(report: RunReport) -> list[str]:
    if report.transfers is None:
        return []
    copies = [
        f"{name.replace('_', ' ')} {count['bytes'] / 1e6:.2f} MB in {count['calls']:.1f} copies"
        for name, count in transfers_json(report).items()
        if count["calls"]
    ]
    return [f"between host and GPU, a frame: {', '.join(copies)}"]


def _in_all(report: RunReport, latency: Latency) -> str:
    frames = "1 frame" if report.frames == 1 else f"{report.frames} frames"
    return (
        f"{frames} with {with_options(report.engine)}: engine p50 {latency.p50_ms:.1f} ms, "
        f"{report.frames / report.seconds:.1f} frames/s in all"
    )


def _about_parity(report: ParityReport | None) -> list[str]:
    """What was compared with the reference."""
    if report is None or report.worst is None:
        return []
    lines = [
        f"parity: {report.stored} stored and {report.live} live frames compared, {report.outside} outside the limit, "
        f"worst relative error {report.worst.relative:.2e}"
        + (f" ({report.failures})" if report.failures else "")
    ]
    if report.no_live:
        lines.append(f"parity: live frames were not compared: {report.no_live}")
    if report.saved is not None:
        lines.append(f"parity: the worst live frame is in {report.saved}")
    if report.not_saved:
        lines.append(f"parity: the worst live frame is not kept: {report.not_saved}")
    return lines


def transfers_json(report: RunReport) -> dict[str, dict[str, float]]:
    """Copies and bytes a frame by direction; empty for backends that do not count them."""
    frames = max(1, report.times["engine"].count)
    return {
        name: {"calls": count.calls / frames, "bytes": count.bytes / frames}
        for name, count in (report.transfers or {}).items()
    }


def report_json(report: RunReport) -> dict[str, Any]:
    """The end of a run, for programs."""
    source, parity = report.source, report.parity
    told = {} if parity is None else {"parity": asdict(parity) | {"saved": str(parity.saved or "")}}
    stages = {stage: report.times[stage].latency() for stage in STAGES}
    return {
        "source": source.name,
        "frames": report.frames,
        "captured": report.captured,
        "dropped": report.dropped,
        "skipped": source.skipped,
        "gaps": source.gaps,
        "notes": source.notes,
        "seconds": report.seconds,
        "engine": with_options(report.engine),
        "latency": None if report.latency is None else asdict(report.latency),
        "stages": {name: asdict(latency) for name, latency in stages.items() if latency},
        "transfers_per_frame": transfers_json(report) or None,
        "sinks": [asdict(sink) for sink in report.sinks],
        "files": [str(file) for file in report.files],
        "unknown": {
            "results": report.unknown_results,
            "share_of_pixels": report.unknown_pixels / max(1, report.pixels),
            "failed_steps": report.failed_steps,
            "why": report.failed_step,
        },
        "interrupted": report.interrupted,
        **told,
    }
