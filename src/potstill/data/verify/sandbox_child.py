"""The inside of the sandbox; run as a script by `unshare`, it imports nothing of ours.

Builds a root of its own in memory that holds the interpreter and the system's libraries, read-only, and nothing else;
moves into it; gives up every capability; sets the limits; and becomes an interpreter that reads its program from stdin.
Arguments: where to build; seconds of processor time; MiB of memory; then folders to show. Exit code 97 and a word on
stderr: it could not be built, and nothing was run.
"""

import ctypes
import os
import resource
import subprocess
import sys

NOT_BUILT = 97
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, NOATIME, NODIRATIME, BIND, REC = 1, 2, 4, 8, 32, 1024, 2048, 4096, 16384
DETACH = 2
NO_NEW_PRIVILEGES, DROP_BOUNDING = 38, 24
FILE_BYTES, PROCESSES = 16 << 20, 64
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """A function of the C library; raises OSError where it fails."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def show(root, path):
    """Put a file or folder of the system into the new root, read-only."""
    target = root + path
    if os.path.islink(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.readlink(path), target)
        return
    if not os.path.exists(path) or os.path.ismount(target):
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    call("mount", path.encode(), target.encode(), None, BIND, None)
    kept = os.statvfs(path).f_flag & (NOEXEC | NOATIME | NODIRATIME)
    device = 0 if path.startswith("/dev/") else NODEV
    call("mount", None, target.encode(), None, REMOUNT | BIND | RDONLY | NOSUID | device | kept, None)


def build(root, folders):
    """The new root, and nothing of the old one within reach."""
    call("mount", b"tmpfs", root.encode(), b"tmpfs", NOSUID | NODEV, b"size=32m,mode=755")
    for path in dict.fromkeys((*SYSTEM, *folders)):
        if not any(path.startswith(f"{other}/") for other in folders if other != path):
            show(root, path)
    for name in ("work", "old"):
        os.mkdir(f"{root}/{name}")
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "old"], check=True)
    os.chdir("/work")
    call("umount2", b"/old", DETACH)
    os.rmdir("/old")


def confine(seconds, mebibytes):
    """No capability, no way to gain one, and limits on all that can be used up."""
    for capability in range(64):
        libc.prctl(DROP_BOUNDING, capability, 0, 0, 0)
    call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: mebibytes << 20,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def main():
    """Build, confine, become the interpreter."""
    root, seconds, mebibytes, interpreter, *folders = sys.argv[1:]
    try:
        if root != "-":
            build(root, folders)
        confine(int(seconds), int(mebibytes))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        sys.exit(NOT_BUILT)
    os.execve(
        interpreter, [interpreter, "-I", "-S", "-"], {"PATH": "/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8"}
    )


if __name__ == "__main__":
    main()
