import pytest

from edgeclf.export.emulation.sysroot import EMULATOR, prepare_sysroot
from edgeclf.runtime.errors import DeviceUnavailableError, MissingPackageError
from edgeclf.runtime.progress import no_progress


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """Programs in place of the emulator and the packaging tools; each does nothing until it is given a script."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def put(name, script="exit 0"):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    for name in (EMULATOR, "apt-get", "dpkg-deb"):
        put(name)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return put


def test_a_missing_emulator_is_one_sentence_that_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match="qemu-user-static") as caught:
        prepare_sysroot(tmp_path / "cache", no_progress)
    assert "apt install" in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_packages_that_cannot_be_listed_are_an_error_that_leaves_nothing_half_made(tools, tmp_path):
    tools("apt-get", 'echo "E: Failed to fetch https://deb.debian.org/debian/dists/x 404" >&2; exit 100')
    with pytest.raises(DeviceUnavailableError, match="cannot list Debian's arm64 packages") as caught:
        prepare_sysroot(tmp_path / "cache", no_progress)
    assert "Failed to fetch the server 404" in str(caught.value)
    assert "debian.org" not in str(caught.value)
    assert list((tmp_path / "cache" / "emulation").iterdir()) == []


def test_packages_that_cannot_be_unpacked_are_an_error_that_names_them(tools, tmp_path):
    # What apt-get downloads lies in the folder that it is given as its cache.
    tools(
        "apt-get",
        'for word; do case "$word" in Dir::Cache=*) touch "${word#Dir::Cache=}/archives/broken_1_arm64.deb";; esac; done',
    )
    tools("dpkg-deb", "echo 'dpkg-deb: error: not a Debian archive' >&2; exit 2")
    with pytest.raises(DeviceUnavailableError, match=r"cannot unpack broken_1_arm64\.deb: got dpkg-deb: error"):
        prepare_sysroot(tmp_path / "cache", no_progress)
    assert list((tmp_path / "cache" / "emulation").iterdir()) == []
