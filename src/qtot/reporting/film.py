"""An episode as a moving picture, drawn without a screen: what the page's viewer shows."""

from __future__ import annotations

import contextlib
import io
import itertools
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from qtot.errors import QtotError
from qtot.extras import extra_module
from qtot.reporting.episodes import Record, episode, stage
from qtot.reporting.frame import FOOT, PANEL, ROW, SIDE, Frame
from qtot.reporting.read import ReadRun
from qtot.store.files import write_atomic


def check_film(out: Path, frames_per_second: float) -> None:
    """Before episodes are recorded for it.

    Raises:
        QtotError: another ending, or too quick or slow for it.
    """
    if out.suffix not in (".gif", ".mp4"):
        raise QtotError(f"expected a file that ends in .gif or .mp4, got {out}")
    most = 50 if out.suffix == ".gif" else 120  # a .gif counts in hundredths of seconds
    if not 0 < frames_per_second <= most:
        raise QtotError(
            f"fps must be a number above 0, of at most {most}, got {frames_per_second!r}"
        )


def write_film(
    run: ReadRun, record: Record, index: int, out: Path, frames_per_second: float
) -> int:
    """One recorded episode as ``.gif`` or ``.mp4``; returns the number of its frames.

    Raises:
        QtotError: no such episode, a missing package, or it cannot be written.
    """
    check_film(out, frames_per_second)
    if not 0 <= index < record.episodes:
        raise QtotError(f"there is no episode {index}; {record.episodes} were recorded, from 0 on")
    write = _write_gif if out.suffix == ".gif" else _write_mp4
    try:
        write(frames(run, record, index), out, frames_per_second)
    except OSError as error:
        raise QtotError(f"cannot write {out} ({error}); choose another --out") from None
    return int(record.arrays["lengths"][index]) + 1


def _write_gif(pictures: Iterator[Image.Image], out: Path, frames_per_second: float) -> None:
    buffer = io.BytesIO()
    few = (picture.quantize(128, dither=Image.Dither.NONE) for picture in pictures)
    next(few).save(
        buffer,
        "GIF",
        save_all=True,
        append_images=few,
        duration=round(1000 / frames_per_second),
        loop=0,
    )
    write_atomic(out, buffer.getvalue())


def _write_mp4(pictures: Iterator[Image.Image], out: Path, frames_per_second: float) -> None:
    ffmpeg = extra_module("imageio_ffmpeg", "video", ".mp4 (.gif needs nothing)")
    unfinished = out.with_name(f".{out.name}.part.mp4")
    first = next(pictures)
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{first.width}x{first.height}"]
    given += ["-r", str(frames_per_second), "-i", "-"]
    made = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(unfinished)]
    command = [ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *given, *made]
    try:
        with tempfile.TemporaryFile() as words:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=words)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                for picture in itertools.chain([first], pictures):
                    process.stdin.write(picture.tobytes())
            if process.wait() != 0:
                words.seek(0)
                said = words.read().decode(errors="replace").strip()[-300:]
                raise QtotError(f"ffmpeg could not write {out}: {said}")
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def frames(run: ReadRun, record: Record, index: int) -> Iterator[Image.Image]:
    """A picture for each step, and one of the end."""
    shown, where = episode(record, index), stage(run, record)
    pixels = record.arrays.get("frames") if index == 0 else None
    rows = len(where["agents"])
    height = max(SIDE + FOOT, ROW * (rows + 3))
    for t in range(shown["length"] + 1):
        film = Frame(where, shown, t, (SIDE + PANEL, height + height % 2))
        if pixels is not None:
            film.picture(pixels[min(t, len(pixels) - 1)])
        elif where["scene"] is None:
            film.observations()
        elif where["scene"]["ground"] == "table":
            film.table()
        else:
            film.scene()
        film.panel()
        yield film.done()
