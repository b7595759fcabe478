"""Tell whether a file is on a disk of another machine."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ("network_disk_of",)

_MOUNTS = Path("/proc/self/mountinfo")
_OF_NETWORK = frozenset(
    {
        *("afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.rclone"),
        *("fuse.s3fs", "fuse.sshfs", "vboxsf"),
    }
)


def network_disk_of(path: Path, mounts: str | None = None) -> str | None:
    """Return the type of the network file system that has ``path``, such as ``"nfs4"``.

    ``None``: it is on a disk of this machine, or the system does not say.

    Args:
        path: A file, which need not exist.
        mounts: What Linux shows as ``/proc/self/mountinfo``, which is read by default.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text("utf-8", errors="surrogateescape")
        except OSError:
            return None
    folders = {path.resolve(), *path.resolve().parents}
    longest, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if not after:
            continue
        mounted_at = _without_escapes(before.split(" ")[4])
        # Of two at the same place, the later one hides the other.
        if Path(mounted_at) in folders and len(mounted_at) >= longest:
            longest, kind = len(mounted_at), after.split(" ")[0]
    return kind if kind in _OF_NETWORK else None


def _without_escapes(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
