"""Hostile programs on limits and clean-up: bombs, loops that cannot be stopped, processes that stay behind.

Every backend must hold them, `none` as well where no isolation is needed for it. All bombs are bounded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentrl.sandbox import Outcome
from tests.tools.sandbox.attacks import ENDED, EVERY, SMALL, attack, attempt, breach

ANY = frozenset(Outcome)
STOPPED = frozenset({Outcome.TIMEOUT})
NO_MEMORY = frozenset(Outcome) - {Outcome.OK}
"""A busy machine may need longer for a bomb than the wall limit allows."""
BRIEF = replace(SMALL, wall=0.5)

# -- processes and threads ---------------------------------------------------------------------------------------------


@attack("processes", blocked=EVERY, outcomes=ANY, limits=BRIEF)
def fork_bomb(host: dict[str, Any]) -> None:
    import os
    import time

    for _ in range(200):
        try:
            if os.fork() == 0:
                time.sleep(1000)
        except OSError:
            break


@attack("processes", blocked=EVERY, outcomes=ANY, limits=BRIEF)
def fork_bomb_that_grows(host: dict[str, Any]) -> None:
    """Every process starts others; each generation tries again where it was refused."""
    import contextlib
    import os
    import time

    for _ in range(7):
        with contextlib.suppress(OSError):
            os.fork()
    time.sleep(1000)


@attack("processes", blocked=EVERY, outcomes=ANY, limits=BRIEF)
def thread_bomb(host: dict[str, Any]) -> None:
    import threading
    import time

    threading.stack_size(65536)
    for _ in range(300):
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    time.sleep(1000)


@attack("processes", blocked=EVERY, outcomes=ANY)
def orphans_in_sessions_of_their_own(host: dict[str, Any]) -> None:
    import os
    import time

    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.closerange(0, 256)
                os.chdir("/")
                while True:
                    time.sleep(1000)
            os._exit(0)
        os.wait()


@attack("processes", blocked=EVERY, outcomes=ANY)
def orphans_of_commands(host: dict[str, Any]) -> None:
    import os
    import subprocess

    loop = f"cd /; trap '' TERM HUP INT; while :; do sleep {host['number']}; done"
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    for _ in range(3):
        subprocess.Popen(["/bin/sh", "-c", loop], start_new_session=True, env=environment, close_fds=True)


@attack("processes", blocked=EVERY, outcomes=ANY)
def orphan_of_a_parent_that_is_gone(host: dict[str, Any]) -> None:
    """The program ends the session itself and leaves a child."""
    import os
    import time

    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
    os._exit(0)


@attack("processes", blocked=EVERY, outcomes=ENDED | {Outcome.TIMEOUT}, limits=BRIEF)
def child_that_keeps_the_output_open(host: dict[str, Any]) -> None:
    import subprocess

    subprocess.Popen(["sleep", host["number"]])


@attack("processes", blocked=EVERY, outcomes=STOPPED, limits=BRIEF)
def stopping_oneself(host: dict[str, Any]) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


@attack("processes", blocked=EVERY, outcomes=frozenset({Outcome.KILLED}))
def ending_by_a_crash(host: dict[str, Any]) -> None:
    import ctypes

    ctypes.string_at(1)


@attack("processes", blocked=EVERY, outcomes=ANY - {Outcome.OK})
def stack_overflow(host: dict[str, Any]) -> None:
    import sys

    sys.setrecursionlimit(10**9)
    nested: list[Any] = []
    for _ in range(200_000):
        nested = [nested]
    repr(nested)


# -- time --------------------------------------------------------------------------------------------------------------


@attack("time", blocked=EVERY, outcomes=STOPPED, limits=BRIEF)
def loop_that_ignores_signals(host: dict[str, Any]) -> None:
    import contextlib
    import signal

    for number in range(1, 65):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    while True:
        pass


@attack("time", blocked=EVERY, outcomes=STOPPED, limits=BRIEF)
def loop_that_catches_everything(host: dict[str, Any]) -> None:
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


@attack("time", blocked=EVERY, outcomes=STOPPED, limits=BRIEF)
def sleep_for_ever(host: dict[str, Any]) -> None:
    import time

    time.sleep(10**8)


@attack("time", blocked=EVERY, outcomes=STOPPED, limits=BRIEF)
def arithmetic_without_end(host: dict[str, Any]) -> None:
    """One operation of the interpreter that no signal handler interrupts."""
    pow(7, 10**10)


@attack("time", blocked=EVERY, outcomes=STOPPED, limits=BRIEF)
def expression_that_backtracks(host: dict[str, Any]) -> None:
    import re

    re.match(r"(a+)+$", "a" * 64 + "b")


@attack("time", blocked=EVERY, outcomes=STOPPED, limits=replace(SMALL, wall=20.0, cpu=0.5))
def cpu_of_children(host: dict[str, Any]) -> None:
    """Each child stays below the limit of a process."""
    import os

    while True:
        children = [os.fork() for _ in range(2)]
        if 0 in children:
            end = sum(os.times()[:2]) + 0.2
            while sum(os.times()[:2]) < end:
                pass
            os._exit(0)
        for child in children:
            os.waitpid(child, 0)


@attack("time", blocked=EVERY, outcomes=STOPPED, limits=replace(SMALL, wall=20.0, cpu=0.5))
def higher_limits(host: dict[str, Any]) -> None:
    import contextlib
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (10**6, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    while True:
        pass


# -- memory ------------------------------------------------------------------------------------------------------------


@attack("memory", blocked=EVERY, outcomes=NO_MEMORY)
def memory_bomb(host: dict[str, Any]) -> None:
    kept = []
    for _ in range(64):
        kept.append(bytearray(b"x") * (16 << 20))
    breach("a gigabyte")


@attack("memory", blocked=EVERY, outcomes=NO_MEMORY)
def mapped_memory(host: dict[str, Any]) -> None:
    import mmap

    kept = []
    for _ in range(64):
        area = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, 16 << 20, 4096):
            area[offset] = 1
        kept.append(area)
    breach("a gigabyte")


@attack("memory", blocked=EVERY, outcomes=NO_MEMORY)
def memory_of_many_processes(host: dict[str, Any]) -> None:
    """Each stays below the limit of a process."""
    import os
    import time

    reading, writing = os.pipe()
    for _ in range(8):
        if os.fork() == 0:
            kept = bytearray(b"x") * (100 << 20)
            os.write(writing, b"x")
            time.sleep(1000 + len(kept))
    if len(os.read(reading, 1) + os.read(reading, 1) + os.read(reading, 1) + os.read(reading, 1)) == 4:
        time.sleep(2)
        breach("four times 100 MiB for two seconds")


@attack("memory", outcomes=ENDED | NO_MEMORY)
def memory_that_no_process_shows(host: dict[str, Any]) -> None:
    """Shared memory belongs to no process's resident size, or to none that is left."""
    import mmap
    import os

    size, kept = 0, []
    for make in (
        lambda: os.memfd_create("x"),
        lambda: os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR),
        lambda: os.open("/tmp", os.O_TMPFILE | os.O_RDWR),
    ):
        try:
            for _ in range(64):
                file = make()
                kept.append(file)
                size += os.write(file, b"x" * (8 << 20))
        except OSError:
            continue
    try:
        for _ in range(64):
            area = mmap.mmap(-1, 8 << 20)
            size += area.write(b"x" * (8 << 20))
            kept.append(area)
            if os.fork() == 0:  # holds it while nobody touches it
                os.kill(os.getpid(), 19)
            area.madvise(mmap.MADV_DONTNEED)
    except (OSError, ValueError):
        pass
    if size > 300 << 20:
        breach(f"{size >> 20} MiB")


@attack("memory", blocked=EVERY, outcomes=ANY)
def value_without_end(host: dict[str, Any]) -> None:
    """Memory of the host: what the program hands back is large."""
    import sys

    sys.stdout.write("x" * (100 << 20))
    raise ValueError("y" * (50 << 20))


# -- disk --------------------------------------------------------------------------------------------------------------


@attack("disk", blocked=EVERY, outcomes=ENDED)
def one_large_file(host: dict[str, Any]) -> None:
    written = 0
    try:
        with open("large", "wb", buffering=0) as file:
            for _ in range(64):
                written += file.write(b"x" * (1 << 20))
    except OSError:
        pass
    if written > 9 << 20:
        breach(f"{written >> 20} MiB in one file")


@attack("disk")
def many_files(host: dict[str, Any]) -> None:
    import os

    written = 0
    for place, folder in enumerate((".", "/tmp", "/dev/shm", "/var/tmp", "/run", "/dev", os.path.expanduser("~"), "/")):
        try:
            for number in range(64):
                with open(os.path.join(folder, f"{host['mark']}-{place}-{number}"), "wb", buffering=0) as file:
                    written += file.write(b"x" * (1 << 20))
        except OSError:
            continue
    if written > 10 << 20:
        breach(f"{written >> 20} MiB")


@attack("disk")
def small_files(host: dict[str, Any]) -> None:
    import os

    os.mkdir("small")
    for number in range(20_000):
        try:
            with open(f"small/{number}", "wb", buffering=0) as file:
                file.write(b"x" * 4096)
        except OSError:
            return
    breach("80 MB in files of 4 kB")


@attack("disk", blocked=EVERY)
def folders_that_resist_removal(host: dict[str, Any]) -> None:
    import os

    os.makedirs("a/b/c")
    for name in ("a/b/c/f", "a/b/g"):
        with open(name, "w") as file:
            file.write("x")
        os.chmod(name, 0)
    os.symlink("/", "a/root")
    os.symlink("loop", "a/loop")
    os.mkfifo("a/pipe")
    folder = "deep"
    for _ in range(20):
        folder = os.path.join(folder, "d" * 100)
    os.makedirs(folder)
    for name in ("a/b/c", "a/b", "a"):
        os.chmod(name, 0)
    attempt("the limit of a file name", os.mkdir, "n" * 300)


# -- output ------------------------------------------------------------------------------------------------------------


@attack("output", blocked=EVERY, outcomes=ENDED | STOPPED, limits=replace(SMALL, wall=1.5))
def output_bomb(host: dict[str, Any]) -> None:
    import os

    for _ in range(1000):
        os.write(1, b"line\n" * 20_000)


@attack("output", blocked=EVERY, outcomes=ENDED | STOPPED, limits=replace(SMALL, wall=1.5))
def error_bomb(host: dict[str, Any]) -> None:
    import sys

    for _ in range(1000):
        sys.stderr.write("line\n" * 20_000)


@attack("output", blocked=EVERY, outcomes=ENDED | STOPPED | NO_MEMORY, limits=replace(SMALL, wall=1.5))
def line_of_a_gigabyte(host: dict[str, Any]) -> None:
    import sys

    for _ in range(1000):
        sys.stdout.write("x" * (1 << 20))


@attack("output", blocked=EVERY, outcomes=STOPPED, limits=BRIEF)
def output_without_end(host: dict[str, Any]) -> None:
    import subprocess

    subprocess.run(["yes", host["number"]])


@attack("output", blocked=EVERY, outcomes=ENDED)
def output_after_the_end(host: dict[str, Any]) -> None:
    """A thread and a child that write on while the next requests are served."""
    import os
    import threading
    import time

    def write() -> None:
        for _ in range(1000):
            os.write(1, b"late\n")
            time.sleep(0.001)

    threading.Thread(target=write, daemon=True).start()
    if os.fork() == 0:
        write()
        os._exit(0)
