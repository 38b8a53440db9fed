"""One broker process, pinned, started afresh for each run and stopped by its own process id."""

import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

START_LIMIT_S = 40
CLEANUP_LIMIT_S = 5


class BrokerError(Exception):
    """The broker did not do what it must to be measured."""


def free_ports(count):
    """Different ones: all are held until the last is found."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Broker:
    """`command` and the text in `files` (name to content) may hold {port}, {spare}, {third} and {fourth} (other
    free ports), {cpu}, {dir} and what `values` names. The load goes to the port named `load_port`. With `measured`, the broker is the descendant of that name, not the started
    command (a start script, say). `cleanup` is run when it has been stopped.
    """

    def __init__(self, name, command, cpu, folder, files=None, environment=None, measured=None, cleanup=None,
                 load_port="port", values=None):
        self.name, self.command, self.cpu = name, command, cpu
        self.load_port, self.values = load_port, values or {}
        self.files, self.environment = files or {}, environment or {}
        self.measured, self.cleanup = measured, cleanup
        self.folder = Path(folder) / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = self.port = self.pid = None

    def fill(self, text):
        for key, value in (self.values | self.ports | {"cpu": self.cpu, "dir": self.folder}).items():
            text = text.replace("{" + key + "}", str(value))
        return text

    def words(self):
        """The command, split before it is filled in: a folder may have blanks in its name."""
        return [self.fill(word) for word in shlex.split(self.command)]

    def start(self):
        self.ports = dict(zip(("port", "spare", "third", "fourth"), free_ports(4)))
        for name, content in self.files.items():
            (self.folder / name).write_text(self.fill(content))
        words = self.words()
        self.variables = os.environ | {key: self.fill(value) for key, value in self.environment.items()}
        self.log = self.folder / "log"
        with open(self.log, "wb") as log:
            # taskset becomes the broker, so the process id is the broker's. In a session of its own, so
            # that what it starts can be ended with it.
            self.process = subprocess.Popen(["taskset", "-c", str(self.cpu)] + words, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=self.variables, start_new_session=True)
        deadline = time.monotonic() + START_LIMIT_S
        while not accepts_mqtt(self.ports["port"]):
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = self.log.read_text(errors="replace")[-2000:]
                self.stop()
                raise BrokerError(f"{self.name} does not speak MQTT on {self.ports['port']}: {shlex.join(words)}\n{text}")
            time.sleep(0.02)
        self.port = self.ports[self.load_port]
        # The probe speaks plain MQTT; another listener only has to be there.
        while not listens(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BrokerError(f"{self.name} does not listen on {self.port}, its {self.load_port}")
            time.sleep(0.02)
        self.pid = self.measured_pid() if self.measured else self.process.pid
        return self

    def measured_pid(self):
        """The descendant whose program is named `measured`."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    text = (entry / "stat").read_text()
                except OSError:
                    continue
                name, rest = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
                parents[int(entry.name)] = (int(rest[1]), name)
        for pid, (parent, name) in parents.items():
            if name.startswith(self.measured[:15]):
                while parent in parents and parent != self.process.pid:
                    parent = parents[parent][0]
                if parent == self.process.pid or pid == self.process.pid:
                    return pid
        raise BrokerError(f"{self.name}: no process {self.measured} below {self.process.pid}")

    def stop(self):
        if self.process is None:
            return
        try:
            if self.measured:
                # A script between us and the broker takes its time, and there is nothing to save.
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        # Whatever it left in its session, which is this process's own and nobody else's.
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if self.cleanup:
            # It may refuse until it has noticed that the broker is gone.
            deadline = time.monotonic() + CLEANUP_LIMIT_S
            while subprocess.run([self.fill(word) for word in shlex.split(self.cleanup)], env=self.variables, stdin=subprocess.DEVNULL,
                                 capture_output=True, timeout=10).returncode and time.monotonic() < deadline:
                time.sleep(0.05)
        self.process = self.pid = None

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


CONNECT = bytes.fromhex("10 11 0004 4d515454 04 02 003c 0005 70726f6265")


def accepts_mqtt(port):
    """Whether a CONNECT is answered: some brokers listen long before they serve."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(1)
            connection.sendall(CONNECT)
            accepted = connection.recv(4) == bytes.fromhex("20020000")
            connection.sendall(bytes.fromhex("e000"))
            return accepted
    except OSError:
        return False
