# SPDX-License-Identifier: LGPL-2.1-or-later
"""The test agent inside the guest: runs commands that arrive on a virtio-serial port.

One request a line, "NONCE BASE64(JSON)"; one answer a line, "NONCE BASE64(JSON)". The nonce lets the host
drop answers to questions it no longer asks, after a snapshot was restored or the guest was reset. The agent
needs nothing writable and keeps nothing open but the port, so it disturbs no mount in any mode.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import Any

PORT = "persist.agent"
LINGER_SEC = 0.3
AGENT = os.urandom(8).hex()


def find_port() -> str:
    """The device node of our port, waited for; asked from sysfs, for udev may not have linked it yet."""
    modprobe_at = 0.0
    while True:
        try:
            ports = os.listdir("/sys/class/virtio-ports")
        except FileNotFoundError:
            ports = []
        for port in ports:
            with open(f"/sys/class/virtio-ports/{port}/name", encoding="ascii") as file:
                if file.read().strip() == PORT and os.path.exists(f"/dev/{port}"):
                    return f"/dev/{port}"
        if time.monotonic() > modprobe_at:
            modprobe_at = time.monotonic() + 5
            subprocess.run(["modprobe", "-q", "virtio_console"], check=False)
        time.sleep(0.05)


class Running:
    """One command: its process and what it has said so far."""

    def __init__(self, command: str, data: bytes) -> None:
        self.data = memoryview(data)
        self.said: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        self.selector = selectors.DefaultSelector()
        self.pidfd = os.pidfd_open(self.process.pid)
        self.selector.register(self.pidfd, selectors.EVENT_READ, "exit")
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.selector.register(self.process.stdout, selectors.EVENT_READ, "stdout")
        self.selector.register(self.process.stderr, selectors.EVENT_READ, "stderr")
        if data:
            os.set_blocking(self.process.stdin.fileno(), False)
            self.selector.register(self.process.stdin, selectors.EVENT_WRITE, "stdin")
        else:
            self.process.stdin.close()

    def _feed(self) -> None:
        assert self.process.stdin
        try:
            self.data = self.data[os.write(self.process.stdin.fileno(), self.data[:65536]) :]
        except BrokenPipeError:
            self.data = self.data[:0]
        if not self.data:
            self.selector.unregister(self.process.stdin)
            self.process.stdin.close()

    def _collect(self, key: selectors.SelectorKey) -> None:
        chunk = os.read(key.fd, 1 << 16)
        if chunk:
            self.said[key.data] += chunk
        else:
            self.selector.unregister(key.fileobj)

    def wait(self, timeout: float) -> bool:
        """Pump until the command ended and its pipes closed or fell silent; False when it was killed."""
        deadline = time.monotonic() + timeout
        timely, ended = True, False
        while self.selector.get_map():
            events = self.selector.select(max(0.0, deadline - time.monotonic()))
            if not events:
                if ended:
                    break  # a background child keeps the pipes
                timely = False
                ended = True
                os.killpg(self.process.pid, signal.SIGKILL)
                deadline = time.monotonic() + 2
            for key, _mask in events:
                if key.data == "exit":
                    self.selector.unregister(self.pidfd)
                    ended = True
                elif key.data == "stdin":
                    self._feed()
                else:
                    self._collect(key)
            if ended and timely:
                deadline = time.monotonic() + LINGER_SEC
        return timely

    def close(self) -> int | None:
        """Give everything back; the exit status, or None when the process does not even die of SIGKILL."""
        self.selector.close()
        os.close(self.pidfd)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe and not pipe.closed:
                pipe.close()
        try:
            return self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return None


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run the command of a request, and answer."""
    running = Running(request["command"], base64.b64decode(request.get("stdin", "")))
    timely = running.wait(float(request["timeout"]))
    status = running.close()
    return {
        "status": status if timely else 124,
        "timed_out": not timely,
        "stdout": base64.b64encode(running.said["stdout"]).decode(),
        "stderr": base64.b64encode(running.said["stderr"]).decode(),
    }


def ping() -> dict[str, Any]:
    """Say which boot this is, and which agent: a soft reboot starts another one in the same boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return {"boot_id": file.read().strip(), "agent": AGENT}


def answer(line: bytes) -> bytes:
    """The answer to one request line, or nothing to a line that is none."""
    words = line.split()
    if len(words) != 2:
        return b""
    try:
        request = json.loads(base64.b64decode(words[1]))
    except ValueError:
        return b""
    try:
        reply = run(request) if "command" in request else ping()
    except Exception as error:  # the host must hear of it, whatever it is
        reply = {"error": f"{type(error).__name__}: {error}"}
    return b"\n" + words[0] + b" " + base64.b64encode(json.dumps(reply).encode()) + b"\n"


def send(port: int, data: bytes) -> None:
    """Write all of DATA to the port."""
    view = memoryview(data)
    while view:
        view = view[os.write(port, view[:32768]) :]


def serve(port: int) -> None:
    """Answer requests as long as the machine lives."""
    pending = bytearray()
    while True:
        chunk = os.read(port, 65536)
        if not chunk:
            time.sleep(0.05)  # the host has not connected (again)
            continue
        pending += chunk
        if b"\n" not in chunk:
            continue
        end = pending.rindex(b"\n")
        lines = bytes(pending[:end]).split(b"\n")
        del pending[: end + 1]
        for line in lines:
            reply = answer(line)
            if reply:
                send(port, reply)


def main() -> None:
    """Find the port and serve it."""
    os.environ.update(HOME="/root", LANG="C.UTF-8", TERM="dumb", USER="root")
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    port = os.open(find_port(), os.O_RDWR | os.O_CLOEXEC)
    print("persist-test-agent: ready", file=sys.stderr, flush=True)
    serve(port)


if __name__ == "__main__":
    main()
