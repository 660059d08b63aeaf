"""Streets that are drawn: a drive between houses, with a map of labels and the exact motion of every pixel.

A pinhole camera drives along a straight street of planes: the ground, the two rows of houses, and cars, trees and people
as upright pictures. Each pixel's ray meets the nearest; where that point was a frame before is plain geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from genloom.core import mix

LABELS = ("sky", "road", "lane mark", "house", "tree", "car", "person", "sidewalk")
COLOURS = (
    "#4682b4",
    "#804080",
    "#ffffff",
    "#464646",
    "#6b8e23",
    "#00008e",
    "#dc143c",
    "#f423e8",
)  # as Cityscapes has them
SKY, ROAD, MARK, HOUSE, TREE, CAR, PERSON, WALK = range(8)
GROUND, LEFT, RIGHT, FIRST = 1, 2, 3, 4  # what a ray can meet: 0 is the sky, FIRST the first upright picture
EYE, KERB, WALL = 1.5, 4.0, 7.5  # metres: the camera's height, half the street, half the way between the houses
LANE = 2.0  # metres from the middle to where cars drive
NEAR, FAR = 1.5, 60.0  # metres


class Hits(NamedTuple):
    """What the rays [...] of a frame meet: `what`, and where in the world (x right, y up from the ground, z ahead), in metres."""

    what: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


@dataclass(frozen=True)
class Upright:
    """A picture that stands in the street facing the camera: a tree, a car or a person."""

    label: int
    x: float
    z: float  # at frame 0
    speed: float  # metres a frame
    width: float
    height: float
    colours: np.ndarray  # [2, 3]
    ahead: bool = True


class Street:
    """One drive. Everything follows from its number."""

    def __init__(self, number: int, height: int, width: int, length: int):
        self.random = random = np.random.Generator(np.random.PCG64(mix(number)))
        self.height, self.width, self.focal = height, width, 0.75 * width
        self.noise = random.uniform(-1, 1, (64, 64, 3))
        self.speed = random.uniform(0.25, 0.6)
        self.sway, self.bob = random.uniform(0, 0.04) * width, random.uniform(0, 0.012) * height
        self.phase = random.uniform(0, 2 * np.pi, 2)
        self.road = random.uniform(70, 110) + random.uniform(-6, 6, 3)
        self.walk = random.uniform(140, 180) + random.uniform(-10, 10, 3)
        self.sky = np.array([random.uniform(90, 170), random.uniform(140, 190), random.uniform(190, 240)])
        self.houses = random.uniform(70, 200, (32, 3)), random.uniform(3.5, 16, 32), random.uniform(8, 14)
        self.things = self._things(length)
        self.drawn: dict[int, tuple[np.ndarray, ...]] = {}
        self.met: dict[int, Hits] = {}

    def _things(self, length: int) -> list[Upright]:
        random, end = self.random, length * self.speed + FAR
        found = []
        for side in (-1, 1):
            for z in np.arange(random.uniform(0, 9), end, random.uniform(7, 14)):
                size = random.uniform(2.2, 4.0)
                shade = np.array([random.uniform(40, 90), random.uniform(90, 150), random.uniform(30, 60)])
                trunk = np.array([90.0, 65, 45])
                found.append(Upright(TREE, side * 6.8, float(z), 0, size, 1.5 * size, np.stack([shade, trunk])))
            for z in np.arange(random.uniform(0, 6), end, random.uniform(6, 14)):
                clothes = random.uniform(30, 230, (2, 3))
                speed, across = random.uniform(-0.06, 0.06), side * random.uniform(4.6, 6.0)
                found.append(Upright(PERSON, across, float(z), speed, 0.6, random.uniform(1.5, 1.9), clothes))
        for z in np.cumsum(random.uniform(9, 25, 4)):
            paint = np.stack([random.uniform(20, 235, 3), [40.0, 45, 55]])
            found.append(Upright(CAR, LANE, float(z), self.speed * random.uniform(0.95, 1.3), 1.8, 1.45, paint))
        for z in np.cumsum(random.uniform(12, 35, 8)):
            paint = np.stack([random.uniform(20, 235, 3), [40.0, 45, 55]])
            found.append(Upright(CAR, -LANE, float(z), -self.speed * random.uniform(0.7, 1.2), 1.8, 1.45, paint, False))
        return found

    # ── geometry ─────────────────────────────────────────────────────────────────────────────────────────────────
    def camera(self, t: int) -> tuple[float, float, float]:
        """Where straight ahead lies in the picture, in pixels, and how far the camera has come, in metres."""
        sway = self.sway * np.sin(t / 9 + self.phase[0])
        bob = self.bob * np.sin(t / 2.5 + self.phase[1])
        return self.width / 2 + sway, 0.45 * self.height + bob, self.speed * t

    def project(self, t: int, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Column and row in pixels of points in the world, and how far ahead they are."""
        ahead, horizon, come = self.camera(t)
        depth = z - come
        safe = np.maximum(depth, 0.1)
        return ahead + self.focal * (x - LANE) / safe, horizon - self.focal * (y - EYE) / safe, depth

    def meet(self, t: int, u: np.ndarray, v: np.ndarray) -> Hits:
        """What the rays through columns u [W] and rows v [H] meet first."""
        ahead, horizon, come = self.camera(t)
        right, up = np.broadcast_arrays((u - ahead)[None] / self.focal, (horizon - v)[:, None] / self.focal)
        depth, what = np.full(right.shape, 1e4), np.zeros(right.shape, np.int64)

        def nearer(to: np.ndarray, there: np.ndarray, which: int) -> None:
            won = there & (to < depth) & (to > 0)
            depth[won], what[won] = to[won], which

        nearer(EYE / np.maximum(-up, 1e-6), up < 0, GROUND)
        for which, wall in ((LEFT, -WALL), (RIGHT, WALL)):
            away = (wall - LANE) / np.where(right == 0, 1e-6, right)
            high = EYE + up * away
            nearer(away, (high >= 0) & (high < self._tall(which, come + away)), which)
        for i, thing in enumerate(self.things):
            to = thing.z + thing.speed * t - come
            if NEAR < to < FAR:
                left = ahead + self.focal * (thing.x - LANE - thing.width / 2) / to
                columns = slice(*np.searchsorted(u, [left, left + self.focal * thing.width / to]))
                s = (right[:1, columns] * to + LANE - thing.x) / thing.width + 0.5
                there = _shape(thing, s, (EYE + up[:, columns] * to) / thing.height) & (to < depth[:, columns])
                depth[:, columns][there], what[:, columns][there] = to, FIRST + i
        return Hits(what, LANE + right * depth, EYE + up * depth, come + depth)

    def _tall(self, side: int, z: np.ndarray) -> np.ndarray:
        return self.houses[1][self._house(side, z)]

    def _house(self, side: int, z: np.ndarray) -> np.ndarray:
        """Which house stands there."""
        return (np.floor(np.clip(z, -1e4, 1e4) / self.houses[2]).astype(int) * 2 + side) % 32

    # ── what is seen ─────────────────────────────────────────────────────────────────────────────────────────────
    def labels(self, hits: Hits) -> np.ndarray:
        """uint8 [...]."""
        table = np.array([SKY, ROAD, HOUSE, HOUSE, *(thing.label for thing in self.things)], np.uint8)
        found = table[hits.what]
        ground = hits.what == GROUND
        found[ground & (np.abs(hits.x) > KERB)] = WALK
        middle = (np.abs(hits.x) < 0.13) & (hits.z % 6 < 3)
        found[ground & (middle | (np.abs(np.abs(hits.x) - KERB + 0.4) < 0.1))] = MARK
        return found

    def colours(self, hits: Hits, t: int) -> np.ndarray:
        """f64 [..., 3], 0 to 255."""
        labels, depth = self.labels(hits), hits.z - self.camera(t)[2]
        made = np.empty((*labels.shape, 3))
        sky = labels == SKY
        made[sky] = self.sky + 35 * self._smooth(hits.x[sky] / 4e3 * 6, hits.y[sky] / 4e3 * 9)[:, :1]
        for label, base, rough, every in ((ROAD, self.road, 14, 0.7), (WALK, self.walk, 16, 1.0), (MARK, 225, 10, 0.5)):
            at = labels == label
            fine = np.clip(1.5 - depth[at] ** 2 / (self.focal * EYE * every), 0, 1)[:, None]
            made[at] = base + rough * fine * self._smooth(hits.x[at] / every, hits.z[at] / every)
        for side in (LEFT, RIGHT):
            at = hits.what == side
            made[at] = self._front(side, hits.y[at], hits.z[at], depth[at])
        for which in np.unique(hits.what[hits.what >= FIRST]).tolist():
            at, thing = hits.what == which, self.things[which - FIRST]
            s = (hits.x[at] - thing.x) / thing.width + 0.5
            made[at] = self._painted(thing, s, hits.y[at] / thing.height, which)
        return np.clip(made, 0, 255)

    def _front(self, side: int, y: np.ndarray, z: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """A house: plaster, and windows in rows, that are lost in the distance."""
        base = self.houses[0][self._house(side, z)]
        fine = np.clip(1.6 - depth / self.focal, 0, 1)
        pane = (np.abs((y + 1.5) % 3 - 1.5) < 0.8) & (np.abs(z % 2.4 - 1.2) < 0.6) & (y > 0.6)
        glass = (0.6 * fine * pane)[:, None]
        return base * (1 - glass) + np.array([60, 75, 95]) * glass + 12 * fine[:, None] * self._smooth(y * 1.3, z * 1.3)

    def _painted(self, thing: Upright, s: np.ndarray, t: np.ndarray, which: int) -> np.ndarray:
        first, second = thing.colours
        if thing.label == TREE:
            leaves = first * (1 + 0.35 * self._smooth(s * 6 + which, t * 9)[:, :1])
            return np.where((t < 0.35)[:, None], second, leaves)
        if thing.label == PERSON:
            made = np.where((t < 0.47)[:, None], second, first)
            return np.where((t > 0.83)[:, None], np.array([205, 165, 140]), made)
        made = np.where(((t > 0.6) & (t < 0.93))[:, None], second, first + 12 * self._smooth(s * 3 + which, t * 3))
        lamp = np.array([210, 25, 25]) if thing.ahead else np.array([250, 245, 215])
        made = np.where(((np.abs(s - 0.5) > 0.33) & (t > 0.36) & (t < 0.5))[:, None], lamp, made)
        return np.where((t < 0.14)[:, None], 25, made)

    def _smooth(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Noise [n, 3] in [-1, 1] at points of a plane, smooth between whole numbers."""
        i, j = np.floor(a), np.floor(b)
        f, g = ((x * x * (3 - 2 * x))[:, None] for x in (a - i, b - j))
        i, j = i.astype(int) % 64, j.astype(int) % 64
        top = self.noise[i, j] * (1 - f) + self.noise[(i + 1) % 64, j] * f
        low = self.noise[i, (j + 1) % 64] * (1 - f) + self.noise[(i + 1) % 64, (j + 1) % 64] * f
        made: np.ndarray = top * (1 - g) + low * g
        return made

    # ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────
    def shots(self, start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Frames uint8 [n, 3, H, W], labels uint8 [n, 1, H, W], and from each to the next flow f16 [n, 2, H, W] and its
        confidence uint8 [n, H, W]. Each is drawn once."""
        for t in range(start, stop):
            if t not in self.drawn:
                before, after = self.centres(t), self.centres(t + 1)
                self.drawn[t] = self.frame(t), self.labels(before)[None], *self.motion(t, before, after)
        sides = list(zip(*(self.drawn[t] for t in range(start, stop)), strict=True)) or [[]] * 4
        shapes = (3,), (1,), (2,), ()
        return tuple(
            np.stack(side) if side else np.empty((0, *shape, self.height, self.width), np.uint8)
            for side, shape in zip(sides, shapes, strict=True)
        )

    def centres(self, t: int) -> Hits:
        """What the rays through the centres of pixels meet."""
        found, before = self.met.get(t), self.met.get(t - 1)
        if found is None:
            found = self.meet(t, np.arange(float(self.width)), np.arange(float(self.height)))
            self.met = {t: found} | ({t - 1: before} if before else {})  # the next frame asks for this one again
        return found

    def frame(self, t: int) -> np.ndarray:
        """uint8 [3, H, W], each pixel the mean of four rays."""
        fine = self.meet(t, (np.arange(2 * self.width) - 0.5) / 2, (np.arange(2 * self.height) - 0.5) / 2)
        colours = self.colours(fine, t).reshape(self.height, 2, self.width, 2, 3).mean((1, 3))
        return colours.round().astype(np.uint8).transpose(2, 0, 1)

    def motion(self, t: int, before: Hits, after: Hits) -> tuple[np.ndarray, np.ndarray]:
        """Backward flow f16 [2, H, W] from frame t to t + 1, and its confidence uint8 [H, W]: 255 where the same thing is seen
        in frame t on all four sides of where the flow points, 0 where it was hidden or outside."""
        speeds = np.array([0.0] * FIRST + [thing.speed for thing in self.things])
        x, y, depth = self.project(t, after.x, after.y, after.z - speeds[after.what])
        sky = after.what == 0  # has no distance: it moves with the view alone
        now, then = self.camera(t + 1), self.camera(t)
        v, u = np.mgrid[: self.height, : self.width]
        x, y = np.where(sky, u + then[0] - now[0], x), np.where(sky, v + then[1] - now[1], y)
        inside = (x >= 0) & (x <= self.width - 1) & (y >= 0) & (y <= self.height - 1) & (sky | (depth > NEAR))
        sure = inside.copy()
        left, top = np.floor(np.where(inside, x, 0)).astype(int), np.floor(np.where(inside, y, 0)).astype(int)
        for down in (0, 1):
            for across in (0, 1):
                rows, columns = np.minimum(top + down, self.height - 1), np.minimum(left + across, self.width - 1)
                sure &= before.what[rows, columns] == after.what
        flow = np.clip(np.stack([x - u, y - v]), -self.width, self.width)
        return flow.astype(np.float16), sure.astype(np.uint8) * 255


def _shape(thing: Upright, s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Whether the picture is there, at places s [1, n] from left to right and t [H, n] from the ground up, both 0 to 1."""
    side = np.abs(s - 0.5)
    inside = (side <= 0.5) & (t >= 0) & (t <= 1)
    if thing.label == CAR:
        return inside & (side < np.where(t < 0.6, 0.5, 0.5 - 0.3 * (t - 0.6)))
    if thing.label == PERSON:
        head, body = (side / 0.22) ** 2 + ((t - 0.91) / 0.09) ** 2 < 1, (t < 0.84) & (t >= 0.47) & (side < 0.38)
        return inside & (head | body | ((t < 0.47) & (side < 0.3) & (side > 0.05)))
    return inside & (((side < 0.06) & (t < 0.4)) | ((side / 0.5) ** 2 + ((t - 0.65) / 0.35) ** 2 < 1))
