"""How far watermarks carry: `python -m benchmarks.watermark pictures FOLDER | sound FOLDER | text RUN`.

Real files are marked, go through what happens to files, and are looked at with the key: the share that is found at p <= 0.001,
and the score's 5th percentile and median. Then the same files without the mark, each with several keys that nobody used: the share that
is found all the same. Of texts also what the mark costs: the model's own surprise at what it wrote, and the time.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from genloom import generate
from genloom.metrics.image import psnr, ssim
from genloom.provenance.watermark import picture, sound
from genloom.run import Run
from genloom.text import mark

KEY, SURE = b"k" * 32, 1e-3
OTHERS = [bytes([i]) * 32 for i in range(5)]  # nobody's keys
SIDE, MOST = 256, 150  # of a picture; pictures, or sounds
SECONDS, RATE = 10, 16_000
Score = tuple[float, float] | None
Fate = Callable[[Any], Any]


class Table:
    """Scores by fate."""

    def __init__(self) -> None:
        self.scores: dict[str, list[Score]] = defaultdict(list)

    def add(self, fate: str, score: Score) -> None:
        self.scores[fate].append(score)

    def print(self) -> None:
        print("| | found | score, 5th percentile | median | of |\n| --- | --- | --- | --- | --- |")
        for fate, scores in self.scores.items():
            values = [s[0] if s else 0.0 for s in scores]
            found = np.mean([bool(s and s[1] <= SURE) for s in scores])
            low, middle = np.quantile(values, 0.05), np.median(values)
            print(f"| {fate} | {found:.1%} | {low:.1f} | {middle:.1f} | {len(scores)} |")


def false_finds(scores: list[Score]) -> None:
    p = np.array([s[1] if s else 1.0 for s in scores])
    shares = ", ".join(f"{(p <= limit).mean():.2%} at p <= {limit:g}" for limit in (1e-1, 1e-2, 1e-3))
    print(f"\nfalse finds among {len(p)} without the mark: {shares}")


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────
def pictures_in(folder: Path, side: int) -> list[np.ndarray]:
    """uint8 [side, side, 3] each: up to four pieces of each picture, made smaller where it is larger than two pieces."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".ppm")):
        try:
            image = Image.open(path).convert("RGB")
        except OSError:
            continue
        if min(image.size) < side:
            continue
        if (smaller := 2 * side / min(image.size)) < 1:
            size = round(image.width * smaller), round(image.height * smaller)
            image = image.resize(size, Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        corners = [(y, x) for y in (0, pixels.shape[0] - side) for x in (0, pixels.shape[1] - side)]
        found += [pixels[y : y + side, x : x + side] for y, x in dict.fromkeys(corners)]
    chosen = np.linspace(0, len(found) - 1, min(MOST, len(found))).astype(int)
    return [found[i] for i in dict.fromkeys(chosen.tolist())]


def coded(image: Image.Image, kind: str, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, kind, quality=quality)
    return Image.open(file).convert("RGB")


def picture_fates(side: int) -> dict[str, Fate]:
    def sized(share: float) -> Fate:
        return lambda image: image.resize((round(side * share),) * 2, Image.Resampling.BICUBIC)

    def cut(share: float) -> Fate:
        size, at = round(side * share), round(side * (1 - share) * 0.37)
        return lambda image: image.crop((at, at, at + size, at + size))

    def noisy(levels: float) -> Fate:
        grain = np.random.default_rng(0).normal(0, levels, (side, side, 3))
        return lambda image: Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))

    fates: dict[str, Fate] = {"as it is": lambda image: image}
    fates |= {f"JPEG {q}": lambda image, q=q: coded(image, "JPEG", q) for q in (95, 85, 75, 60, 50, 40, 30)}
    fates |= {f"WebP {q}": lambda image, q=q: coded(image, "WEBP", q) for q in (80, 50)}
    fates |= {f"{share:.0%} of the size": sized(share) for share in (0.5, 0.75, 1.5, 2)}
    fates["75% of the size, JPEG 75"] = lambda image: coded(sized(0.75)(image), "JPEG", 75)
    fates |= {f"cut to {share:.0%} of each side": cut(share) for share in (0.9, 0.7, 0.5)}
    fates["cut to 70%, JPEG 75"] = lambda image: coded(cut(0.7)(image), "JPEG", 75)
    fates |= {f"noise of {levels} levels": noisy(levels) for levels in (5, 10, 20)}
    fates["mirrored"] = lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    fates["turned by 2 degrees"] = lambda image: image.rotate(2, Image.Resampling.BICUBIC)
    fates["grey"] = lambda image: image.convert("L")
    return fates


def pictures(folder: Path, side: int) -> None:
    table, plain, near, taken, looked = (
        Table(),
        list[Score](),
        list[tuple[float, float]](),
        list[float](),
        list[float](),
    )
    for pixels in pictures_in(folder, side):
        before = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div(127.5).sub(1)
        start = time.process_time()
        made = picture.marked(before, KEY)
        taken.append(time.process_time() - start)
        after = made.add(1).mul(127.5).round().clamp(0, 255)
        shown = after.div(127.5).sub(1)
        near.append((float(psnr(before, shown)), float(ssim(before, shown, window="gaussian", size=11))))
        image = Image.fromarray(after[0].byte().permute(1, 2, 0).numpy())
        for fate, change in picture_fates(side).items():
            table.add(fate, picture.score([np.asarray(change(image))], KEY))
        start = time.process_time()
        plain += [picture.score([pixels], other) for other in OTHERS]
        looked.append((time.process_time() - start) / len(OTHERS))
    table.print()
    worst, middle = np.min(near, 0), np.median(near, 0)
    print(
        f"\nPSNR {worst[0]:.1f} dB at least, median {middle[0]:.1f}; SSIM {worst[1]:.4f} at least, median {middle[1]:.4f}"
    )
    print(
        f"milliseconds a picture: {1e3 * np.median(taken):.1f} to mark, {1e3 * np.median(looked):.0f} to look at in vain"
    )
    false_finds(plain)


# ── sound ────────────────────────────────────────────────────────────────────────────────────────────────────────
def sounds_in(folder: Path) -> Iterator[torch.Tensor]:
    """[1, N] at 16,000 Hz each, of at least 3 seconds: the first ten of each file, and of long files some more."""
    from genloom.data.sound import SUFFIXES, read

    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    for path in files:
        with open(path, "rb") as stream:
            wave = torch.from_numpy(read(stream, path.name, RATE).samples)[None]
        for start in range(0, min(wave.shape[1], 60 * RATE), 20 * RATE):
            piece = wave[:, start : start + SECONDS * RATE]
            if piece.shape[1] >= 3 * RATE and float(piece.square().mean()) > 1e-6:
                yield piece


def through(wave: torch.Tensor, codec: str, form: str, bits: int) -> tuple[torch.Tensor, int]:
    """What a codec leaves of a wave, and at which rate."""
    import av

    file, rate = BytesIO(), 48_000 if codec == "libopus" else RATE
    with av.open(file, "w", format=form) as out:
        track: Any = out.add_stream(codec, rate=rate, layout="mono", bit_rate=bits)
        values = (wave.clamp(-1, 1) * 32767).numpy().astype("<i2")
        frame = av.AudioFrame.from_ndarray(values, format="s16", layout="mono")
        frame.sample_rate = RATE
        way = av.AudioResampler(track.codec_context.format, "mono", rate, frame_size=track.codec_context.frame_size)
        for part in [*way.resample(frame), *way.resample(None), None]:
            out.mux(track.encode(part))
    file.seek(0)
    with av.open(file) as made:
        parts = [f.to_ndarray().reshape(1, -1) for f in made.decode(audio=0)]
    return torch.from_numpy(np.concatenate(parts, 1)).float(), rate


def sound_fates() -> dict[str, Fate]:
    def noisy(below: float) -> Fate:
        def change(wave: torch.Tensor) -> tuple[torch.Tensor, int]:
            grain = torch.randn(wave.shape, generator=torch.Generator().manual_seed(0))
            return wave + grain * wave.square().mean().sqrt() * 10 ** (-below / 20), RATE

        return change

    def resampled(rate: int) -> Fate:
        import soxr

        return lambda wave: (torch.from_numpy(soxr.resample(wave[0].numpy(), RATE, rate))[None], rate)

    fates: dict[str, Fate] = {"as it is": lambda wave: (wave, RATE)}
    coders = (("MP3", "libmp3lame", "mp3", (128, 64, 32)), ("AAC", "aac", "adts", (64,)))
    for name, codec, form, rates in (*coders, ("Opus", "libopus", "ogg", (64, 32, 24, 16))):
        for bits in rates:
            fates[f"{name}, {bits} kbit/s"] = lambda w, c=codec, f=form, b=bits: through(w, c, f, 1000 * b)
    fates |= {f"{seconds} s cut out": lambda w, s=seconds: (w[:, 7777:][:, : s * RATE], RATE) for seconds in (5, 3, 1)}
    fates |= {f"at {rate:,} Hz": resampled(rate) for rate in (44_100, 8_000)}
    fates |= {f"noise {below} dB below": noisy(below) for below in (30, 20, 10)}
    fates["half as loud"] = lambda wave: (wave / 2, RATE)
    fates["2 % faster"] = lambda wave: (wave, round(RATE * 1.02))
    return fates


def sounds(folder: Path) -> None:
    table, plain, below, heard, taken, length = Table(), list[Score](), list[float](), list[float](), 0.0, 0.0
    every, fates = list(sounds_in(folder)), sound_fates()
    for number in np.linspace(0, len(every) - 1, min(MOST, len(every))).astype(int).tolist():
        wave = every[number]
        start = time.process_time()
        made = sound.marked(wave, RATE, KEY)
        taken, length = taken + time.process_time() - start, length + wave.shape[1] / RATE
        below.append(float(10 * (wave.square().sum() / (made - wave).square().sum()).log10()))
        heard += quality(wave, made)
        for fate, change in fates.items():
            table.add(fate, sound.score(*change(made), KEY))
        plain += [sound.score(wave, RATE, other) for other in OTHERS]
    table.print()
    print(f"\nthe mark lies {min(below):.1f} dB below the sound at least, median {np.median(below):.1f}")
    if heard:
        print(f"PESQ (wide band, 4.64 is no difference): {min(heard):.2f} at least, median {np.median(heard):.2f}")
    print(f"a second of sound is marked in {1e3 * taken / length:.1f} ms")
    false_finds(plain)


def quality(before: torch.Tensor, after: torch.Tensor) -> list[float]:
    """PESQ, where its package is installed; it cannot tell of what is no speech."""
    try:
        from pesq import PesqError, pesq
    except ImportError:
        return []
    try:
        return [pesq(RATE, before[0].numpy(), after[0].numpy(), "wb")]
    except PesqError:
        return []


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def texts(folder: Path, count: int = 64, length: int = 400) -> None:
    model: Any = generate.load(Run.open(folder))
    vocabulary, lengths = model.tokenizer.size, [n for n in (50, 100, 200, 400) if n <= length]
    table, plain = Table(), list[Score]()
    for marked in (True, False):
        rows, logs = defaultdict[int, list[int]](list), defaultdict[int, list[float]](list)

        def hear(row: int, token: int, log: float, rows: Any = rows, logs: Any = logs) -> None:
            rows[row].append(token)
            logs[row].append(log)

        start = time.process_time()
        with torch.inference_mode():
            model.sample(count, seed=1, length=length, hear=hear, watermark=KEY if marked else None)
        taken = time.process_time() - start
        means = np.array([-np.mean(row) for row in logs.values()])
        drawn = sum(map(len, rows.values()))
        error = means.std() / len(means) ** 0.5
        name = "marked" if marked else "without"
        print(f"{name}: perplexity {np.exp(means.mean()):.3f} +- {error:.1%}, {drawn / taken:.0f} tokens a second")
        for tokens in rows.values():
            for size in (n for n in lengths if len(tokens) >= n):
                if marked:
                    table.add(f"{size} tokens", mark.score(tokens[:size], KEY, vocabulary))
                else:
                    plain += [mark.score(tokens[:size], other, vocabulary) for other in OTHERS]
    table.print()
    false_finds(plain)


def main() -> None:
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["pictures", folder, *side]:
            pictures(Path(folder), int(side[0]) if side else SIDE)
        case ["sound", folder]:
            sounds(Path(folder))
        case ["text", folder]:
            texts(Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
