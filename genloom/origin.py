"""What a run makes says which run made it, and how: on by default, for every file that a verb writes."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from genloom.data import draw
from genloom.data.film_write import drop_frames
from genloom.errors import UserError
from genloom.provenance import Origin, Signer, keys, mark, sealed, watermark
from genloom.provenance.label import condition, drop_beside, producer
from genloom.provenance.manifest import available
from genloom.run import WEIGHTS, Run, atomic, make_folder, writing
from genloom.text.stops import escaped

HASHED = ".weights.sha256"  # beside the weights: their digest, size and time, so that it is computed once
TOLD = "told-of-c2pa"  # in genloom's home: the sentence on the missing extra has been said


class Marks:
    """The marks of what one command makes. Made before the work: what is amiss with the keys is said at once.

    `provenance`: the file says its origin; `watermark`: what is in it is marked. `how` is sample, another way of that verb
    (seeds, and of their grid sheet; interpolate, stream, films, balance), or mix; `options` are what the command took beside the
    conditions. `key_of` gives the key to mark with, where there is to be one.
    """

    def __init__(
        self,
        run: Run,
        *,
        seed: int = 0,
        how: str = "sample",
        options: Mapping[str, Any] | None = None,
        conditions: Mapping[str, Any] | None = None,
        visible: bool = False,
        provenance: bool = True,
        watermark: bool = True,
        key_of: Callable[[], bytes | None] = keys.installation_key,
    ):
        self.run, self.key = run, key_of() if watermark else None
        self.signer: Signer | None = None
        self.origin: Origin | None = None
        if not provenance:
            return
        producer()  # whose name the labels give
        given, told = ({k: condition(v) for k, v in (d or {}).items() if v is not None} for d in (conditions, options))
        told |= given | ({"visible_label": True} if visible else {}) | ({} if watermark else {"no_watermark": True})
        self.signer = Signer() if available() else None
        if self.signer is None:
            tell_once()
        self.origin = Origin(
            model=run.info["model"],
            run=run.folder.resolve().name,
            run_hash=weights_hash(run),
            seed=seed,
            conditions=given,
            how=how,
            visible=visible,
            command=command(run, how, told),
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )

    def watermarked(self, made: Any) -> Any:
        """Samples with the watermark in them, if there is to be one and they have room for it."""
        if self.key is None:
            return made
        made, there = watermark.put(made, self.run.spec, self.key)
        if there:
            self.is_watermarked()
        return made

    def frame(self, made: Tensor) -> Tensor:
        """One frame [1, C, H, W] of a film with the watermark in it, if there is to be one and it has room for it."""
        if self.key is None or not watermark.has_room(made[0]):
            return made
        self.is_watermarked()
        return watermark.picture.marked(made, self.key)

    def sound(self, pieces: Iterable[Tensor], rate: int) -> Iterator[Tensor]:
        """Pieces [n] of a sound with the watermark in them, if there is to be one, as they come."""
        if self.key is None:
            yield from pieces
            return
        self.is_watermarked()
        marker = watermark.sound.Marker(self.key, rate)
        for piece in pieces:
            yield marker.push(piece.detach().float().cpu().flatten())
        yield marker.close()

    def is_watermarked(self) -> None:
        """Say so in the origin: what is made from now on has the mark in it."""
        if self.origin and self.key:
            self.origin = replace(self.origin, watermark=watermark.number(self.key))

    def origins(
        self, count: int, first: int = 0, of: int | None = None, each: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Origin]:
        """One for each of so many files, of the samples from number `first` on; or what `each` says of itself."""
        assert self.origin
        told = each or [{"index": first + i, "of": of or count} for i in range(count)]
        return [replace(self.origin, **one) for one in told]

    def pictures(
        self, images: Tensor, out: Path, first: int = 0, of: int | None = None, names: Sequence[str] | None = None
    ) -> list[Path]:
        """Pictures [N, C, H, W] in [-1, 1] as files, with all marks in them: in memory, a few in each thread."""
        count = of or len(images)

        def seal(data: bytes, i: int, name: str) -> bytes:
            origin = replace(cast(Origin, self.origin), index=first + i, of=count)
            return sealed(data, out / name, origin, self.signer)

        changed = None
        if self.key and watermark.has_room(images[0]):
            self.is_watermarked()
            changed = partial(watermark.picture.mark, key=self.key)
        return draw.write(images, out, names=names, changed=changed, sealed=seal if self.origin else None)

    def written(
        self,
        write: Callable[[Path], Sequence[Path]],
        out: Path,
        first: int = 0,
        of: int | None = None,
        each: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Path]:
        """Have files written into a folder that nobody sees, and put them, marked, into `out`.

        No unmarked file ever stands there, and a file system renames faster where there is nothing to replace. Where no
        origin is to be told they are written at once, and what lay beside older ones, which told theirs, goes.
        """
        if self.origin is None:
            bare = list(write(out))
            for path in bare:
                drop_beside(path)
            return bare
        new = not out.exists()
        with writing(make_folder(out)):
            staging = Path(tempfile.mkdtemp(prefix=".marking-", dir=out))
        try:
            paths = write(staging)
            targets = [out / path.relative_to(staging) for path in paths]
            frames = {path: len(list(path.iterdir())) for path in paths if path.is_dir()}
            mark(paths, self.origins(len(paths), first, of, each), self.signer, targets)
            with writing(out):
                for folder, count in frames.items():
                    drop_frames(out / folder.relative_to(staging), count)
            return targets
        except UserError as error:
            raise UserError(str(error).replace(str(staging), str(out))) from None  # the folder that they know
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if new:
                with suppress(OSError):  # it holds what was made, but where nothing could be
                    out.rmdir()


def command(run: Run, how: str, options: Mapping[str, Any]) -> str:
    """The command that makes the same again; of a run's absolute path the name alone, for the file may be published."""
    words = [
        "genloom",
        "mix" if how == "mix" else "sample",
        run.folder.resolve().name if run.folder.is_absolute() else str(run.folder),
    ]
    for name, value in options.items():
        flag = "-n" if name == "n" else f"--{name.replace('_', '-')}"
        typed = escaped(value) if name == "stop" and isinstance(value, str) else str(value)
        words += [flag] if value is True else [] if value is False else [flag, typed]
    return shlex.join(words)


def weights_hash(run: Run) -> str:
    """SHA-256 of a run's weights, kept beside them until they change; of a folder that cannot be written it is not kept."""
    path, kept = run.folder / WEIGHTS, run.folder / HASHED
    try:
        status = path.stat()
        now = [str(status.st_size), str(status.st_mtime_ns)]
        with suppress(OSError, ValueError):
            digest, *then = kept.read_text(encoding="ascii").split()
            if then == now:
                return digest
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be read ({error.strerror}): run the same `genloom fit` again to go on."
        ) from None
    with suppress(UserError), atomic(kept) as part:
        part.write_text(" ".join([digest, *now]) + "\n", encoding="ascii")
    return digest


def locate(origin: Origin, file: Path, given: Path | None = None) -> Run:
    """The run that made a file: `given`, else by its name above the file, here, or in runs/.

    Raises UserError when it is gone, or its weights are no longer those.
    """
    if given is not None:
        found = [Run.open(given)]
    else:
        places = [*file.resolve().parents, Path(origin.run), Path("runs") / origin.run]
        found = [Run.open(p) for p in places if p.name == origin.run and (p / "run.json").is_file()]
    if not found:
        raise UserError(
            f"'{file}' was made by the run '{origin.run}' ({origin.model}), which is not here: give its folder, --run FOLDER."
        )
    for run in found:
        if weights_hash(run) == origin.run_hash:
            return run
    raise UserError(
        f"'{file}' was made by other weights than '{found[0].folder}' has now: it was trained on since, or is another run."
    )


def tell_once() -> None:
    """Say that signatures need the extra, the first time on this installation."""
    note = keys.home() / TOLD
    if note.exists():
        return
    print(
        "genloom: what is made is labelled, and not signed: C2PA manifests need pip install 'genloom[provenance]'.",
        file=sys.stderr,
    )
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
