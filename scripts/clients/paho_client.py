"""Eclipse Paho (paho-mqtt from PyPI) against a broker, given as JSON in the first argument.

What is checked is the same as in the other files of this folder: every QoS in order, a large payload,
retained messages, a session that is kept, a Will, and the properties of MQTT 5.
"""

import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 15
COUNT = 20
SIZE = 300_000


class Client:
    """A client with a queue of what arrived."""

    def __init__(self, target, version, name, clean=True, will=None):
        self.target = target
        self.arrived = queue.Queue()
        self.subscribed = queue.Queue()
        self.connected = queue.Queue()
        transport = {"ws": "websockets", "wss": "websockets", "unix": "unix"}.get(target["transport"], "tcp")
        extra = {} if version == 5 else {"clean_session": clean}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311,
            transport=transport,
            **extra,
        )
        if target.get("username"):
            self.client.username_pw_set(target["username"], target["password"])
        if target["transport"] in ("tls", "wss"):
            self.client.tls_set(ca_certs=target["cafile"])
        if transport == "websockets":
            self.client.ws_set_options(path="/mqtt")
        if will:
            self.client.will_set(will, b"gone", qos=1)
        self.client.on_message = lambda client, data, message: self.arrived.put(message)
        self.client.on_subscribe = lambda client, data, mid, codes, properties: self.subscribed.put(codes)
        self.client.on_connect = lambda client, data, flags, code, properties: self.connected.put((flags, code))
        arguments = {}
        if version == 5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 60
            arguments = {"clean_start": clean, "properties": properties}
        if transport == "unix":
            self.client.connect(target["path"], keepalive=30, **arguments)
        else:
            self.client.connect(target["host"], target["port"], keepalive=30, **arguments)
        self.client.loop_start()
        flags, code = self.connected.get(timeout=PATIENCE)
        assert not code.is_failure, code
        self.session_present = flags.session_present

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos)
        codes = self.subscribed.get(timeout=PATIENCE)
        assert not codes[0].is_failure, codes
        return self

    def publish(self, topic, payload, qos, retain=False, properties=None):
        self.client.publish(topic, payload, qos, retain, properties).wait_for_publish(PATIENCE)

    def next(self):
        return self.arrived.get(timeout=PATIENCE)

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def die(self):
        """Ends the connection without DISCONNECT."""
        self.client.loop_stop()
        # Closing the socket is all that a process that is killed would do.
        self.client.socket().close()


def check(target, version):
    base = f"paho/{target['transport']}/{version}"
    name = base.replace("/", "-")
    publisher = Client(target, version, f"{name}-pub")
    subscriber = Client(target, version, f"{name}-sub").subscribe(f"{base}/+/x", 2)
    for qos in (0, 1, 2):
        for index in range(COUNT):
            publisher.publish(f"{base}/{qos}/x", f"{qos} {index}", qos)
    by_qos = {0: [], 1: [], 2: []}
    for _ in range(3 * COUNT):
        message = subscriber.next()
        by_qos[message.qos].append(message.payload.decode())
    for qos, payloads in by_qos.items():
        assert payloads == [f"{qos} {index}" for index in range(COUNT)], (qos, payloads)

    large = bytes(index * 7 % 251 for index in range(SIZE))
    publisher.publish(f"{base}/large/x", large, 1)
    assert subscriber.next().payload == large

    publisher.publish(f"{base}/kept", "kept", 1, retain=True)
    late = Client(target, version, f"{name}-late").subscribe(f"{base}/kept", 1)
    message = late.next()
    assert (message.payload, message.retain) == (b"kept", True)
    publisher.publish(f"{base}/kept", "", 1, retain=True)
    late.leave()

    keeper = Client(target, version, f"{name}-keeper", clean=False).subscribe(f"{base}/missed", 1)
    keeper.leave()
    for index in range(3):
        publisher.publish(f"{base}/missed", str(index), 1)
    keeper = Client(target, version, f"{name}-keeper", clean=False)
    assert keeper.session_present
    assert [keeper.next().payload for _ in range(3)] == [b"0", b"1", b"2"]
    keeper.leave()
    Client(target, version, f"{name}-keeper", clean=True).leave()

    mortal = Client(target, version, f"{name}-mortal", will=f"{base}/will/x")
    mortal.die()
    message = subscriber.next()
    assert (message.topic, message.payload) == (f"{base}/will/x", b"gone"), message.topic

    if version == 5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = "text/plain"
        properties.ResponseTopic = "answers"
        properties.CorrelationData = b"\0\1"
        properties.UserProperty = [("a", "b"), ("a", "c")]
        publisher.publish(f"{base}/p/x", "p", 1, properties=properties)
        got = subscriber.next().properties
        assert got.ContentType == "text/plain" and got.ResponseTopic == "answers"
        assert got.CorrelationData == b"\0\1" and got.UserProperty == [("a", "b"), ("a", "c")], got
    subscriber.leave()
    publisher.leave()


if __name__ == "__main__":
    the_target = json.loads(sys.argv[1])
    for the_version in (4, 5):
        check(the_target, the_version)
