"""From what a user names - files, folders, globs, videos - to single images, lazily and in a stable order."""

import glob
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.pipeline import Job
from edgeclf.runtime.preprocess import IMAGE_SUFFIXES, UInt8Array, load_image
from edgeclf.runtime.video import VIDEO_SUFFIXES, VideoFile


def image_paths(sources: Sequence[Path | str]) -> list[Path]:
    """The image files that sources name.

    Args:
        sources: Files, folders (searched recursively, hidden entries passed over), or glob patterns (`**` crosses
            folders). A file that is named, or matched by a pattern, is taken whatever it is; from folders come the
            entries with an image suffix - also a folder or a dangling link that has one, so that it shows up as
            unreadable instead of vanishing.

    Returns:
        The files, sorted within each source, in the order of the sources.

    Raises:
        SourceError: A source does not exist, or has no image.
    """
    return [path for path in _expand(sources) if path.suffix.lower() not in VIDEO_SUFFIXES]


def source_jobs(sources: Sequence[Path | str]) -> "SourceJobs":
    """What there is to classify in sources: images, and every frame of videos.

    Args:
        sources: As for `image_paths`; video files (by suffix) are read frame by frame.

    Raises:
        SourceError: A source does not exist, or has neither image nor video.
    """
    return SourceJobs(_expand(sources))


class SourceJobs:
    """Jobs for the pipeline, made one by one as they are needed.

    Attributes:
        paths: The image and video files, in order.
        count: Number of jobs where it is known, None when there are videos.
        fps: Frame rate of the last video that was opened, 0 before there is one.
        warnings: What went wrong besides errors of single jobs; grows while the jobs are read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self.warnings: list[str] = []
        has_video = any(path.suffix.lower() in VIDEO_SUFFIXES for path in self.paths)
        self.count = None if has_video else len(self.paths)
        self.fps = 0.0

    def __iter__(self) -> Iterator[Job]:
        for path in self.paths:
            if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
                yield from self._video_jobs(path)
            else:
                yield Job(str(path), partial(load_image, path))

    def _video_jobs(self, path: Path) -> Iterator[Job]:
        try:
            video = VideoFile(path)
        except SourceError as error:
            yield Job(str(path), partial(_raise, error))
            return
        self.fps = video.fps
        with video:
            for number, frame_bgr in enumerate(video):
                yield Job(str(path), partial(_same, frame_bgr), number)
            if video.ended_early:
                self.warnings.append(
                    f"{path} ended early: {video.frames_read} frames read, {video.frames_announced} announced"
                )


def _raise(error: SourceError) -> UInt8Array:
    raise error


def _same(frame_bgr: UInt8Array) -> UInt8Array:
    return frame_bgr


def _expand(sources: Sequence[Path | str]) -> list[Path]:
    paths: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found = [entry for entry in walk(path) if entry.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
            if not found:
                raise SourceError(
                    f"no images in {path}",
                    got="a folder without image or video files",
                    expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}",
                    do="check the path",
                )
            paths.extend(found)
        elif path.exists() or path.is_symlink():
            paths.append(path)
        else:
            # Path.glob takes no absolute patterns.
            has_magic = glob.has_magic(str(source))
            matches = sorted(glob.glob(str(source), recursive=True)) if has_magic else []  # noqa: PTH207
            if not matches:
                raise SourceError(
                    f"cannot find {source}",
                    got="no match" if has_magic else "no such file or folder",
                    expected="an image, a video, a folder or a glob pattern",
                    do="check the path",
                )
            paths.extend(match for match in map(Path, matches) if not match.is_dir() or looks_like_image(match))
    return paths


def looks_like_image(path: Path) -> bool:
    """Whether the name ends as an image file's does."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is not an ordinary folder, sorted, without hidden entries.

    Folders named like an image are given instead of entered. Links to folders are not followed, so that loops end.
    Pipes, sockets and devices are passed over: reading one that nobody asked for by name may never end.
    """
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink() and not looks_like_image(entry):
            yield from walk(entry)
        elif entry.is_dir() or entry.is_file() or not entry.exists():
            yield entry
