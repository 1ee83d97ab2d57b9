"""A bundle's engine beside another backend, or beside diffusers' own pipeline, timed in turn in one run."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from e2e_deploy.errors import UnavailableError
from e2e_deploy.limits import Parity, measure_parity
from e2e_deploy.names import Precision
from e2e_deploy.packages import require_compilers
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.backends.layout import by_kind
from e2e_deploy.runtime.checks.peer import DiffusersPeer
from e2e_deploy.runtime.checks.turns import Frames, Gain, gain, in_turn
from e2e_deploy.runtime.checks.verify import precision_of, worst
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.timing import Latency, summarise
from e2e_deploy.system.text import clean

PAUSE_S = 0.05
"""Before each call on a CPU: threads of OpenMP and of ONNX Runtime spin for milliseconds after theirs."""


@dataclass(frozen=True)
class Against:
    """Something else, timed in turn with the engine on the same frames.

    Attributes:
        backend: what it is: a backend by name, diffusers, or diffusers compiled.
        device: where it ran, in words.
        precision: what it computed in.
        ours: of the engine, in that run.
        theirs: of the other.
        gain: how many times as fast the engine is.
    """

    backend: str
    device: str
    precision: Precision
    ours: Latency
    theirs: Latency
    gain: Gain


@dataclass(frozen=True)
class AgainstDiffusers:
    """diffusers' own pipeline at one step, on the same checkpoint, device and frames as the engine.

    Attributes:
        precision: what the engine computed in.
        processing_size: [H, W] that diffusers' network saw; the engine's own may be padded further.
        eager: as diffusers comes.
        compiled: its networks compiled by torch.compile; None where they were not.
        not_compiled: why not; empty when they were.
        compile_s: seconds that took.
        parity: how far the engine's results are from diffusers' eager ones; the worst of the frames.
    """

    precision: Precision
    processing_size: tuple[int, int]
    eager: Against
    compiled: Against | None
    not_compiled: str
    compile_s: float
    parity: Parity

    @property
    def sentence(self) -> str:
        """What it comes to, for people: 2.7x as fast as diffusers (94 ms eager, 48 ms compiled, fp16), NVIDIA H200."""
        found = self.eager.gain
        if found.is_noise:
            how = f"as fast as diffusers within the noise, {found.low:.2f}x to {found.high:.2f}x"
        else:
            how = f"{found.ratio:.2g}x as fast as diffusers"
        told = [f"{_ms(self.eager.theirs)} eager"]
        if self.compiled is not None:
            told.append(f"{_ms(self.compiled.theirs)} compiled")
        told.append(self.eager.precision)
        if self.precision != self.eager.precision:
            told.append(f"ours {self.precision}")
        return f"{how} ({', '.join(told)}), {self.eager.device}"


def _ms(latency: Latency) -> str:
    return f"{latency.p50_ms:.0f} ms" if latency.p50_ms >= 10 else f"{latency.p50_ms:.1f} ms"


def _pause_s(engine: Engine) -> float:
    return PAUSE_S if engine.backend.gpu is None else 0.0


def against_backend(engine: Engine, other: Engine, frames: Frames, count: int) -> Against:
    """The engine and another one of the same bundle."""
    seconds = in_turn((engine, other), frames, count=count, pause_s=_pause_s(engine))
    return Against(
        other.backend.name,
        other.backend.device,
        precision_of(other.backend, other.manifest),
        summarise(seconds[0]),
        summarise(seconds[1]),
        gain(seconds[1], seconds[0]),
    )


def against_diffusers(
    engine: Engine, peer: DiffusersPeer, frames: Frames, count: int, stages: Stages | None = None
) -> AgainstDiffusers:
    """The engine and diffusers' pipeline, eager and compiled where a compiler is, all three in turn.

    Args:
        engine: of one frame size.
        peer: on the engine's device.
        frames: as the engine takes them.
        count: timed calls of each.
        stages: says that it compiles, which takes a minute; silent if None.

    Raises:
        E2EDeployError: the eager pipeline fails.
    """
    parity = _parity(engine, peer, frames)
    with (stages or Stages(quiet=True))("compile diffusers") as _:
        start = time.perf_counter()
        compiled, why_not = _compiled(engine, peer, frames)
        compile_s = time.perf_counter() - start
    calls = (engine, peer) if compiled is None else (engine, peer, compiled)
    ours, *theirs = in_turn(calls, frames, count=count, pause_s=_pause_s(engine))
    rows = [
        Against(
            name, peer.device, peer.precision, summarise(ours), summarise(each), gain(each, ours)
        )
        for name, each in zip(("diffusers", "diffusers compiled"), theirs, strict=False)
    ]
    return AgainstDiffusers(
        precision=precision_of(engine.backend, engine.manifest),
        processing_size=peer.processing_hw(engine.frame_size),
        eager=rows[0],
        compiled=rows[1] if compiled is not None else None,
        not_compiled=why_not,
        compile_s=compile_s,
        parity=parity,
    )


def _parity(engine: Engine, peer: DiffusersPeer, frames: Frames) -> Parity:
    """How far the engine's results are from the peer's, picture by picture."""
    found = []
    for frame in frames:
        ours, theirs = engine(frame), peer(frame)
        kinds = engine.manifest.kinds
        for (kind, one), (_, other) in zip(
            by_kind(kinds, ours), by_kind(kinds, theirs), strict=True
        ):
            pairs = [(one, other)] if frame.ndim == 3 else list(zip(one, other, strict=True))
            found += [measure_parity(kind.name, *pair) for pair in pairs]
    return worst(found)


def _compiled(
    engine: Engine, peer: DiffusersPeer, frames: Frames
) -> tuple[Callable[..., object] | None, str]:
    """The peer compiled and called once, or None and why not."""
    try:
        require_compilers(for_gpu=engine.backend.gpu is not None)
        compiled = peer.compiled()
        compiled(frames[0])
    except UnavailableError as error:
        return None, str(error)
    except Exception as error:
        # What a compiler and what it calls may raise has no common base; the eager pipeline ran on this frame.
        first = clean(str(error).strip().splitlines()[0] if str(error).strip() else repr(error))
        return None, f"torch.compile fails: {first[:200]}"
    return compiled, ""
