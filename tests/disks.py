"""A small disk for one process."""

import ctypes
import os
import sys
from pathlib import Path


def mounted(folder: str, room: int) -> bool:
    """Linux alone can: in a mount namespace, and for others than root in a user namespace too."""
    new_user, new_mounts, private = 0x10000000, 0x00020000, 1 << 18 | 1 << 14  # <linux/sched.h>, mount(2)
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if not sys.platform.startswith("linux") or libc.unshare(new_mounts | (new_user if user else 0)):
        return False
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    libc.mount(b"none", b"/", None, private, None)
    return not libc.mount(b"none", folder.encode(), b"tmpfs", 0, f"size={room}".encode())
