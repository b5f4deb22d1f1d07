import platform

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


@pytest.mark.parametrize(
    ("release", "machine", "expected"),
    [
        ({"ID": "ubuntu", "UBUNTU_CODENAME": "noble"}, "x86_64", "noble"),
        # Made of Ubuntu's packages.
        ({"ID": "linuxmint", "VERSION_CODENAME": "wilma", "UBUNTU_CODENAME": "jammy"}, "x86_64", "jammy"),
        ({"ID": "ubuntu", "UBUNTU_CODENAME": "noble"}, "aarch64", None),
        ({"ID": "debian", "VERSION_CODENAME": "bookworm"}, "x86_64", None),
    ],
)
def test_ubuntu_has_arm64_on_servers_of_its_own(tools, tmp_path, monkeypatch, release, machine, expected):
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    given = tmp_path / "given"
    # Keeps its arguments and the list of sources that it is given.
    tools(
        "apt-get",
        f'for word; do echo "$word" >> {given}; '
        f'case "$word" in Dir::Etc::SourceList=*) cat "${{word#Dir::Etc::SourceList=}}" >> {given};; esac; done; exit 100',
    )
    with pytest.raises(DeviceUnavailableError):
        prepare_sysroot(tmp_path / "cache", no_progress)
    lines = given.read_text().splitlines()
    assert "APT::Architecture=arm64" in lines
    sources = [line.rsplit("]", 1)[1].split()[:2] for line in lines if line.startswith("deb ")]
    suites = [] if expected is None else [expected, f"{expected}-updates", f"{expected}-security"]
    assert sources == [["http://ports.ubuntu.com/ubuntu-ports", suite] for suite in suites]
    # This machine's other sources do not have it.
    assert ("Dir::Etc::SourceParts=-" in lines) == (expected is not None)


def test_a_system_that_does_not_say_what_it_is_has_its_own_sources(tools, tmp_path, monkeypatch):
    def unknown():
        raise OSError("no os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", unknown)
    tools("apt-get", f'echo "$@" > {tmp_path / "given"}; exit 100')
    with pytest.raises(DeviceUnavailableError):
        prepare_sysroot(tmp_path / "cache", no_progress)
    assert "SourceList" not in (tmp_path / "given").read_text()


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
