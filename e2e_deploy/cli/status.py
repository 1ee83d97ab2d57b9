"""What ``run`` says: one line while it runs, a summary and JSON at the end."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from e2e_deploy.runtime.checks.parity_watch import ParityReport
from e2e_deploy.runtime.run import STAGES, RunReport
from e2e_deploy.runtime.sinks.picture_sink import MAX_LISTED
from e2e_deploy.runtime.sources.picture_source import PictureSource
from e2e_deploy.runtime.sources.source import Source
from e2e_deploy.runtime.timing import Latency
from e2e_deploy.system.text import clean

EVERY_S = 0.5


class StatusLine:
    """Frames a second, engine p50 and p99, drops and age, rewritten in place; without them where stderr is no terminal.

    What the source notes is printed when it comes, in lines that stay.

    Args:
        source: whose frames come.
        total: how many will come, where it is known.
        more: further words for the line.
    """

    def __init__(
        self, source: Source, total: int | None, more: Callable[[], str] = lambda: ""
    ) -> None:
        self._source, self._total, self._more = source, total, more
        self._noted = 0
        self._shown = sys.stderr.isatty()
        self._last, self._frames = time.monotonic(), 0

    def __call__(self, report: RunReport) -> None:
        """Show the report, at most twice a second."""
        self._say_notes()
        now = time.monotonic()
        if not self._shown or now - self._last < EVERY_S:
            return
        rate = (report.frames - self._frames) / (now - self._last)
        self._last, self._frames = now, report.frames
        of = f"/{self._total}" if self._total else ""
        words = [f"{report.frames}{of} frames", f"{rate:.1f} fps"]
        if report.latency is not None:
            words.append(f"engine {report.latency.p50_ms:.0f}/{report.latency.p99_ms:.0f} ms")
        if report.age is not None:
            words.append(f"age {report.age.p50_ms:.0f} ms")
        if report.dropped:
            words.append(f"{report.dropped} dropped")
        line = ", ".join([*words, *filter(None, [self._more()])])
        click.echo(f"\r\x1b[K{line}", err=True, nl=False)

    def end(self) -> None:
        """Leave the line."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
        self._say_notes()

    def _say_notes(self) -> None:
        for note in self._source.notes[self._noted :]:
            click.echo(("\r\x1b[K" if self._shown else "") + note, err=True)
            self._noted += 1


def _row(name: str, latency: Latency) -> str:
    numbers = (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms)
    return f"{name:<8}" + "".join(f"{number:9.1f}" for number in numbers)


def print_summary(report: RunReport, source: Source) -> None:
    """The end of a run, for people, on stderr."""

    def say(text: str) -> None:
        click.echo(text, err=True)

    for (h, w), (engine_h, engine_w) in report.fitted.items():
        say(
            f"{w}x{h} frames were fitted into the engine's {engine_w}x{engine_h}; "
            f"for full detail: e2e-deploy export --frame-size {h}x{w}"
        )
    if source.skipped and isinstance(source, PictureSource):
        say(f"{source.skipped} of the {source.total} pictures of {source.name} were left out")
    elif source.skipped:
        say(f"{source.skipped} damaged frames of {source.name} were skipped")
    if source.gaps:
        say(f"{source.name} was lost and came back {source.gaps} times")
    if report.failed_steps:
        say(
            f"{report.failed_steps} of {report.frames} results are unknown: {clean(report.failed_step)}"
        )
    if report.unknown_pixels:
        say(
            f"{report.unknown_pixels / report.pixels:.2%} of all pixels are unknown (NaN); "
            f"{report.unknown_results} of {report.frames} results hold no number at all"
        )
    if len(report.files) >= MAX_LISTED:
        say(f"of each output the first {MAX_LISTED} files are listed, and all are there")
    if report.latency is None:
        return
    if source.is_live:
        say("ms           p50      p95      p99      max")
        for stage in STAGES:
            if (latency := report.times[stage].latency()) is not None:
                say(_row(stage, latency))
        say(f"{report.captured} frames captured, {report.dropped} dropped for newer ones")
    for sink in report.sinks:
        if sink.dropped:
            say(f"{sink.name}: {sink.dropped} results dropped for newer ones")
    if report.transfers is not None:
        per_frame = transfers_json(report)
        say(
            "between host and GPU, a frame: "
            + ", ".join(
                f"{name.replace('_', ' ')} {count['bytes'] / 1e6:.2f} MB in {count['calls']:.1f} copies"
                for name, count in per_frame.items()
                if count["calls"]
            )
        )
    say(
        f"{report.frames} frames with {report.engine}: engine p50 {report.latency.p50_ms:.1f} ms, "
        f"{report.frames / report.seconds:.1f} frames/s in all"
    )


def transfers_json(report: RunReport) -> dict[str, dict[str, float]]:
    """Copies and bytes a frame by direction; empty for backends that do not count them."""
    frames = max(1, report.times["engine"].count)
    return {
        name: {"calls": count.calls / frames, "bytes": count.bytes / frames}
        for name, count in (report.transfers or {}).items()
    }


def as_json(report: RunReport, source: Source) -> dict[str, Any]:
    """The end of a run, for programs."""
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
        "engine": report.engine,
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
    }


def print_parity(report: ParityReport | None) -> None:
    """What was compared with the reference, for people, on stderr."""
    if report is None or report.worst is None:
        return
    click.echo(
        f"parity: {report.stored} stored and {report.live} live frames compared, {report.outside} outside the limit, "
        f"worst relative error {report.worst.relative:.2e}"
        + (f" ({report.failures})" if report.failures else ""),
        err=True,
    )
    if report.no_live:
        click.echo(f"parity: live frames were not compared: {report.no_live}", err=True)
    if report.saved is not None:
        click.echo(f"parity: the worst live frame is in {report.saved}", err=True)
    if report.not_saved:
        click.echo(f"parity: the worst live frame is not kept: {report.not_saved}", err=True)


def parity_json(report: ParityReport | None) -> dict[str, Any]:
    """The same for programs."""
    if report is None:
        return {}
    return {"parity": asdict(report) | {"saved": str(report.saved or "")}}
