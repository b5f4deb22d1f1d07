"""Sources: files, folders, globs and videos become single images, lazily and in a stable order."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.batch.jobs import Job
from edgeclf.runtime.batch.listing import count_kinds, looks_like_image, walk
from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.images.preprocess import IMAGE_SUFFIXES, load_image
from edgeclf.runtime.images.video import VIDEO_SUFFIXES, VideoFile, VideoGap, begins_like_video
from edgeclf.runtime.spec import Preprocess


def image_paths(sources: Sequence[Path | str]) -> list[Path]:
    """The image files that sources name.

    Args:
        sources: Files, folders (searched recursively; see `walk`), or glob patterns (`**` crosses folders). A file that
            is named is taken whatever it is. From folders come the entries with an image
            suffix - also a folder or a dangling link that has one, and a folder that may not be read, so that they
            show up as unreadable instead of vanishing. From patterns come the same, and whatever has the suffix
            that the pattern itself ends in; a folder that a pattern without `**` matches is searched.

    Returns:
        The files, sorted within each source, in the order of the sources.

    Raises:
        SourceError: A source does not exist, or has no image.
    """
    return _expand(sources, IMAGE_SUFFIXES, "images")[0]


def source_jobs(
    sources: Sequence[Path | str], *, listed: Sequence[Path] = (), reduce_for: Preprocess | None = None
) -> "SourceJobs":
    """The jobs of sources: every image, and every frame of every video.

    Args:
        sources: As for `image_paths`, with video files among them, see `is_video`.
        listed: Files of a list, taken as they are: no patterns, and one that is not there is an error of its own.
        reduce_for: The model's preprocessing, where large JPEGs need not be decoded at their full size; see
            `decode_image`.

    Raises:
        SourceError: A source does not exist, or has neither image nor video.
    """
    paths, not_read = _expand(sources, IMAGE_SUFFIXES | VIDEO_SUFFIXES, "images or videos")
    return SourceJobs([*paths, *listed], reduce_for=reduce_for, not_read=not_read)


class SourceJobs:
    """Jobs for the pipeline, made one by one as they are needed.

    Attributes:
        paths: The image and video files, in order.
        has_videos: Whether a video is among them.
        expected: Number of jobs as far as it can be known: exact for images; a video counts as one until it is
            opened, then as the frames it announces, in the end as those it had.
        fps: Frame rate of the last video that was opened, 0 before there is one.
        not_read: Number of files in the folders that are neither images nor videos by their names, by kind.
        warnings: What went wrong besides errors of single jobs; grows while the jobs are read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        reduce_for: Preprocess | None = None,
        not_read: Mapping[str, int] | None = None,
    ) -> None:
        self._load = partial(load_image, reduce_for=reduce_for)
        self.paths = tuple(paths)
        self._videos = frozenset(path for path in self.paths if is_video(path))
        self.has_videos = bool(self._videos)
        self.expected = len(self.paths)
        self.fps = 0.0
        self.not_read = dict(not_read or {})
        self.warnings: list[str] = []

    def __iter__(self) -> Iterator[Job]:
        for path in self.paths:
            if path in self._videos:
                yield from self._video_jobs(path)
            else:
                yield Job(str(path), partial(self._load, path))

    def _video_jobs(self, path: Path) -> Iterator[Job]:
        try:
            video = VideoFile(path)
        except SourceError as error:
            yield Job(str(path), partial(_raise, error))
            return
        announced = max(1, video.frames_announced)
        self.fps = video.fps
        self.expected += announced - 1
        with video:
            for number, frame_bgr in video.numbered():
                if isinstance(frame_bgr, VideoGap):
                    yield Job(str(path), partial(_raise, frame_bgr.error(path)), number)
                else:
                    yield Job.of_pixels(str(path), frame_bgr, number)
        self.expected += video.frames_read - announced
        if video.ended_early:
            self.warnings.append(
                f"{path} ended early: {video.frames_read} frames read, {video.frames_announced} announced"
            )


def _raise(error: SourceError) -> UInt8Array:
    raise error


def is_video(path: Path) -> bool:
    """Whether a file is to be read as a video: by its suffix, or by its first bytes where the suffix says nothing."""
    suffix = path.suffix.lower()
    if kind_of(path) != "file" or suffix in IMAGE_SUFFIXES:
        return False
    if suffix in VIDEO_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return begins_like_video(file.read(1024))
    except OSError:
        return False


def _expand(sources: Sequence[Path | str], suffixes: frozenset[str], kind: str) -> tuple[list[Path], dict[str, int]]:
    """The files that sources name, and the number of files of each kind in their folders that are not read."""
    paths: list[Path] = []
    others: list[Path] = []
    for source in sources:
        text = os.fspath(source)
        if kind_of(text) == "folder":
            listed = walk(Path(text))
            found = _with_suffix(listed, suffixes)
            others.extend(listed)
            if not found:
                counts = count_kinds(listed, suffixes)
                raise SourceError(
                    f"no {kind} in {text}",
                    got="a folder without such files" + (f", with {_in_words(counts)}" if counts else ""),
                    expected=f"files ending in {', '.join(sorted(suffixes))}",
                    hint="check the path",
                )
        elif os.path.lexists(text):
            # Also a file whose name holds [brackets]: what exists is meant as it is written.
            found = [Path(text)]
        else:
            has_magic = glob.has_magic(text)
            found = _matches(text, suffixes) if has_magic else []
            if not found:
                raise SourceError(
                    f"cannot find {text}",
                    got=f"no {kind} that match" if has_magic else "no such file or folder",
                    expected="an image, a video, a folder or a glob pattern",
                    hint="check the path",
                )
        paths.extend(found)
    return paths, count_kinds(others, suffixes)


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in list(counts.items())[:6])


def _with_suffix(listed: Sequence[Path], suffixes: frozenset[str]) -> list[Path]:
    return [entry for entry in listed if entry.suffix.lower() in suffixes or kind_of(entry) == "folder"]


def _matches(pattern: str, suffixes: frozenset[str]) -> list[Path]:
    asked_for = Path(pattern).suffix.lower()
    if asked_for and not glob.has_magic(asked_for):
        suffixes |= {asked_for}
    found: list[Path] = []
    for match in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207 - Path.glob takes no absolute patterns
        if kind_of(match) == "folder" and not looks_like_image(match):
            # With `**` the files in a folder that matches come as matches of their own.
            found.extend([] if "**" in pattern else _with_suffix(walk(match), suffixes))
        elif match.suffix.lower() in suffixes and kind_of(match) != "other":
            found.append(match)
    return found
