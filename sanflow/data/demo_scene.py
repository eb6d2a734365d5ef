"""The demo's camera: a turned steel flange under two soft lights, shaded from a height field.

Everything that touches the look of the metal acts through layers (height, coverage, albedo,
roughness, direction of the turning marks), so that a defect drawn into them is lit like the rest.
Lengths are in units of half the picture's side, x to the right and y down, the origin central.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Field: TypeAlias = NDArray[np.float32]

OUTER, BORE, HUB, GROOVE = 0.84, 0.235, 0.37, 0.47
BOLT_CIRCLE, BOLT_RADIUS, BOLTS = 0.655, 0.082, 6
CHAMFER, SLOPE = 0.026, 0.5
SUPERSAMPLING = 2


@dataclass(frozen=True)
class Pose:
    """What differs from one good part to the next: place, light and finish."""

    x: float
    y: float
    turn: float
    """Rotation in radians."""
    scale: float
    exposure: float
    light: float
    """Direction of the main light, radians."""
    gradient: tuple[float, float]
    """Relative change of the ambient light over half the picture, x and y."""
    steel: float
    """Reflectance of the metal."""
    gloss: float
    """Width of the highlight along the turning marks; smaller is glossier."""
    warmth: float
    focus: float
    """Deviation of the lens blur in final pixels."""
    texture: int
    """Seed of the grain, of the turning marks and of the mat."""


def draw_pose(rng: np.random.Generator) -> Pose:
    """One part's place, light and finish, within the tolerances of an ordinary station."""
    return Pose(
        x=float(rng.uniform(-0.025, 0.025)),
        y=float(rng.uniform(-0.025, 0.025)),
        turn=float(np.deg2rad(rng.uniform(-6, 6))),
        scale=float(rng.uniform(0.99, 1.01)),
        exposure=float(rng.uniform(0.92, 1.08)),
        light=float(np.deg2rad(-128 + rng.uniform(-7, 7))),
        gradient=(float(rng.uniform(-0.14, 0.14)), float(rng.uniform(-0.14, 0.14))),
        steel=float(rng.uniform(0.93, 1.07)),
        gloss=float(rng.uniform(0.15, 0.19)),
        warmth=float(rng.uniform(-0.02, 0.03)),
        focus=float(rng.uniform(0.45, 0.65)),
        texture=int(rng.integers(2**31)),
    )


@dataclass
class Layers:
    """The part before it is lit, each layer (n, n); a defect is drawn by changing them."""

    x: Field
    y: Field
    """Coordinates in the part's own frame."""
    height: Field
    coverage: Field
    """1 on metal, 0 where the mat or a hole shows."""
    wall: Field
    """How much of a hole's lit wall shows."""
    albedo: Field
    """Colour of the metal, (n, n, 3)."""
    roughness: Field
    """Added to both widths of the highlight."""
    marks_x: Field
    marks_y: Field
    """Unit direction of the turning marks, in the picture's frame."""
    on_top: list[tuple[Field, tuple[float, float, float], float]] = field(default_factory=list)
    """Matter lying on the part: opacity, colour, and how far its shadow falls."""

    @property
    def pixel(self) -> float:
        """Side of one rendered pixel."""
        return 2.0 / int(self.height.shape[0])


def ramp(distance: Field, soft: float) -> Field:
    """1 where `distance` is positive, 0 where negative, a ramp `soft` wide between."""
    inside = np.clip(distance / np.float32(soft) + np.float32(0.5), 0, 1)
    return np.asarray(inside, np.float32)


def blur(image: Field, sigma: float) -> Field:
    """Gaussian blur, `sigma` in pixels of the field."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def _colour(red: float, green: float, blue: float) -> Field:
    return np.array([red, green, blue], np.float32)


def cloud(rng: np.random.Generator, n: int, cells: int, octaves: int = 3) -> Field:
    """Smooth noise of about unit deviation; its coarsest octave is `cells` cells wide."""
    total = np.zeros((n, n), np.float32)
    for octave in range(octaves):
        side = min(n, cells << octave) + 3
        grid = rng.standard_normal((side, side), dtype=np.float32)
        total += cv2.resize(grid, (n, n), interpolation=cv2.INTER_CUBIC) * np.float32(0.55**octave)
    return total


def bolt_centres() -> list[tuple[float, float]]:
    """Centres of the bolt holes in the part's frame."""
    angles = (np.arange(BOLTS) + 0.5) * (2 * np.pi / BOLTS)
    return [(BOLT_CIRCLE * float(np.cos(a)), BOLT_CIRCLE * float(np.sin(a))) for a in angles]


def build(pose: Pose, size: int, bolt_radii: tuple[float, ...] | None = None) -> Layers:
    """The layers of a part in `pose`; `bolt_radii` other than the drawing's, 0 for undrilled."""
    n = size * SUPERSAMPLING
    axis = ((np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1).astype(np.float32)
    across, down = axis[None, :] - np.float32(pose.x), axis[:, None] - np.float32(pose.y)
    cos, sin = np.float32(np.cos(pose.turn)), np.float32(np.sin(pose.turn))
    inverse = np.float32(1 / pose.scale)
    x, y = (across * cos + down * sin) * inverse, (down * cos - across * sin) * inverse
    radius = np.sqrt(x * x + y * y)

    light_x, light_y = np.cos(pose.light - pose.turn), np.sin(pose.light - pose.turn)
    inside = (np.float32(OUTER) - radius).astype(np.float32)
    wall = np.zeros((n, n), np.float32)
    circles = [(0.0, 0.0, BORE)]
    radii = bolt_radii or (BOLT_RADIUS,) * BOLTS
    circles += [(bx, by, r) for (bx, by), r in zip(bolt_centres(), radii, strict=True) if r > 0]
    for centre_x, centre_y, hole in circles:
        dx, dy = x - np.float32(centre_x), y - np.float32(centre_y)
        reach = np.hypot(dx, dy)
        away = reach - np.float32(hole)
        inside = np.minimum(inside, away)
        facing = np.float32(0.3) - (dx * np.float32(light_x) + dy * np.float32(light_y)) / (
            reach + np.float32(1e-4)
        )
        wall += np.where(away < 0, np.exp(away / np.float32(0.03)), 0) * np.clip(facing, 0, None)

    height = -np.float32(SLOPE) * np.clip(np.float32(CHAMFER) - inside, 0, np.float32(CHAMFER))
    height += np.float32(0.012) * np.clip((np.float32(HUB) - radius) / np.float32(0.02), 0, 1)
    height -= np.float32(0.009) * np.clip(
        np.float32(1.5) - np.abs(radius - np.float32(GROOVE)) / np.float32(0.012), 0, 1
    )
    height -= np.float32(0.007) * _engraving(pose, n)
    safe = np.maximum(radius, np.float32(1e-4))
    return Layers(
        x=x,
        y=y,
        height=blur(height, 0.8 * n / 512),
        coverage=ramp(inside, 2.0 / n),
        wall=wall,
        albedo=np.full((n, n, 3), np.float32(pose.steel), np.float32),
        roughness=np.zeros((n, n), np.float32),
        marks_x=np.asarray((-y * cos - x * sin) / safe, np.float32),
        marks_y=np.asarray((-y * sin + x * cos) / safe, np.float32),
    )


def _engraving(pose: Pose, n: int) -> Field:
    """The part number, between the two lowest bolt holes, 1 where the cutter went."""
    text, scale, thick = "SF-24", n / 512 * 0.95, max(1, round(n / 512 * 3))
    canvas = np.zeros((n, n), np.uint8)
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, thick)
    origin = ((n - width) // 2, round(n / 2 * (1 + BOLT_CIRCLE + 0.05)))
    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_DUPLEX, scale, 255, thick, cv2.LINE_AA)
    centre = ((n - 1) / 2, (n - 1) / 2)
    turn = cv2.getRotationMatrix2D(centre, -np.rad2deg(pose.turn), pose.scale)
    shift = np.array([[0, 0, pose.x], [0, 0, pose.y]]) * (n / 2)
    place = np.asarray(turn, np.float64) + shift
    turned = cv2.warpAffine(canvas, place, (n, n), flags=cv2.INTER_LINEAR)
    return turned.astype(np.float32) / np.float32(255)


def shade(layers: Layers, pose: Pose) -> Field:
    """Linear light (n/2, n/2, 3) that reaches the sensor, before its noise."""
    rng = np.random.default_rng(pose.texture)
    n = layers.height.shape[0]
    metal = _metal(layers, pose, rng)
    mat = _mat(layers, pose, rng)
    image = mat + (metal - mat) * layers.coverage[:, :, None]
    for opacity, colour, drop in layers.on_top:
        image = _lay_on(image, opacity, colour, drop, pose)
    image *= _ambient(pose, n)[:, :, None] * np.float32(pose.exposure)
    image *= _colour(1 + pose.warmth, 1, 1 - pose.warmth)
    image = blur(image, pose.focus * SUPERSAMPLING)
    half = n // SUPERSAMPLING
    return np.asarray(cv2.resize(image, (half, half), interpolation=cv2.INTER_AREA), np.float32)


def expose(light: Field, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The 8-bit RGB photograph of linear `light`: shot noise, read noise, gamma."""
    deviation = np.sqrt(np.clip(light, 0, None) * np.float32(1.2e-4) + np.float32(4e-6))
    noisy = light + deviation * rng.standard_normal(light.shape, dtype=np.float32)
    encoded = np.clip(noisy, 0, 1) ** np.float32(1 / 2.2)
    return np.asarray(np.rint(encoded * 255), np.uint8)


def _metal(layers: Layers, pose: Pose, rng: np.random.Generator) -> Field:
    """The lit metal: anisotropic highlights of two soft lights over a diffuse base."""
    n = layers.height.shape[0]
    per_unit = np.float32(n / 2)
    slope_x = cv2.Scharr(layers.height, cv2.CV_32F, 1, 0) * (per_unit / 32)
    slope_y = cv2.Scharr(layers.height, cv2.CV_32F, 0, 1) * (per_unit / 32)
    marks, grain = _turning_marks(layers, rng)
    tx, ty = layers.marks_x, layers.marks_y
    # Height changes tilt the facet; the marks tilt it across their own direction.
    slope_x = slope_x + marks * -ty
    slope_y = slope_y + marks * tx
    up = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    along_z = slope_x * tx + slope_y * ty
    along = 1 / np.sqrt(along_z * along_z + 1)
    narrow = np.float32(pose.gloss) + layers.roughness
    wide = np.float32(0.55) + layers.roughness
    light = (np.float32(0.10) + np.float32(0.13) * up + grain * np.float32(0.012))[:, :, None]
    total = light * _colour(0.97, 1.0, 1.04)
    for turn, elevation, power, colour in (
        (0.0, 0.62, 0.46, (1.0, 0.985, 0.955)),
        (2.05, 0.75, 0.24, (0.94, 0.98, 1.03)),
    ):
        angle = pose.light + turn
        hx, hy = np.float32(np.cos(angle) * elevation), np.float32(np.sin(angle) * elevation)
        hz = np.float32(2.0)
        length = np.float32(np.sqrt(hx * hx + hy * hy + hz * hz))
        hx, hy, hz = hx / length, hy / length, hz / length
        facing = np.maximum((hz - slope_x * hx - slope_y * hy) * up, np.float32(0.05))
        on_marks = (tx * hx + ty * hy + along_z * hz) * along
        # What is neither along the normal nor along the marks lies across them.
        across = np.clip(1 - on_marks * on_marks - facing * facing, 0, 1)
        exponent = (on_marks / narrow) ** 2 + across / (wide * wide)
        lobe = np.exp(-exponent / (facing * facing)) * (np.float32(0.25) / (narrow + 0.08))
        total += (lobe * np.float32(power))[:, :, None] * _colour(*colour)
    return np.asarray(total * layers.albedo, np.float32)


def _turning_marks(layers: Layers, rng: np.random.Generator) -> tuple[Field, Field]:
    """Tilt of the surface across the turning marks, and the metal's fine grain, (n, n) each."""
    n = layers.height.shape[0]
    radius = np.sqrt(layers.x**2 + layers.y**2)
    angle = np.arctan2(layers.y, layers.x)
    rings = rng.standard_normal((1, 420), dtype=np.float32)
    arcs = rng.standard_normal((48, 420), dtype=np.float32)
    arcs = np.asarray(cv2.resize(arcs, (420, 96), interpolation=cv2.INTER_CUBIC), np.float32)
    polar = np.float32(0.055) * rings + np.float32(0.06) * arcs
    column = radius * np.float32(400)
    row = (angle + np.float32(np.pi)) * np.float32(95 / (2 * np.pi))
    marks = cv2.remap(polar, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    grain = rng.standard_normal((n, n), dtype=np.float32)
    return np.asarray(marks, np.float32), blur(grain, 0.7) * np.float32(2)


def _mat(layers: Layers, pose: Pose, rng: np.random.Generator) -> Field:
    """The dark rubber mat with the part's shadow, and the lit walls of the holes, (n, n, 3)."""
    n = layers.height.shape[0]
    weave = cloud(rng, n, 128, 2) * np.float32(0.0035) + cloud(rng, n, 6, 2) * np.float32(0.002)
    shadow = _shifted(blur(layers.coverage, n * 0.02), pose.light, 0.05, n)
    level = (np.float32(0.052) + weave) * (1 - np.float32(0.8) * shadow)
    level += layers.wall * np.float32(0.16)
    return np.asarray(level[:, :, None] * _colour(0.95, 1.0, 1.1), np.float32)


def _lay_on(
    image: Field, opacity: Field, colour: tuple[float, float, float], drop: float, pose: Pose
) -> Field:
    n = image.shape[0]
    shadow = _shifted(blur(opacity, 1.0 + drop * n / 4), pose.light, drop, n)
    image = image * (1 - np.float32(0.55) * shadow[:, :, None])
    ridge = blur(opacity, 1.0)
    lit = cv2.Scharr(ridge, cv2.CV_32F, 1, 0) * np.float32(np.cos(pose.light)) + cv2.Scharr(
        ridge, cv2.CV_32F, 0, 1
    ) * np.float32(np.sin(pose.light))
    relief = np.clip(1 - lit * np.float32(0.02), 0.4, 2.2)
    matter = relief[:, :, None] * _colour(*colour)
    return np.asarray(image + (matter - image) * opacity[:, :, None], np.float32)


def _shifted(image: Field, light: float, distance: float, n: int) -> Field:
    """`image` moved away from the light by `distance`."""
    move = distance * n / 2
    place = np.array([[1, 0, -np.cos(light) * move], [0, 1, -np.sin(light) * move]])
    return np.asarray(cv2.warpAffine(image, place, (n, n)), np.float32)


def _ambient(pose: Pose, n: int) -> Field:
    """Uneven ambient light and the lens's vignette."""
    axis = np.linspace(-1, 1, n, dtype=np.float32)
    across, down = axis[None, :], axis[:, None]
    slope = across * np.float32(pose.gradient[0]) + down * np.float32(pose.gradient[1])
    vignette = np.float32(0.10) * (across**2 + down**2)
    return np.asarray((1 + slope) * (1 - vignette), np.float32)
