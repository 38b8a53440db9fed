//! Promises about packets rather than messages that a broker broke, each with a name of its own.

use serde::Serialize;

use crate::wire;

macro_rules! breaches {
    ($($(#[$doc:meta])* $name:ident: $words:literal,)*) => {
        /// How often each was broken.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
        pub struct Breaches {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Breaches {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// How often, and of what, in words that follow a number.
            pub fn in_words(&self) -> impl Iterator<Item = (u64, &'static str)> {
                let all = [$((self.$name, $words),)*];
                all.into_iter().filter(|&(count, _)| count > 0)
            }
        }
    };
}

breaches! {
    /// [MQTT-3.8.4-8]
    wrong_qos: "deliveries with another QoS than the lower one of publisher and subscriber",
    /// Of an established Subscription that does not ask for Retain As Published [MQTT-3.3.1-12].
    retain_set: "live deliveries with RETAIN set",
    /// [v3.1.1 MQTT-3.3.1-8]
    retain_missing: "retained messages delivered without RETAIN",
    /// Nobody lost a connection, so whatever comes first is not sent again [MQTT-3.3.1-3].
    dup_set: "first deliveries with DUP set",
    /// [MQTT-2.2.1-4]
    identifiers_reused: "deliveries with a Packet Identifier that is 0 or was still in use",
    /// [MQTT-4.3.3-4]
    pubrel_missing: "deliveries at QoS 2 that no PUBREL followed",
    pubrel_unasked: "PUBREL packets for nothing that was delivered",
    /// As what follows, known at the end only; what is said of it has the QoS [MQTT-4.3.2-4].
    puback_missing: "PUBLISH packets at QoS 1 that no PUBACK followed",
    /// [MQTT-4.3.3-8]
    pubrec_missing: "PUBLISH packets at QoS 2 that no PUBREC followed",
    /// [MQTT-4.3.3-11]
    pubcomp_missing: "PUBREL packets that no PUBCOMP followed",
    acknowledgements_unasked: "acknowledgements of what was not in flight in that step",
    pingresps_unasked: "PINGRESP packets that nobody asked for",
    /// [MQTT-3.8.4-6]
    suback_codes: "SUBACK packets with too few or too many Reason Codes",
    /// With a Packet Identifier of no SUBSCRIBE that waits [MQTT-3.8.4-2].
    subacks_unasked: "SUBACK packets that nobody waited for",
    /// [MQTT-3.8.4-7]
    granted_more: "Topic Filters granted more than was asked for",
    /// [MQTT-3.2.2-2]
    sessions_present: "CONNACK packets with a Session that there was not",
}

impl Breaches {
    /// Of a message that arrived for the first time: `odd` are the bits of its first byte that should be otherwise.
    #[cold]
    pub fn count_flags(&mut self, odd: u8, is_retained: bool) {
        self.dup_set += u64::from(odd & wire::DUP != 0);
        let is_odd = u64::from(odd & wire::RETAIN != 0);
        if is_retained {
            self.retain_missing += is_odd;
        } else {
            self.retain_set += is_odd;
        }
    }
}
