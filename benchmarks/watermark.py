"""What watermarks outlive, and what they cost: `python -m benchmarks.watermark pictures FOLDER [SIDE] | films FOLDER [SIDE] | sound FOLDER | text RUN`.

Of pictures, films (cut into clips of CLIP frames) and sounds of the folder: how far the mark changes them, and how many of the marked ones are found at p <= 0.001 after
each thing that happens to files; of those without a mark, under several keys, how many are taken for marked. Of a run's texts:
the same by length, and the perplexity (of the run's own model) of texts with the mark and without.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from genloom import generate
from genloom.data import draw
from genloom.data.sound import read
from genloom.metrics.image import psnr, ssim
from genloom.provenance.watermark import picture, sound
from genloom.run import Run
from genloom.text import mark

KEY, SURE, OTHERS, MOST = b"k" * 32, 1e-3, 8, 120
CLIP = 16  # frames
LANCZOS = Image.Resampling.LANCZOS
Score = tuple[float, float] | None
Fates = dict[str, Callable[[Any], Any]]


def told(name: str, scores: list[Score]) -> None:
    z = np.array([s[0] if s else 0.0 for s in scores])
    found = np.mean([s is not None and s[1] <= SURE for s in scores])
    print(
        f"{name:<24} found {found:7.2%} of {len(z):4}   z: least {z.min():6.2f}, 5 % {np.quantile(z, 0.05):6.2f}, median {np.median(z):6.2f}",
        flush=True,
    )


def judged(fates: Fates, marked: list[Any], plain: list[Any], score: Callable[[Any, bytes], Score]) -> None:
    for name, fate in fates.items():
        told(name, [score(fate(one), KEY) for one in marked])
    told("without a mark", [score(one, bytes([k]) * 32) for one in plain for k in range(OTHERS)])


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────
def coded(kind: str, quality: int) -> Callable[[Image.Image], Image.Image]:
    def code(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, kind, quality=quality)
        return Image.open(file)

    return code


def sized(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((round(share * image.width), round(share * image.height)), LANCZOS)


def cut(share: float) -> Callable[[Image.Image], Image.Image]:
    """A part that begins a third into what is left over."""

    def crop(image: Image.Image) -> Image.Image:
        width, height = round(share * image.width), round(share * image.height)
        left, top = (image.width - width) // 3, (image.height - height) // 3
        return image.crop((left, top, left + width, top + height))

    return crop


def noisy(size: float) -> Callable[[Image.Image], Image.Image]:
    grain = np.random.default_rng(0)
    return lambda image: Image.fromarray(
        (np.asarray(image) + grain.normal(0, size, np.asarray(image).shape)).round().clip(0, 255).astype(np.uint8)
    )


def pictures(folder: Path, side: int) -> None:
    fates: Fates = {"PNG": lambda image: image}
    fates |= {f"JPEG {q}": coded("JPEG", q) for q in (95, 90, 75, 60, 50, 30)} | {"WebP 80": coded("WEBP", 80)}
    fates |= {f"{s:g} times the size": sized(s) for s in (0.5, 0.75, 1.5, 2)}
    fates |= {"0.75 times, JPEG 75": lambda image: coded("JPEG", 75)(sized(0.75)(image))}
    fates |= {f"cut to {s:g} of each side": cut(s) for s in (0.9, 0.75, 0.5)}
    fates |= {"cut to 0.75, JPEG 75": lambda image: coded("JPEG", 75)(cut(0.75)(image))}
    fates |= {"mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)}
    fates |= {f"noise of {s} levels": noisy(s) for s in (5, 10)} | {"grey": lambda image: image.convert("L")}
    plain, marked, spent, near = [], [], 0.0, []
    paths = sorted(folder.rglob("*.png"))
    for path in paths[:: max(1, len(paths) // MOST)]:
        with Image.open(path) as opened:
            image = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
        image = image if min(image.size) == side else image.resize((side, side), LANCZOS)
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1)[None]
        start = time.process_time()
        pixels = draw.to_bytes(picture.marked(values, KEY))[0]
        spent += time.process_time() - start
        after = torch.from_numpy(pixels).permute(2, 0, 1).float().div(127.5).sub(1)[None]
        if float((after[:, :3] - values[:, :3]).abs().max()) > 0:
            near.append(
                (
                    float(psnr(values[:, :3], after[:, :3])),
                    float(ssim(values[:, :3], after[:, :3], window="gaussian", size=11)),
                )
            )
        plain.append(image.convert("RGB"))
        marked.append(Image.fromarray(pixels).convert("RGB"))
    quality = np.array(near)
    print(
        f"{len(plain)} pictures of {side}²; PSNR least {quality[:, 0].min():.1f} dB, median {np.median(quality[:, 0]):.1f}; SSIM least {quality[:, 1].min():.4f}, median {np.median(quality[:, 1]):.4f}; {1e3 * spent / len(plain):.1f} ms each"
    )
    judged(fates, marked, plain, lambda image, key: picture.score([np.asarray(image)], key))


# ── films ────────────────────────────────────────────────────────────────────────────────────────────────────────
Film = list[np.ndarray]  # frames uint8 [H, W, 3]


def filmed(codec: str, quality: int, share: float = 1.0) -> Callable[[Film], Film]:
    """Coded at a constant quality (CRF; of MPEG-4 its scale) and decoded, at `share` of the size."""
    import av

    def code(film: Film) -> Film:
        file, (height, width) = io.BytesIO(), film[0].shape[:2]
        with av.open(file, "w", format="matroska") as out:
            track: Any = out.add_stream(codec, rate=25)
            track.width, track.height = (round(share * side) // 2 * 2 for side in (width, height))
            track.pix_fmt = "yuv420p"
            track.options = {"crf": str(quality), "b": "0"} if codec != "mpeg4" else {"qscale": str(quality)}
            if codec == "mpeg4":
                track.codec_context.qmin = track.codec_context.qmax = quality
            for frame in film:
                out.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(track.encode(None))
        file.seek(0)
        with av.open(file) as made:
            return [frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]

    return code


def films(folder: Path, side: int) -> None:
    import av

    fates: Fates = {f"H.264, CRF {q}": filmed("libx264", q) for q in (18, 23, 28, 33)}
    fates |= {f"VP9, CRF {q}": filmed("libvpx-vp9", q) for q in (30, 40)} | {"MPEG-4, 5": filmed("mpeg4", 5)}
    fates |= {f"{s:g} times the size, H.264, CRF 23": filmed("libx264", 23, s) for s in (0.75, 0.5)}
    fates |= {"one frame of it": lambda film: film[:1], "4 frames of it": lambda film: film[:4]}
    plain, marked = list[Film](), list[Film]()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".mp4", ".avi", ".mov", ".webm")):
        with av.open(str(path)) as opened:
            stills = [frame.to_image() for frame in opened.decode(video=0)]
        narrow = min(stills[0].size)
        sides = tuple(round(side * s / narrow) // 2 * 2 for s in stills[0].size)
        frames = [np.asarray(s.resize(sides, LANCZOS)) for s in stills]
        for start in range(0, len(frames) - CLIP + 1, CLIP):
            plain.append(frames[start : start + CLIP])
            values = torch.from_numpy(np.stack(plain[-1])).permute(0, 3, 1, 2).float().div(127.5).sub(1)
            marked.append(list(draw.to_bytes(picture.marked(values, KEY))))
    print(f"{len(plain)} clips of {CLIP} frames, {side} pixels on the shorter side")
    judged(fates, marked, plain, picture.score)


# ── sound ────────────────────────────────────────────────────────────────────────────────────────────────────────
def through(codec: str, rate: int, ending: str) -> Callable[[np.ndarray], np.ndarray]:
    """Coded at so many bits a second and decoded; samples at 16 kHz."""
    import av
    import soxr

    def code(samples: np.ndarray) -> np.ndarray:
        file, at = io.BytesIO(), 48000 if codec == "libopus" else 16000
        with av.open(file, "w", format=ending) as out:
            track: Any = out.add_stream(codec, rate=at, layout="mono")
            track.bit_rate = rate
            whole = (soxr.resample(samples, 16000, at) * 32767).round().clip(-32768, 32767).astype("<i2")
            frame = av.AudioFrame.from_ndarray(whole[None], format="s16", layout="mono")
            frame.rate = at
            for packet in [*track.encode(frame), *track.encode(None)]:
                out.mux(packet)
        file.seek(0)
        return read(file, f"a.{ending}", 16000).samples

    return code


def sounds(folder: Path) -> None:
    import soxr

    grain = np.random.default_rng(0)

    def with_noise(ratio: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: (x + grain.normal(size=len(x)) * np.sqrt(np.mean(x**2)) * 10 ** (-ratio / 20)).astype(
            np.float32
        )

    fates: Fates = {"WAV": lambda x: x}
    fates |= {f"MP3 {k} kbit/s": through("mp3", 1000 * k, "mp3") for k in (128, 64, 32)}
    fates |= {f"Opus {k} kbit/s": through("libopus", 1000 * k, "ogg") for k in (64, 32, 16)}
    fates |= {
        f"{k} kHz and back": (lambda x, k=k: soxr.resample(soxr.resample(x, 16000, 1000 * k), 1000 * k, 16000))
        for k in (44.1, 8)
    }
    fates |= {f"noise, {r} dB": with_noise(r) for r in (30, 20, 10)}
    fates |= {f"{s} s of it": (lambda x, s=s: x[len(x) // 3 :][: int(s * 16000)]) for s in (1, 2)}
    plain, marked, ratio = [], [], []
    for path in sorted(p for p in folder.rglob("*.g722")):
        with open(path, "rb") as stream:
            samples = read(stream, path.name, 16000).samples
        if len(samples) < 3 * 16000 or np.abs(samples).max() < 0.01 or len(plain) == MOST:  # silence hides nothing
            continue
        samples = samples[: 5 * 16000]
        plain.append(samples)
        after = sound.marked(torch.from_numpy(samples), KEY, 16000).mul(32767).round().div(32767).numpy()
        ratio.append(10 * math.log10(float(np.mean(samples**2) / np.mean((after - samples) ** 2))))
        marked.append(after)
    print(
        f"{len(plain)} sounds of 3 to 5 s; the mark lies {min(ratio):.1f} to {max(ratio):.1f} dB below them, median {np.median(ratio):.1f}"
    )
    heard(plain, marked)
    judged(fates, marked, plain, lambda x, key: sound.score([x], 16000, key))


def heard(plain: list[np.ndarray], marked: list[np.ndarray]) -> None:
    """What PESQ says of some, where it is installed: `pip install 'genloom[listen]'`."""
    try:
        from pesq import pesq
    except ImportError:
        return
    values = [pesq(16000, a, b, "wb") for a, b in list(zip(plain, marked, strict=True))[:40]]
    print(f"PESQ of {len(values)}: least {min(values):.2f}, median {np.median(values):.2f}")


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def texts(run: Run) -> None:
    model: Any = generate.load(run)
    size = model.tokenizer.size

    def written(key: bytes | None, seed: int = 1) -> tuple[list[list[int]], float, float]:
        rows, logs, start = [list[int]() for _ in range(64)], [], time.process_time()

        def hear(row: int, token: int, log: float) -> None:
            rows[row].append(token)
            logs.append(log)

        with torch.inference_mode():
            model.sample(64, seed=seed, length=400, watermark=key, hear=hear)
        return rows, -float(np.mean(logs)), len(logs) / (time.process_time() - start)

    bare, marked = written(None), written(KEY)
    # of several keys: how likely the model finds what it wrote with one says little, for each favours some words
    plain = [bare[1], *(written(None, seed)[1] for seed in range(2, OTHERS + 1))]
    keyed = [marked[1], *(written(bytes([seed]) * 32, seed)[1] for seed in range(2, OTHERS + 1))]
    shift, error = np.mean(keyed) - np.mean(plain), math.hypot(np.std(keyed), np.std(plain)) / OTHERS**0.5
    print(
        f"perplexity {math.exp(np.mean(plain)):.3f} without, {math.exp(np.mean(keyed)):.3f} with {OTHERS} keys,"
        f" {math.expm1(shift):+.1%} ± {error:.1%}; tokens a second {bare[2]:.0f} without, {marked[2]:.0f} with"
    )
    cuts: Fates = {f"{n} tokens": (lambda row, n=n: row[:n]) for n in (50, 100, 200, 400)}
    cuts |= {
        f"{k} of 200 changed": (
            lambda row, k=k: [(t + 1) % size if i % (200 // k) == 0 else t for i, t in enumerate(row[:200])]
        )
        for k in (10, 20)
    }
    judged(cuts, marked[0], bare[0], lambda row, key: mark.score(row, key, size))


def main() -> None:
    torch.set_num_threads(1)
    what, where, *more = sys.argv[1:]
    if what == "pictures":
        pictures(Path(where), int(more[0]) if more else 256)
    elif what == "films":
        films(Path(where), int(more[0]) if more else 128)
    elif what == "sound":
        sounds(Path(where))
    else:
        texts(Run.open(where))


if __name__ == "__main__":
    main()
