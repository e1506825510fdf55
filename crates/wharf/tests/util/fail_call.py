"""Becomes a program for which a system call fails: CALL ERROR PROGRAM ARGUMENTS. By a seccomp filter, which needs no
rights and works in containers."""

import ctypes
import errno
import os
import platform
import struct
import sys

# On x86-64 and on arm64.
NUMBERS = {
    "bind": (49, 200),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "getsockname": (51, 204),
    "io_uring_setup": (425, 425),
    "listen": (50, 201),
    "socket": (41, 198),
    "socketpair": (53, 199),
}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000

number = NUMBERS[sys.argv[1]][platform.machine() != "x86_64"]
fail = FAIL | getattr(errno, sys.argv[2])
steps = [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, fail), (RETURN, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
for option, *values in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)):
    if libc.prctl(option, *values) != 0:
        sys.exit(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[3], sys.argv[3:])
