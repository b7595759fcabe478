"""Which disks are those of other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_executor_typed.stores.disks import network_disk_of

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:40 / /srv/files rw,relatime shared:7 - nfs4 files:/export rw,vers=4.2
41 40 8:2 / /srv/files/local rw,relatime - xfs /dev/sdb1 rw
42 22 0:41 / /mnt/two\\040words rw,relatime master:1 propagate_from:2 - fuse.sshfs ada@far: rw
43 22 0:42 / /data rw - cifs //box/share rw
44 22 8:3 / /data rw - ext4 /dev/sdc1 rw
a line that means nothing
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/shop/jobs.db", None),
        ("/srv/files/jobs.db", "nfs4"),
        ("/srv/files/shop/jobs.db", "nfs4"),
        ("/srv/files/local/jobs.db", None),
        ("/srv/filesystem/jobs.db", None),
        ("/mnt/two words/jobs.db", "fuse.sshfs"),
        ("/data/jobs.db", None),
    ],
)
def test_the_innermost_and_latest_mount_decides(path: str, kind: str | None) -> None:
    assert network_disk_of(Path(path), MOUNTS) == kind


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "remote")
    mounts = f"22 1 8:1 / / rw - ext4 a rw\n23 22 0:1 / {tmp_path}/remote rw - nfs b rw\n"
    assert network_disk_of(tmp_path / "link" / "jobs.db", mounts) == "nfs"


def test_systems_that_do_not_say_are_taken_at_their_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert network_disk_of(tmp_path / "jobs.db") is None
    monkeypatch.setattr("flask_executor_typed.stores.disks._MOUNTS", tmp_path / "none")
    assert network_disk_of(tmp_path / "jobs.db") is None
