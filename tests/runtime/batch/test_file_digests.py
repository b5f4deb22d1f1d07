"""Digests of files: what has no end, or no content, has none."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeclf.runtime.batch import file_digests
from edgeclf.runtime.batch.file_digests import digest_files


def test_devices_pipes_and_folders_have_no_digest(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path / "file", tmp_path / "link", tmp_path / "pipe", tmp_path, tmp_path / "none", Path("/dev/zero")]
    digests = [file.digest for file in digest_files(paths, tmp_path / "memo", 2, lambda *_: None)]
    expected = hashlib.blake2b(b"content", digest_size=16).hexdigest()
    assert digests == [expected, expected, None, None, None, None]


def test_few_of_many_files_wait_for_a_thread_at_a_time(tmp_path, monkeypatch):
    """A million files were a million waiting calls, a gigabyte."""
    submitted, seen = [], []

    class Counted(ThreadPoolExecutor):
        def submit(self, *given, **options):
            submitted.append(1)
            return super().submit(*given, **options)

    monkeypatch.setattr(file_digests, "ThreadPoolExecutor", Counted)
    files = [tmp_path / str(number) for number in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    several = [files[number % 5] for number in range(2503)]
    found = digest_files(
        several, tmp_path / "memo", 2, lambda _, done, total: seen.append((done, total, len(submitted)))
    )
    assert [file.digest for file in found] == [
        hashlib.blake2b(bytes([number % 5]), digest_size=16).hexdigest() for number in range(2503)
    ]
    assert [(done, total) for done, total, _ in seen] == [(done, 2503) for done in range(1, 2504)]
    assert max(waiting - done for done, _, waiting in seen) < 1200
