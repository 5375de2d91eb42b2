"""Run a program so that it ends when its parent does, and as another user where asked.

Run as a file by an interpreter of its own (it imports nothing of Atoll): the death signal is cleared when the
user changes, so it has to be set after dropping privileges and before the program takes the process over.
Usage: leash.py PARENT_PID SIGNAL UID GID GROUP,GROUP -- PROGRAM ARGUMENT...
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, signal, uid, gid = (int(text) for text in arguments[:4])
    groups = [int(text) for text in arguments[4].split(",") if text]
    program = arguments[6:]
    if os.geteuid() == 0 and uid != 0:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    os.umask(0o077)
    os.execv(program[0], program)  # noqa: S606 (a program of ours, no shell wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
