"""The brokers we know how to start for a measurement: one CPU, no persistence where that can be said.

Where a broker insists on files, its folder is in memory (`/dev/shm`), so that no disk is measured. Limits
that would refuse, drop or slow a load down are lifted, for fastmq as for Mosquitto; nothing else is tuned.
Two revisions of fastmq are compared in the same configuration.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", str(Path.home() / ".cargo/bin")])

#: What a workload may need (`perf.workloads`), and what is said where a broker does not have it.
MISSING = {
    "qos1": "no QoS 1",
    "qos2": "no QoS 2",
    "v5": "no MQTT 5.0",
    "shared": "no shared subscriptions",
    "retained-wildcard": "no retained messages by wildcard",
}

NOT_SET_UP = {"tls": "no TLS listener set up here", "websocket": "no WebSocket listener set up here"}


@dataclass
class Listener:
    """One more listener than the plain one: where the load goes, and what is added to the configuration."""
    port: str
    files: dict
    #: Instead of the usual one.
    command: str = None


@dataclass
class Peer:
    name: str
    #: The program looked for, or several places of it; what is not found is reported as not installed.
    program: str | tuple
    #: {program} is where it was found; the rest is filled in by `perf.broker.Broker`.
    command: str
    files: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    version: tuple = ("--version",)
    #: Name of the process to measure, if a script starts it.
    measured: str = None
    #: Run after it was stopped, in the same environment: what it leaves behind in a session of its own.
    cleanup: str = None
    #: Keys of `MISSING`.
    lacks: frozenset = frozenset()
    #: Connections it is asked for at most, and why.
    connections_max: int = None
    connections_why: str = ""
    #: Workload to the reason why it is not run.
    unable: dict = field(default_factory=dict)
    #: "tls", "websocket", "v5" to `Listener`; MQTT 5.0 is spoken on the plain one where that is not said.
    listeners: dict = field(default_factory=dict)
    #: Said below the table.
    remark: str = ""
    #: How it is installed.
    source: str = ""

    def path(self):
        programs = (self.program,) if isinstance(self.program, str) else self.program
        return next((found for program in programs if (found := shutil.which(program, path=PATH))), None)

    def reason_against(self, workload):
        """Why it is not put under this workload; None when it is."""
        if reason := self.unable.get(workload.name):
            return reason
        if lacking := sorted(workload.needs & self.lacks):
            return ", ".join(MISSING[key] for key in lacking)
        if workload.listener in NOT_SET_UP and workload.listener not in self.listeners:
            return NOT_SET_UP[workload.listener]
        if self.connections_max and workload.connections > self.connections_max:
            return self.connections_why
        return None

    def with_default_log(self):
        """The same broker with the log that it has when nothing is said of it."""
        return replace(self, files={name: text.replace(ERRORS_ALONE, "") for name, text in self.files.items()})

    def started_for(self, workload):
        """Command, files and the name of the load's port."""
        listener = self.listeners.get(workload.listener)
        if listener is None:
            return self.command, self.files, "port"
        added = {name: self.files.get(name, "") + text for name, text in listener.files.items()}
        return listener.command or self.command, self.files | added, listener.port


# Of Mosquitto's log and fastmq's: by default both have a line or two for each connection.
ERRORS_ALONE = "log_type error\n"

MOSQUITTO_CONF = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_connections -1
max_queued_messages 0
max_inflight_messages 0
""" + ERRORS_ALONE

# Without the domain, a WebSocket listener of Mosquitto 2.0 ignores its address and opens an IPv6 socket, which
# fails where IPv6 is off.
MOSQUITTO_LISTENERS = {
    "tls": Listener("spare", {"mosquitto.conf": """\
listener {spare} 127.0.0.1
certfile {certificate}
keyfile {key}
user root
"""}),
    "websocket": Listener("spare", {"mosquitto.conf": """\
listener {spare} 127.0.0.1
protocol websockets
socket_domain ipv4
"""}),
}

# The same configuration as Mosquitto's, without what only that needs.
FASTMQ_CONF = """\
allow_anonymous true
max_queued_messages 0
max_inflight_messages 0
listener {port} 127.0.0.1
""" + ERRORS_ALONE
FASTMQ = {
    "command": "{program} -c {dir}/fastmq.conf --cores 1",
    "files": {"fastmq.conf": FASTMQ_CONF},
    "listeners": {
        "tls": Listener("spare", {"fastmq.conf": "listener {spare} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\n"}),
        "websocket": Listener("spare", {"fastmq.conf": "listener {spare} 127.0.0.1\nprotocol websockets\n"}),
    },
}


def fastmq(program, cores=1):
    """fastmq at `program`, on so many CPUs."""
    command = FASTMQ["command"].replace("--cores 1", f"--cores {cores}")
    return Peer("fastmq", str(program), **FASTMQ | {"command": command})


def make_certificate(folder):
    """For TLS listeners; its values for configurations, or none where there is no openssl."""
    certificate, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
               "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
               "-keyout", str(key), "-out", str(certificate)]
    if shutil.which("openssl"):
        subprocess.run(command, check=True, capture_output=True)
    return {"certificate": certificate, "key": key}


# QoS 1 and sessions are streams of JetStream here, which are files; {dir} is in memory.
NATS_CONF = """\
server_name: measured
listen: "127.0.0.1:{spare}"
max_connections: 65536
jetstream { store_dir: "{dir}/jetstream" }
mqtt {
  listen: "127.0.0.1:{port}"
  consumer_memory_storage: true
  max_ack_pending: 30000
}
"""

NATS_LISTENERS = {"websocket": Listener("third", {"nats.conf": """\
websocket { listen: "127.0.0.1:{third}", no_tls: true }
"""})}

RABBITMQ_CONF = """\
listeners.tcp = none
mqtt.listeners.tcp.1 = 127.0.0.1:{port}
mqtt.allow_anonymous = true
mqtt.prefetch = 100
mqtt.retained_message_store = rabbit_mqtt_retained_msg_store_ets
log.console = true
log.console.level = error
log.file = false
"""

RUMQTTD_TOML = """\
id = 0
[router]
id = 0
max_connections = 20000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 0
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 200
dynamic_filters = true
[console]
listen = "127.0.0.1:{spare}"
"""

RUMQTTD_CONNECTIONS = """\
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 200
dynamic_filters = true
"""
RUMQTTD_LISTENERS = {
    "v5": Listener("third", {"rumqttd.toml": """\
[v5.1]
name = "v5"
listen = "127.0.0.1:{third}"
next_connection_delay_ms = 0
[v5.1.connections]
""" + RUMQTTD_CONNECTIONS}),
    "tls": Listener("third", {"rumqttd.toml": """\
[v4.2]
name = "v4-tls"
listen = "127.0.0.1:{third}"
next_connection_delay_ms = 0
[v4.2.tls]
certpath = "{certificate}"
keypath = "{key}"
[v4.2.connections]
""" + RUMQTTD_CONNECTIONS}),
    "websocket": Listener("third", {"rumqttd.toml": """\
[ws.1]
name = "ws"
listen = "127.0.0.1:{third}"
next_connection_delay_ms = 0
[ws.1.connections]
""" + RUMQTTD_CONNECTIONS}),
}

RMQTT_TOML = """\
[node]
id = 1
[rpc]
server_addr = "127.0.0.1:{spare}"
[log]
to = "console"
level = "error"
[plugins]
dir = "{dir}"
default_startups = ["rmqtt-retainer", "rmqtt-shared-subscription"]
[listener.tcp.external]
addr = "127.0.0.1:{port}"
workers = 1
max_connections = 100000
max_handshaking_limit = 10000
max_packet_size = "1m"
backlog = 4096
allow_anonymous = true
min_keepalive = 0
allow_zero_keepalive = true
max_inflight = 200
max_mqueue_len = 100000
mqueue_rate_limit = "10000000,1s"
max_awaiting_rel = 10000
"""

RMQTT_RETAINER_TOML = """\
storage.type = "ram"
max_retained_messages = 0
"""


def rmqtt_listener(kind, more):
    """A listener of rmqttd like the plain one."""
    _, _, plain = RMQTT_TOML.partition('addr = "127.0.0.1:{port}"\n')
    return {"rmqtt.toml": f'[listener.{kind}.external]\naddr = "127.0.0.1:{{third}}"\n{plain}{more}'}


RMQTT_LISTENERS = {
    "tls": Listener("third", rmqtt_listener("tls", 'cert = "{certificate}"\nkey = "{key}"\n')),
    "websocket": Listener("third", rmqtt_listener("ws", "")),
}

# A Server should close then; the loads wait for it to know that everything of the connection is done.
KEEPS_OPEN = "keeps connections open after DISCONNECT"

KNOWN = (
    Peer("mosquitto", "mosquitto", "{program} -c {dir}/mosquitto.conf", version=("-h",),
         files={"mosquitto.conf": MOSQUITTO_CONF}, listeners=MOSQUITTO_LISTENERS, source="Debian: mosquitto",
         remark="mosquitto: without its bounds of queued and inflight messages, at which it loses QoS 1 "
                "and 2"),
    Peer("mosquitto-2.1", "mosquitto-2.1", "{program} -c {dir}/mosquitto.conf", version=("-h",),
         files={"mosquitto.conf": MOSQUITTO_CONF}, listeners=MOSQUITTO_LISTENERS, source="scripts/install-mosquitto-2.1",
         remark="mosquitto-2.1: without these bounds, too; built from its sources"),
    Peer("nats-server", "nats-server", "{program} -c {dir}/nats.conf", files={"nats.conf": NATS_CONF}, listeners=NATS_LISTENERS,
         lacks=frozenset({"qos2", "v5", "shared"}), source="Debian: nats-server",
         remark="nats-server: QoS 1, sessions and retained messages are files, here in memory"),
    # Debian's wrapper in /usr/sbin leaves the environment of root behind.
    Peer("rabbitmq", ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"), "{program}", measured="beam.smp",
         version=(),
         files={"rabbitmq.conf": RABBITMQ_CONF, "enabled_plugins": "[rabbitmq_mqtt].\n"},
         environment={
             "RABBITMQ_NODENAME": "fastmq_peer_{port}@localhost", "RABBITMQ_CONFIG_FILE": "{dir}/rabbitmq.conf",
             "RABBITMQ_ENABLED_PLUGINS_FILE": "{dir}/enabled_plugins", "RABBITMQ_MNESIA_BASE": "{dir}/mnesia",
             "RABBITMQ_LOG_BASE": "{dir}", "RABBITMQ_DIST_PORT": "{spare}", "RABBITMQ_CONF_ENV_FILE": "/dev/null",
             "ERL_EPMD_PORT": "{third}", "ERL_EPMD_ADDRESS": "127.0.0.1", "HOME": "{dir}"},
         cleanup="epmd -kill", lacks=frozenset({"qos2", "v5", "shared", "retained-wildcard"}),
         connections_max=2500, connections_why="so many connections take it minutes",
         unable={"wildcard": "10,000 filters take it minutes"}, source="Debian: rabbitmq-server",
         remark="rabbitmq: its MQTT plugin, retained messages in memory"),
    Peer("rumqttd", "rumqttd", "{program} -q -c {dir}/rumqttd.toml", files={"rumqttd.toml": RUMQTTD_TOML},
         listeners=RUMQTTD_LISTENERS, source="cargo install rumqttd"),
    Peer("rmqttd", "rmqttd", "{program} -f {dir}/rmqtt.toml", files={"rmqtt.toml": RMQTT_TOML, "rmqtt-retainer.toml": RMQTT_RETAINER_TOML,
                "rmqtt-shared-subscription.toml": ""},
         listeners=RMQTT_LISTENERS,
         unable={"connect": KEEPS_OPEN, "reconnect": KEEPS_OPEN},
         remark="rmqttd: with its plugins for retained messages and shared subscriptions",
         source="cargo install rmqttd, with cmake and protoc"),
)
