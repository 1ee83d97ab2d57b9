"""Procedural pictures for the rendered scenes: surface textures that tile, wall pictures and skies.

Every function takes a random generator and gives linear RGB. Knows nothing of shapes or rendering.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Rng = np.random.Generator

TEXTURE_SIZE = 256
"""Pixels per side of every surface texture: one size lets compiled render kernels be reused."""
SKY_SIZE_HW = (128, 256)


def colour(
    rng: Rng,
    *,
    hue: tuple[float, float] = (0.0, 1.0),
    saturation: tuple[float, float] = (0.0, 0.7),
    value: tuple[float, float] = (0.15, 0.9),
) -> F32:
    """A random colour, linear RGB `[3]` in [0, 1]; the ranges are of display HSV, each 0..1."""
    hsv = np.array([[[rng.uniform(*hue) * 360, rng.uniform(*saturation), rng.uniform(*value)]]])
    rgb: F32 = cv2.cvtColor(hsv.astype(np.float32), cv2.COLOR_HSV2RGB)[0, 0]
    return to_linear(rgb)


def to_linear(display: npt.ArrayLike) -> F32:
    """Display values in [0, 1] to linear light (the sRGB curve as a plain power of 2.2)."""
    return np.asarray(np.asarray(display, np.float32) ** np.float32(2.2), np.float32)


def noise(
    rng: Rng, *, cells: tuple[int, int] = (4, 4), octaves: int = 5, fade: float = 0.55
) -> F32:
    """Multi-octave value noise that tiles: float32 `[256, 256]` in [0, 1]; ``cells`` are (rows, columns)."""
    total = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE), np.float32)
    for octave in range(octaves):
        rows, columns = (min(c << octave, TEXTURE_SIZE) for c in cells)
        lattice = rng.random((rows, columns), dtype=np.float32)
        total += fade**octave * _resized_wrapping(lattice, (TEXTURE_SIZE, TEXTURE_SIZE))
    low, high = total.min(), total.max()
    return np.asarray((total - low) / max(float(high - low), 1e-6), np.float32)


def texture(rng: Rng, kind: str, base: F32 | None = None) -> F32:
    """A texture of one of the ``KINDS``.

    Args:
        rng: the only source of randomness.
        kind: a key of ``KINDS``.
        base: main colour, linear RGB `[3]`; random when left out.

    Returns:
        Linear RGB, float32 `[256, 256, 3]` in [0.005, 0.95]; it tiles in both directions.
    """
    rgb = KINDS[kind](rng, colour(rng) if base is None else base)
    if kind != "plain":
        # Dirt and wear: nothing real is evenly coloured.
        rgb = rgb * (1 - rng.uniform(0.05, 0.3) * noise(rng)[..., None])
    return np.clip(rgb, 0.005, 0.95).astype(np.float32)


def _resized_wrapping(lattice: F32, size_hw: tuple[int, int]) -> F32:
    rows, columns = lattice.shape
    padded = np.pad(lattice, 2, mode="wrap")
    y = (np.arange(size_hw[0], dtype=np.float32) + 0.5) * rows / size_hw[0] + 1.5
    x = (np.arange(size_hw[1], dtype=np.float32) + 0.5) * columns / size_hw[1] + 1.5
    map_x, map_y = np.meshgrid(x, y)
    return np.asarray(cv2.remap(padded, map_x, map_y, cv2.INTER_LINEAR), np.float32)


def _mix(a: npt.ArrayLike, b: npt.ArrayLike, weight_HW: npt.NDArray[np.floating]) -> F32:
    return np.asarray(np.asarray(a) + (np.asarray(b) - a) * weight_HW[..., None], np.float32)


def _grid() -> tuple[F32, F32]:
    line = (np.arange(TEXTURE_SIZE, dtype=np.float32) + 0.5) / TEXTURE_SIZE
    return np.tile(line, (TEXTURE_SIZE, 1)), np.tile(line[:, None], (1, TEXTURE_SIZE))


def _near(rng: Rng, base: F32, spread: float) -> F32:
    return np.asarray(np.clip(base * rng.uniform(1 - spread, 1 + spread, 3), 0, 1), np.float32)


def _plain(rng: Rng, base: F32) -> F32:
    return np.broadcast_to(base, (TEXTURE_SIZE, TEXTURE_SIZE, 3)).copy()


def _plaster(rng: Rng, base: F32) -> F32:
    return _mix(base, base * rng.uniform(0.5, 0.9), noise(rng, cells=(8, 8), octaves=6, fade=0.8))


def _clouded(rng: Rng, base: F32) -> F32:
    cells = (int(rng.integers(2, 8)),) * 2
    return _mix(base, colour(rng), noise(rng, cells=cells, fade=rng.uniform(0.4, 0.8)))


def _checker(rng: Rng, base: F32) -> F32:
    x, y = _grid()
    count = 2 * int(rng.integers(1, 6))
    return _mix(base, colour(rng), (np.floor(x * count) + np.floor(y * count)) % 2)


def _stripes(rng: Rng, base: F32) -> F32:
    x, y = _grid()
    across = [x, y, x + y][rng.integers(3)] * int(rng.integers(2, 16))
    wave = across % 1.0
    share = rng.uniform(0.2, 0.8)
    return _mix(base, colour(rng), (wave < share).astype(np.float32))


def _bricks(rng: Rng, base: F32) -> F32:
    rows = 2 * int(rng.integers(3, 7))
    columns = max(rows // int(rng.integers(2, 4)), 1)
    return _blocks(rng, base, rows, columns, shift=0.5, joint=rng.uniform(0.06, 0.12), spread=0.3)


def _tiles(rng: Rng, base: F32) -> F32:
    count = int(rng.integers(1, 7))
    return _blocks(rng, base, count, count, shift=0.0, joint=rng.uniform(0.01, 0.04), spread=0.06)


def _planks(rng: Rng, base: F32) -> F32:
    rows = 2 * int(rng.integers(2, 5))
    blocks = _blocks(rng, base, rows, 1, shift=0.4, joint=0.03, spread=0.25)
    return np.asarray(blocks * (_wood(rng, np.ones(3, np.float32)) * 0.7 + 0.3), np.float32)


def _blocks(
    rng: Rng, base: F32, rows: int, columns: int, *, shift: float, joint: float, spread: float
) -> F32:
    """Rows of rectangles, every second row shifted, each with a slightly different colour."""
    x, y = _grid()
    row = np.floor(y * rows).astype(int)
    along = x * columns + shift * (row % 2)
    column = np.floor(along).astype(int) % columns
    tone = base * rng.uniform(1 - spread, 1 + spread, (rows, columns, 1))
    tone = tone * rng.uniform(1 - spread / 4, 1 + spread / 4, (rows, columns, 3))
    from_edge_y = np.minimum(y * rows % 1, 1 - y * rows % 1)
    from_edge_x = np.minimum(along % 1, 1 - along % 1) * rows / columns
    in_joint = np.minimum(from_edge_x, from_edge_y) < joint
    mortar = colour(rng, saturation=(0.0, 0.1), value=(0.2, 0.85))
    return _mix(tone[row, column], mortar, in_joint.astype(np.float32))


def _wood(rng: Rng, base: F32) -> F32:
    _, y = _grid()
    warp = noise(rng, cells=(4, 1), octaves=3)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (y * int(rng.integers(3, 9)) + 2 * warp))
    grain = noise(rng, cells=(32, 2), octaves=3, fade=0.8)
    return _mix(base, base * np.array([0.55, 0.45, 0.35]), 0.6 * rings + 0.4 * grain)


def _marble(rng: Rng, base: F32) -> F32:
    veins = 1 - np.abs(2 * noise(rng, cells=(3, 3), octaves=6) - 1)
    return _mix(base, colour(rng, saturation=(0.0, 0.3)), veins**12)


def _speckle(rng: Rng, base: F32) -> F32:
    chance = noise(rng, cells=(64, 64), octaves=2)
    return _mix(_plaster(rng, base), _near(rng, colour(rng), 0.3), (chance > 0.72) * 1.0)


def _dots(rng: Rng, base: F32) -> F32:
    x, y = _grid()
    count = int(rng.integers(2, 10))
    distance = np.hypot(x * count % 1 - 0.5, y * count % 1 - 0.5)
    return _mix(base, colour(rng), (distance < rng.uniform(0.1, 0.4)) * 1.0)


def _fabric(rng: Rng, base: F32) -> F32:
    x, y = _grid()
    weave = 0.5 + 0.25 * (np.sin(2 * np.pi * 64 * x) + np.sin(2 * np.pi * 64 * y))
    bands = noise(rng, cells=(1, 16), octaves=2) * noise(rng, cells=(16, 1), octaves=2)
    rgb = _mix(base, colour(rng), bands if rng.random() < 0.4 else 0.2 * bands)
    return np.asarray(rgb * (0.75 + 0.25 * weave[..., None]), np.float32)


def _gradient(rng: Rng, base: F32) -> F32:
    _, y = _grid()
    return _mix(base, colour(rng), 0.5 - 0.5 * np.cos(2 * np.pi * y))


def _picture(rng: Rng, base: F32) -> F32:
    """Shapes over a gradient: posters, paintings, screens and labels."""
    canvas = _clouded(rng, base) if rng.random() < 0.5 else _gradient(rng, base)
    canvas = np.ascontiguousarray(255 * canvas ** (1 / 2.2), np.uint8)
    for _ in range(int(rng.integers(3, 14))):
        tone = [int(c) for c in rng.integers(0, 256, 3)]
        x, y, w, h = (int(v) for v in rng.integers(0, TEXTURE_SIZE, 4))
        style = rng.integers(4)
        if style == 0:
            cv2.rectangle(canvas, (x, y), (x + w // 2, y + h // 3), tone, -1)
        elif style == 1:
            cv2.circle(canvas, (x, y), w // 4 + 2, tone, -1, cv2.LINE_AA)
        elif style == 2:
            cv2.line(canvas, (x, y), (w, h), tone, int(rng.integers(1, 14)), cv2.LINE_AA)
        else:
            word = "".join(chr(c) for c in rng.integers(65, 91, int(rng.integers(3, 9))))
            cv2.putText(canvas, word, (x // 2, y), 5, float(rng.uniform(0.8, 3)), tone, 2)
    return to_linear(canvas / 255)


def _facade(rng: Rng, base: F32) -> F32:
    """Rows of windows with frames; one tile is a few storeys of a building."""
    x, y = _grid()
    rows, columns = (int(v) for v in rng.integers(2, 5, 2))
    u, v = x * columns % 1 - 0.5, y * rows % 1 - 0.5
    half_w, half_h = rng.uniform(0.15, 0.45, 2)
    glass = (np.abs(u) < half_w) & (np.abs(v) < half_h)
    frame = (np.abs(u) < half_w + 0.04) & (np.abs(v) < half_h + 0.05) & ~glass
    tone = rng.uniform(0.2, 1.2, (rows, columns, 1)) * colour(
        rng, hue=(0.5, 0.65), value=(0.15, 0.5)
    )
    wall = _bricks(rng, base) if rng.random() < 0.3 else _plaster(rng, base)
    window = tone[(y * rows).astype(int), (x * columns).astype(int)]
    rgb = np.where(glass[..., None], window, wall)
    return _mix(rgb, colour(rng, saturation=(0.0, 0.2)), frame * 1.0)


def _grass(rng: Rng, base: F32) -> F32:
    green = colour(rng, hue=(0.17, 0.34), saturation=(0.3, 0.7), value=(0.25, 0.6))
    blades = noise(rng, cells=(32, 32), octaves=4, fade=0.9)
    return _mix(green, green * np.array([0.4, 0.5, 0.35]), blades)


KINDS: dict[str, Callable[[Rng, F32], F32]] = {
    "plain": _plain,
    "plaster": _plaster,
    "clouded": _clouded,
    "checker": _checker,
    "stripes": _stripes,
    "bricks": _bricks,
    "tiles": _tiles,
    "planks": _planks,
    "wood": _wood,
    "marble": _marble,
    "speckle": _speckle,
    "dots": _dots,
    "fabric": _fabric,
    "gradient": _gradient,
    "picture": _picture,
    "facade": _facade,
    "grass": _grass,
}
"""Every kind of surface texture; each maker takes (rng, main colour)."""


def sky(rng: Rng, *, sun_to_sky: float) -> F32:
    """A latitude-longitude sky, y up, the zenith in row 0.

    Args:
        rng: the only source of randomness.
        sun_to_sky: light the sun casts on the ground over light the sky casts; 0 is overcast.

    Returns:
        Linear radiance, float32 `[128, 256, 3]`, about 1 where the sky is brightest, more in the sun.
    """
    height, width = SKY_SIZE_HW
    elevation = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    up = np.clip(np.sin(elevation), 0, 1)[:, None]
    overcast = sun_to_sky == 0
    zenith = colour(
        rng, hue=(0.55, 0.64), saturation=(0.0, 0.1) if overcast else (0.3, 0.7), value=(0.6, 0.9)
    )
    horizon = colour(rng, hue=(0.05, 0.62), saturation=(0.0, 0.2), value=(0.8, 1.0))
    rgb = np.repeat(_mix(horizon, zenith, up ** rng.uniform(0.3, 0.7)), width, axis=1)
    clouds = np.clip(noise(rng, cells=(6, 3)) * rng.uniform(1, 3) - rng.uniform(0.3, 1.2), 0, 1)
    rgb = _mix(
        rgb, np.full(3, rng.uniform(0.7, 1.0)), cv2.resize(clouds, (width, height)) * up**0.5
    )
    below = elevation < 0
    rgb[below] = colour(rng, saturation=(0.0, 0.4), value=(0.2, 0.6))
    if not overcast:
        row = int(height * rng.uniform(0.1, 0.4))
        column = int(rng.integers(2, width - 2))
        warmth = np.array([1.0, rng.uniform(0.75, 0.97), rng.uniform(0.5, 0.9)])
        solid_angle = (np.pi / height) * (2 * np.pi / width) * np.cos(elevation)
        sky_light = float((rgb.mean(axis=2) * (up * solid_angle[:, None])).sum())
        sun_cosine = float(up[row, 0])
        # Two by two pixels: about 3 degrees wide, so that shadows have a soft edge.
        radiance = sun_to_sky * sky_light / (4 * solid_angle[row] * sun_cosine)
        rgb[row : row + 2, column : column + 2] += radiance * warmth
    return np.asarray(rgb, np.float32)
