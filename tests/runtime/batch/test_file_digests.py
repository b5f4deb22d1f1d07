"""Digests of files: what has no end, or no content, has none."""

import hashlib
import os
from pathlib import Path

from edgeclf.runtime.batch.file_digests import digest_files


def test_devices_pipes_and_folders_have_no_digest(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path / "file", tmp_path / "link", tmp_path / "pipe", tmp_path, tmp_path / "none", Path("/dev/zero")]
    digests = [file.digest for file in digest_files(paths, tmp_path / "memo", 2, lambda *_: None)]
    expected = hashlib.blake2b(b"content", digest_size=16).hexdigest()
    assert digests == [expected, expected, None, None, None, None]
