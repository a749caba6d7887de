"""Paint a section as an H&E slide: nuclei, cytoplasm, collagen and fat, from the tissue alone.

Everything is painted as amounts of two dyes, haematoxylin and eosin, whose absorption then gives
the colour (Beer-Lambert), so that a change of the stain moves all colours as in the laboratory.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from flag_st.synthetic.tissue import CELLS_PER_MM2, DOMAINS, Section

#: µm per pixel of level 0, and of the coarse maps on which the fields are evaluated.
PIXEL_UM, COARSE_UM = 1.0, 16.0
#: How many rows are painted at a time; also the size of the noise tiles in pixels.
STRIP = 256
#: Optical density of the dyes in red, green and blue, and their amounts between the nuclei of each
#: domain.
HAEMATOXYLIN, EOSIN = np.array([0.78, 0.88, 0.46]), np.array([0.18, 0.95, 0.46])
GROUND_H = np.array([0.22, 0.05, 0.14, 0.01])
GROUND_E = np.array([0.40, 0.36, 0.22, 0.04])
STROMA, FAT = DOMAINS.index("stroma"), DOMAINS.index("fat")


@dataclass(frozen=True)
class Nuclei:
    """How the nuclei of a domain look.

    Attributes:
        long, short: half-axes in µm.
        spread: standard deviation of the logarithm of the half-axes.
        dye: amount of haematoxylin.
        pale: how much paler the centre is, from 0 to 1.
    """

    long: float
    short: float
    spread: float
    dye: float
    pale: float


#: Nuclei are large and vesicular in tumour, spindles in stroma, small, round and dark in immune
#: infiltrates, thin and flat in fat.
NUCLEI = (
    Nuclei(5.2, 4.2, 0.18, 0.95, 0.45),
    Nuclei(6.5, 1.8, 0.22, 1.05, 0.10),
    Nuclei(3.2, 3.0, 0.08, 1.35, 0.05),
    Nuclei(4.5, 1.5, 0.20, 1.10, 0.05),
)


def paint(section: Section) -> np.ndarray:
    """(height, width, 3) uint8 picture of a section, with ``PIXEL_UM`` µm per pixel."""
    width, height = np.ceil(section.design.size_um / PIXEL_UM).astype(int)
    rng = section.generator("picture")
    maps = _coarse_maps(section, rng)
    fat = _fat_cells(_enlarge(maps["fat"], width, 0, height), rng)
    nuclei = _nuclei(maps, fat, rng)
    textures = _textures(rng, width)
    colours = _stain_batch(section.generator("stain"))
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP):  # strips fit in the cache, which halves the time
        rows = slice(top, min(top + STRIP, height))
        local = {
            name: _enlarge(value, width, rows.start, rows.stop) for name, value in maps.items()
        }
        dyes = _dyes(local, fat[rows], nuclei[rows], textures)
        picture[rows] = _colour(*dyes, textures["lamp"], *colours)
    return picture


def _coarse_maps(section: Section, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Name → (rows, columns) map of the section on the coarse grid, with detail within a spot."""
    columns, rows = np.ceil(section.design.size_um / COARSE_UM).astype(int)
    x, y = np.meshgrid((np.arange(columns) + 0.5), (np.arange(rows) + 0.5))
    points = np.stack([x.ravel(), y.ravel()], axis=1) * COARSE_UM

    # Where domains mix, each place is still mostly of one domain, as in nests and septa.
    fine = [_noise(rng, (rows, columns), 2).ravel() for _ in DOMAINS]
    shares = section.shares(section.fields("domains", points) + 0.22 * np.stack(fine, axis=1))
    shares = shares**2 / (shares**2).sum(1, keepdims=True)
    warp = points + section.fields("fibres", points) * 170
    ragged = 6 * _noise(rng, (rows, columns), 1).ravel()
    maps = {name: shares[:, k] for k, name in enumerate(DOMAINS)}
    maps["inside"] = section.inside(points) + ragged
    maps["density"] = shares @ CELLS_PER_MM2 * section.crowding(points)
    maps["along"], maps["across"] = warp.T
    return {name: v.reshape(rows, columns).astype(np.float32) for name, v in maps.items()}


def _enlarge(value: np.ndarray, width: int, top: int, bottom: int) -> np.ndarray:
    """Rows ``top`` to ``bottom`` of a coarse map at full resolution."""
    scale = PIXEL_UM / COARSE_UM
    box = (0, top * scale, width * scale, bottom * scale)
    size = (width, bottom - top)
    return np.asarray(Image.fromarray(value).resize(size, Image.Resampling.BILINEAR, box=box))


def _noise(rng: np.random.Generator, shape: tuple[int, int], sigma) -> np.ndarray:
    """Smooth float32 noise of unit variance that can be tiled without a seam."""
    noise = gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap")
    return noise / noise.std()


def _textures(rng: np.random.Generator, width: int) -> dict[str, np.ndarray]:
    """Noise as high as a strip and as wide as the picture, except that of the fibres."""
    repeats = (1, -(-width // STRIP))
    tile = (STRIP, STRIP)
    return {
        "grain": np.tile(_noise(rng, tile, 2.0), repeats)[:, :width],
        "lamp": np.tile(1.6 * _noise(rng, tile, 0.7), repeats)[:, :width],
        "fibres": _noise(rng, (512, 512), (1.6, 22)) + 0.8 * _noise(rng, (512, 512), (6, 40)),
    }


def _dyes(
    maps: dict[str, np.ndarray], fat: np.ndarray, nuclei: np.ndarray, textures: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin and eosin of one strip, (rows, width) each."""
    grain = textures["grain"][: len(fat)]
    haematoxylin, eosin = np.zeros_like(grain), np.zeros_like(grain)
    for name, h, e in zip(DOMAINS, GROUND_H, GROUND_E, strict=True):
        haematoxylin += np.float32(h) * maps[name]
        eosin += np.float32(e) * maps[name]
    # Wavy bundles of collagen are streaks, looked up along warped coordinates.
    streaks = textures["fibres"]
    row, column = (maps[n].astype(np.int32) % len(streaks) for n in ("across", "along"))
    eosin += maps["stroma"] * np.clip(0.13 * streaks[row, column] + 0.08, -0.16, 0.42)
    eosin *= 1 + np.float32(0.20) * grain
    haematoxylin *= 1 + np.float32(0.35) * grain
    for kind, (h, e) in {1: (0.10, 0.45), 2: (0.0, 0.02)}.items():
        haematoxylin[fat == kind], eosin[fat == kind] = h, e
    tissue = np.clip(maps["inside"] / 10 + 0.5, 0, 1)
    eosin *= tissue * (1 - np.float32(0.6) * np.minimum(nuclei, 1))
    return np.maximum(haematoxylin, nuclei) * tissue, eosin


def _fat_cells(share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(height, width) map: 2 in the empty lumen of a fat cell, 1 on its membrane, 0 elsewhere."""
    size, spacing = 512, 64.0  # the pattern repeats every 512 µm without a seam
    steps = np.arange(0, size, spacing)
    x, y = np.meshgrid(steps, steps)
    seeds = np.stack([x.ravel(), y.ravel()], axis=1) + rng.uniform(-22, 22, size=(x.size, 2))
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    tree = cKDTree(seeds % size, boxsize=size)
    distance, nearest = tree.query(np.stack([x.ravel(), y.ravel()], axis=1), k=2)
    membrane = (distance[:, 1] - distance[:, 0] < 3.5).reshape(size, size)
    # Each cell needs a certain share of fat around it, so that cells are whole or absent.
    need = rng.uniform(0.25, 0.75, size=len(seeds))[nearest[:, 0]].reshape(size, size)
    fat = np.empty(share.shape, np.uint8)
    for top in range(0, share.shape[0], size):
        for left in range(0, share.shape[1], size):
            part = share[top : top + size, left : left + size]
            window = tuple(slice(n) for n in part.shape)
            kind = np.where(membrane[window], 1, 2)
            fat[top : top + size, left : left + size] = (part > need[window]) * kind
    return fat


def _nuclei(maps: dict[str, np.ndarray], fat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(height, width) haematoxylin of the nuclei, on a jittered grid that is thinned to density."""
    height, width = fat.shape
    spacing = 9.0 / PIXEL_UM  # one nucleus per 81 µm² at most
    x, y = np.meshgrid(np.arange(spacing, width, spacing), np.arange(spacing, height, spacing))
    centre = np.stack([x.ravel(), y.ravel()], axis=1)
    centre += rng.uniform(-0.5, 0.5, size=centre.shape) * spacing

    def at(name: str) -> np.ndarray:
        where = centre[:, ::-1].T * PIXEL_UM / COARSE_UM - 0.5
        return map_coordinates(maps[name], where, order=1, mode="nearest")

    expected = at("density") * 1e-6 * (spacing * PIXEL_UM) ** 2
    keep = (rng.random(len(centre)) < expected) & (at("inside") > 3)
    column, row = np.clip(centre.astype(int), 0, [width - 1, height - 1]).T
    centre = centre[keep & (fat[row, column] < 2)]
    # The domain of a cell is drawn in proportion to share times cell density of the domains.
    cells = np.stack([at(d) for d in DOMAINS], axis=1) * CELLS_PER_MM2
    bounds = np.cumsum(cells, axis=1) / cells.sum(1, keepdims=True)
    kind = (rng.random((len(centre), 1)) > bounds).sum(1).clip(max=len(DOMAINS) - 1)
    # Spindles lie along the fibres, which are the lines of constant "across".
    slope = np.gradient(maps["across"])
    maps = {"down": slope[0], "right": slope[1]}
    along = np.arctan2(at("right"), -at("down")) + rng.normal(0, 0.3, len(kind))
    free = rng.uniform(0, np.pi, len(kind))
    angle = np.where((kind == STROMA) | (kind == FAT), along, free)
    canvas = np.zeros((height, width), np.float32)
    for k, look in enumerate(NUCLEI):
        _stamp(canvas, centre[kind == k], angle[kind == k], look, rng)
    return canvas


def _stamp(
    canvas: np.ndarray,
    centre: np.ndarray,
    angle: np.ndarray,
    look: Nuclei,
    rng: np.random.Generator,
) -> None:
    """Paint soft-edged ellipses into ``canvas``; where they overlap, the darker one remains."""
    height, width = canvas.shape
    scale = np.exp(rng.normal(0, look.spread, size=(len(centre), 2)))
    axes = scale * [look.long, look.short] / PIXEL_UM
    dye = look.dye * np.exp(rng.normal(0, 0.15, len(centre)))
    reach = int(np.ceil(look.long * np.exp(2.5 * look.spread) / PIXEL_UM)) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, 1, -1)
    numbers = np.column_stack([centre, angle, axes, dye])[:, :, None]
    for start in range(0, len(centre), 1024):  # blocks fit in the cache
        cx, cy, turn, long, short, dark = numbers[start : start + 1024].swapaxes(0, 1)  # (n, 1)
        column, row = np.floor(cx).astype(int) + x, np.floor(cy).astype(int) + y  # (n, window)
        dx, dy = (column + 0.5 - cx).astype(np.float32), (row + 0.5 - cy).astype(np.float32)
        cos, sin, long, short, dark = (
            v.astype(np.float32) for v in (np.cos(turn), np.sin(turn), long, short, dark)
        )
        u, v = (dx * cos + dy * sin) / long, (dy * cos - dx * sin) / short
        radius = np.sqrt(u * u + v * v)  # 1 on the outline
        edge = np.clip((1 - radius) * short + 0.5, 0, 1)
        value = edge * dark * (1 - look.pale * np.clip(1 - radius**2, 0, 1))
        seen = (value > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        np.maximum.at(canvas.reshape(-1), (row * width + column)[seen], value[seen])


def _stain_batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Absorption of the two dyes (2, 3) and colour of the light (3,), which differ by section."""
    strength = np.exp(rng.normal(0, 0.08, size=(2, 1)))
    vectors = np.stack([HAEMATOXYLIN, EOSIN]) * np.exp(rng.normal(0, 0.06, size=(2, 3)))
    light = np.array([243, 241, 244]) + rng.uniform(-4, 4, size=3)
    return (strength * vectors).astype(np.float32), light.astype(np.float32)


def _colour(
    haematoxylin: np.ndarray,
    eosin: np.ndarray,
    lamp: np.ndarray,
    absorption: np.ndarray,
    light: np.ndarray,
) -> np.ndarray:
    """(rows, width, 3) uint8 colours by Beer-Lambert, with the noise of the camera."""
    picture = np.empty((*eosin.shape, 3), np.uint8)
    for c in range(3):
        density = haematoxylin * absorption[0, c] + eosin * absorption[1, c]
        value = light[c] * np.exp(-density) + lamp[: len(eosin)]
        picture[..., c] = np.clip(value, 0, 255)
    return picture
