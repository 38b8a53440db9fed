"""The brokers we know how to start for a measurement: one CPU, no persistence where that can be said."""

import os
import shutil
from dataclasses import dataclass, field

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/usr/lib/rabbitmq/bin"


@dataclass
class Peer:
    name: str
    #: The program looked for; what is not found is reported as not installed.
    program: str
    #: {program} is where it was found; the rest is filled in by `perf.broker.Broker`.
    command: str
    files: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    version: tuple = ("--version",)
    #: Name of the process to measure, if a script starts it.
    measured: str = None
    #: Workload to the reason why it is not run.
    unable: dict = field(default_factory=dict)

    def path(self):
        return shutil.which(self.program, path=PATH)


KNOWN = (
    Peer("mosquitto", "mosquitto", "{program} -c {dir}/mosquitto.conf", version=("-h",), files={
        "mosquitto.conf": "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
                          "max_connections -1\nlog_type error\n"}),
    # MQTT needs JetStream, which keeps sessions and QoS 1 messages in files.
    Peer("nats-server", "nats-server", "{program} -c {dir}/nats.conf", files={
        "nats.conf": 'server_name: measured\nlisten: "127.0.0.1:{spare}"\njetstream { store_dir: "{dir}/jetstream" }\n'
                     'mqtt { listen: "127.0.0.1:{port}" }\n'}),
    Peer("rabbitmq", "rabbitmq-server", "{program}", version=("--version",), measured="beam.smp", files={
        "rabbitmq.conf": "listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:{port}\n"
                         "mqtt.allow_anonymous = true\nlog.console.level = error\n",
        "enabled_plugins": "[rabbitmq_mqtt].\n"}, environment={
        "RABBITMQ_NODENAME": "fastmq_peer_{port}@localhost", "RABBITMQ_CONFIG_FILE": "{dir}/rabbitmq.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": "{dir}/enabled_plugins", "RABBITMQ_MNESIA_BASE": "{dir}/mnesia",
        "RABBITMQ_LOG_BASE": "{dir}", "RABBITMQ_DIST_PORT": "{spare}", "HOME": "{dir}"},
        unable={"pairs-qos2": "its MQTT plugin delivers at QoS 1 at most"}),
    Peer("rumqttd", "rumqttd", "{program} -c {dir}/rumqttd.toml", files={
        "rumqttd.toml": 'id = 0\n[router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 200\n'
                        'max_segment_size = 104857600\nmax_segment_count = 10\n[v4.1]\nname = "v4"\n'
                        'listen = "127.0.0.1:{port}"\nnext_connection_delay_ms = 0\n[v4.1.connections]\n'
                        'connection_timeout_ms = 60000\nmax_payload_size = 20480\nmax_inflight_count = 100\n'
                        'dynamic_filters = true\n[console]\nlisten = "127.0.0.1:{spare}"\n'}),
    Peer("rmqttd", "rmqttd", "{program} -f {dir}/rmqtt.toml", files={
        "rmqtt.toml": '[node]\nid = 1\n[rpc]\nserver_addr = "127.0.0.1:{spare}"\n[log]\nto = "console"\n'
                      'level = "error"\n[listener.tcp.external]\naddr = "127.0.0.1:{port}"\n'
                      'allow_anonymous = true\n'}),
)
