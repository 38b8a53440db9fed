//! Who connects, who subscribes to whom, and how fast publishers may go.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::failure::Failure;
use crate::options::{self, Common, Workload};

/// Of a publisher that would follow a schedule, where it need not.
const SATURATING_WINDOW: u64 = 16;

/// How what a Client subscribed to reaches it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivery {
    /// Each message once and in order, as it is published.
    Live,
    /// Others get their share of them.
    Shared,
    /// Each once, in order, after having been queued for a Session.
    Queued,
    /// Each once, in no particular order: every one is another topic's.
    Retained,
}

impl Delivery {
    /// Whether it comes from a store: latency then counts from when it was asked for.
    pub fn is_stored(self) -> bool {
        matches!(self, Self::Queued | Self::Retained)
    }
}

/// One connection and what it does.
#[derive(Debug)]
pub struct Client {
    pub thread: u16,
    /// Index of the address it connects to; 0 but in a self-test.
    pub address: u16,
    /// Clients of one stage connect together.
    pub stage: u8,
    pub topic_filters: Vec<String>,
    pub qos: u8,
    pub delivery: Delivery,
    /// The Session outlives the connection.
    pub is_persistent: bool,
    /// Index of the publisher that this Client is.
    pub publisher: Option<u32>,
    /// Whom it hears: this publisher and so many after it.
    pub first_source: u32,
    pub source_count: u32,
}

#[derive(Debug)]
pub struct Publisher {
    pub client: u32,
    /// Published to in turn.
    pub topic_names: Vec<String>,
    pub qos: u8,
    pub payload: usize,
    pub retain: bool,
    /// Deliveries after which a message is through.
    pub needed: u32,
    /// Deliveries are at QoS 0.
    pub may_lose: bool,
    pub is_shared: bool,
    pub window: u64,
    /// Publishes so many and no more, as soon as it is connected.
    pub quota: Option<u64>,
    /// Index of the schedule that it takes part in; a closed loop without.
    pub schedule: Option<u16>,
}

impl Publisher {
    /// Where it publishes the message of that sequence.
    #[inline]
    pub fn topic_name(&self, sequence: u64) -> &str {
        let topics = self.topic_names.len() as u64;
        let topic = if topics == 1 { 0 } else { sequence % topics };
        &self.topic_names[topic as usize]
    }
}

/// What happens in which order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Script {
    /// Connect all, publish for a time, drain.
    Load,
    /// Stage 0 stores, then stage 1 asks for it.
    Retained,
    /// Stage 0 subscribes and leaves, stage 1 publishes, stage 0 comes back.
    Reconnect,
    /// Connect and disconnect.
    Visits,
    /// Connect and stay; when measuring connecting itself matters, `timed`.
    Hold { timed: bool },
}

#[derive(Debug)]
pub struct Plan {
    pub name: &'static str,
    pub script: Script,
    pub clients: Vec<Client>,
    pub publishers: Vec<Publisher>,
    /// Messages a second of each schedule.
    pub schedules: Vec<f64>,
    pub threads: u16,
    /// Connections under way at once, on all threads together.
    pub under_way_max: usize,
    /// Connections begun a second.
    pub connect_rate: Option<f64>,
    /// Topics start with it, so that several loads can share a broker.
    prefix: String,
    cross: bool,
}

/// One load of a mixed workload; what is not said is as the command line says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Part {
    workload: String,
    pairs: Option<u32>,
    publishers: Option<u32>,
    subscribers: Option<u32>,
    connections: Option<u32>,
    filters: Option<u32>,
    topics: Option<u32>,
    qos: Option<u8>,
    publish_qos: Option<u8>,
    subscribe_qos: Option<u8>,
    payload: Option<usize>,
    window: Option<u64>,
    rate: Option<f64>,
}

impl Part {
    /// The same load on the command line, whose bounds hold here as well.
    fn words(&self) -> Vec<String> {
        let mut words = vec![self.workload.clone()];
        let mut say = |option: &str, value: Option<String>| {
            words.extend(value.map(|value| format!("--{option}={value}")));
        };
        let count = |value: Option<u32>| value.map(|value| value.to_string());
        say("pairs", count(self.pairs));
        say("publishers", count(self.publishers));
        say("subscribers", count(self.subscribers));
        say("connections", count(self.connections));
        say("filters", count(self.filters));
        say("topics", count(self.topics));
        for (option, qos) in [
            ("qos", self.qos),
            ("publish-qos", self.publish_qos),
            ("subscribe-qos", self.subscribe_qos),
        ] {
            say(option, count(qos.map(u32::from)));
        }
        say("payload", self.payload.map(|payload| payload.to_string()));
        say("window", self.window.map(|window| window.to_string()));
        say("rate", self.rate.map(|rate| rate.to_string()));
        words
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    load: Vec<Part>,
}

/// What the members of one load have in common.
struct Style {
    publish_qos: u8,
    subscribe_qos: u8,
    payload: usize,
    topics: u32,
    window: Option<u64>,
    schedule: Option<u16>,
    is_persistent: bool,
}

impl Plan {
    pub fn new(workload: &Workload, common: &Common) -> Result<Self, Failure> {
        let mut plan = Self {
            name: "",
            script: Script::Load,
            clients: Vec::new(),
            publishers: Vec::new(),
            schedules: Vec::new(),
            threads: common.threads,
            // Below any listen backlog.
            under_way_max: 100,
            connect_rate: None,
            prefix: String::new(),
            cross: common.cross,
        };
        match *workload {
            Workload::Mixed { ref file } => {
                plan.name = "mixed";
                for part in read_parts(file)? {
                    plan.add_part(&part, common)?;
                }
            }
            Workload::Idle {
                connections,
                subscribe,
            } => {
                plan.name = "idle";
                plan.script = Script::Hold { timed: false };
                plan.hold(connections, subscribe, common);
            }
            Workload::Connect {
                count,
                concurrency,
                hold,
            } => {
                plan.name = "connect";
                plan.script = if hold {
                    Script::Hold { timed: true }
                } else {
                    Script::Visits
                };
                plan.under_way_max = concurrency as usize;
                plan.connect_rate = common.rate;
                plan.hold(count, false, common);
            }
            ref other => plan.add_part(&part_of(other), common)?,
        }
        Ok(plan)
    }

    fn add_part(&mut self, part: &Part, common: &Common) -> Result<(), Failure> {
        self.prefix = format!("load/{}/{}", tag(), self.clients.len());
        let rate = match part.workload.as_str() {
            "trickle" => part.rate.or(common.rate).or(Some(1000.0)),
            _ => part.rate.or(common.rate),
        };
        let qos = part.qos.unwrap_or(common.qos);
        let style = Style {
            publish_qos: part.publish_qos.or(common.publish_qos).unwrap_or(qos),
            subscribe_qos: part.subscribe_qos.or(common.subscribe_qos).unwrap_or(qos),
            payload: part
                .payload
                .unwrap_or(common.payload)
                .max(crate::wire::STAMP_SIZE),
            topics: part.topics.unwrap_or(common.topics).max(1),
            window: part.window.or(common.window),
            schedule: rate.map(|rate| {
                self.schedules.push(rate);
                self.schedules.len() as u16 - 1
            }),
            is_persistent: common.persistent,
        };
        if style.publish_qos > 2 || style.subscribe_qos > 2 {
            return Err(Failure::Options("QoS is 0, 1 or 2".to_owned()));
        }
        let is_stored_first = matches!(part.workload.as_str(), "retained" | "reconnect");
        if is_stored_first && (rate.is_some() || common.find_max) {
            let said = format!("{} stores as fast as it can: it has no rate", part.workload);
            return Err(Failure::Options(said));
        }
        if part.workload == "reconnect" && style.publish_qos.min(style.subscribe_qos) == 0 {
            let said = "reconnect needs --qos 1 or 2: at QoS 0 nothing has to be kept for a Session \
                        that is away";
            return Err(Failure::Options(said.to_owned()));
        }
        let publishers = part.publishers.unwrap_or(4).max(1);
        let subscribers = part.subscribers.unwrap_or(4).max(1);
        let name = match part.workload.as_str() {
            "pairs" => self.pairs(part.pairs.unwrap_or(1), true, &style),
            "discard" => self.pairs(part.pairs.unwrap_or(1), false, &style),
            "fan-out" => self.fan_out(part.subscribers.unwrap_or(100), &style),
            "fan-in" => self.fan_in(part.publishers.unwrap_or(100), &style),
            "shared" => self.shared(publishers, subscribers, &style),
            "wildcard" => {
                self.wildcard(publishers, subscribers, part.filters.unwrap_or(100), &style)
            }
            "trickle" => self.trickle(part.connections.unwrap_or(1000), &style),
            "retained" => self.retained(part.topics.unwrap_or(1000), subscribers, &style),
            "reconnect" => self.reconnect(part.topics.unwrap_or(100), subscribers, &style),
            unknown => {
                let said = format!("there is no workload {unknown:?} to mix");
                return Err(Failure::Options(said));
            }
        };
        if self.name.is_empty() {
            self.name = name;
        } else if self.script != Script::Load {
            let said = format!("{name} cannot be mixed with others");
            return Err(Failure::Options(said));
        }
        Ok(())
    }

    fn pairs(&mut self, pairs: u32, is_heard: bool, style: &Style) -> &'static str {
        let base = self.publishers.len() as u32;
        for index in 0..pairs {
            if is_heard {
                self.subscribe(index, index, base + index, 1, style);
            }
            self.publish(index, index, u32::from(is_heard), 1000, 16, style);
        }
        "pairs"
    }

    fn fan_out(&mut self, subscribers: u32, style: &Style) -> &'static str {
        let base = self.publishers.len() as u32;
        for index in 0..subscribers {
            self.subscribe(index, 0, base, 1, style);
        }
        self.publish(0, 0, subscribers, 100, 16, style);
        "fan-out"
    }

    fn fan_in(&mut self, publishers: u32, style: &Style) -> &'static str {
        let base = self.publishers.len() as u32;
        // One subscriber's queue must hold what all have under way: usually 1000 messages.
        let share = (1000 / u64::from(publishers)).max(1);
        for index in 0..publishers {
            self.publish(index, index, 1, share, share.min(16), style);
        }
        self.subscribe(0, 0, base, publishers, style);
        let filter = format!("{}/#", self.prefix);
        if let Some(client) = self.clients.last_mut() {
            client.topic_filters = vec![filter];
        }
        "fan-in"
    }

    fn shared(&mut self, publishers: u32, subscribers: u32, style: &Style) -> &'static str {
        let base = self.publishers.len() as u32;
        // Of a group nobody knows who gets what: one subscriber may get all that is under way.
        let share = (1000 / u64::from(publishers)).max(1);
        let filter = format!("$share/load/{}/#", self.prefix);
        for index in 0..subscribers {
            self.subscribe(index, index, base, publishers, style);
            if let Some(client) = self.clients.last_mut() {
                client.topic_filters = vec![filter.clone()];
                client.delivery = Delivery::Shared;
            }
        }
        for index in 0..publishers {
            self.publish(index, index, 1, share, share.min(16), style);
            if let Some(publisher) = self.publishers.last_mut() {
                publisher.is_shared = true;
            }
        }
        "shared"
    }

    fn wildcard(
        &mut self,
        publishers: u32,
        subscribers: u32,
        filters: u32,
        style: &Style,
    ) -> &'static str {
        let base = self.publishers.len() as u32;
        let prefix = self.prefix.clone();
        for index in 0..subscribers {
            let source = index % publishers;
            self.subscribe(index, index, base + source, 1, style);
            let mut topic_filters = vec![format!("{prefix}/{source}/+")];
            // The others make the broker look, and match nothing.
            for filter in 1..filters {
                topic_filters.push(match filter % 4 {
                    0 => format!("{prefix}/+/{index}-{filter}"),
                    1 => format!("{prefix}/{source}/{index}-{filter}/#"),
                    2 => format!("load/+/+/+/{index}-{filter}"),
                    _ => format!("{prefix}/x{index}/{filter}/+/#"),
                });
            }
            if let Some(client) = self.clients.last_mut() {
                client.topic_filters = topic_filters;
            }
        }
        for index in 0..publishers {
            let heard = (0..subscribers).filter(|s| s % publishers == index).count();
            self.publish(index, index, heard as u32, 100, 16, style);
        }
        "wildcard"
    }

    fn trickle(&mut self, connections: u32, style: &Style) -> &'static str {
        let base = self.publishers.len() as u32;
        for index in 0..connections {
            let source = (index + connections - 1) % connections;
            self.subscribe(index, source, base + source, 1, style);
            self.publish(index, index, 1, 1000, 16, style);
            // The publisher is the Client that has just subscribed, not another one.
            self.clients.pop();
            let client = self.clients.len() as u32 - 1;
            if let (Some(last), Some(publisher)) =
                (self.clients.last_mut(), self.publishers.last_mut())
            {
                last.publisher = Some(base + index);
                publisher.client = client;
            }
        }
        "trickle"
    }

    fn retained(&mut self, messages: u32, subscribers: u32, style: &Style) -> &'static str {
        self.script = Script::Retained;
        let style = Style {
            topics: messages,
            ..*style
        };
        self.publish(0, 0, 0, 1000, 16, &style);
        if let Some(publisher) = self.publishers.last_mut() {
            publisher.retain = true;
            publisher.quota = Some(messages.into());
        }
        for index in 0..subscribers {
            self.subscribe(index, index, 0, 1, &style);
            let filter = format!("{}/#", self.prefix);
            if let Some(client) = self.clients.last_mut() {
                client.topic_filters = vec![filter];
                client.delivery = Delivery::Retained;
                client.stage = 1;
            }
        }
        "retained"
    }

    fn reconnect(&mut self, messages: u32, subscribers: u32, style: &Style) -> &'static str {
        self.script = Script::Reconnect;
        let style = Style {
            topics: 1,
            ..*style
        };
        for index in 0..subscribers {
            self.subscribe(index, index, index, 1, &style);
            if let Some(client) = self.clients.last_mut() {
                client.delivery = Delivery::Queued;
                client.is_persistent = true;
            }
        }
        for index in 0..subscribers {
            self.publish(index, index, 0, 16, 16, &style);
            if let Some(publisher) = self.publishers.last_mut() {
                publisher.quota = Some(messages.into());
            }
            if let Some(client) = self.clients.last_mut() {
                client.stage = 1;
            }
        }
        "reconnect"
    }

    fn hold(&mut self, connections: u32, subscribe: bool, common: &Common) {
        self.prefix = format!("load/{}/0", tag());
        let style = Style {
            publish_qos: 0,
            subscribe_qos: common.subscribe_qos.unwrap_or(common.qos),
            payload: common.payload,
            topics: 1,
            window: None,
            schedule: None,
            is_persistent: common.persistent,
        };
        for index in 0..connections {
            self.subscribe(index, index, 0, 0, &style);
            if let Some(client) = self.clients.last_mut()
                && !subscribe
            {
                client.topic_filters.clear();
            }
        }
    }

    /// The same load in a closed loop, for a peer that passes every message on with its own QoS.
    pub fn saturate(&mut self) {
        self.schedules.clear();
        for publisher in &mut self.publishers {
            if publisher.schedule.take().is_some() {
                // The window of a schedule is meant never to be full.
                publisher.window = publisher.window.min(SATURATING_WINDOW);
            }
        }
        for client in &mut self.clients {
            client.qos = 2;
        }
        for publisher in &mut self.publishers {
            publisher.may_lose = publisher.qos == 0;
        }
    }

    /// Spreads the Clients over so many brokers that know nothing of each other: who hears a
    /// publisher stays with it.
    pub fn spread(&mut self, addresses: usize) {
        let is_apart = |client: &Client| {
            client.source_count <= 1 && (client.publisher.is_none() || client.source_count == 0)
        };
        if !self.clients.iter().all(is_apart) {
            return;
        }
        for client in &mut self.clients {
            let source = client.publisher.unwrap_or(client.first_source) as usize;
            client.address = (source % addresses) as u16;
        }
    }

    fn thread(&self, index: u32) -> u16 {
        (index % u32::from(self.threads)) as u16
    }

    fn subscribe(
        &mut self,
        place: u32,
        topic: u32,
        first_source: u32,
        source_count: u32,
        style: &Style,
    ) {
        let thread = self.thread(place);
        let filter = if style.topics > 1 {
            format!("{}/{topic}/+", self.prefix)
        } else {
            format!("{}/{topic}/0", self.prefix)
        };
        self.clients.push(Client {
            thread,
            address: 0,
            stage: 0,
            topic_filters: vec![filter],
            qos: style.subscribe_qos,
            delivery: Delivery::Live,
            is_persistent: style.is_persistent,
            publisher: None,
            first_source,
            source_count,
        });
    }

    /// `index` is the publisher's own, by which it finds its thread; `windows` for QoS 0 and above.
    fn publish(
        &mut self,
        index: u32,
        topic: u32,
        needed: u32,
        window: u64,
        acknowledged_window: u64,
        style: &Style,
    ) {
        let thread = self.thread(index + u32::from(self.cross));
        let client = self.clients.len() as u32;
        let publisher = self.publishers.len() as u32;
        self.clients.push(Client {
            thread,
            address: 0,
            stage: 0,
            topic_filters: Vec::new(),
            qos: 0,
            delivery: Delivery::Live,
            is_persistent: false,
            publisher: Some(publisher),
            first_source: 0,
            source_count: 0,
        });
        let topic_names = (0..style.topics).map(|t| format!("{}/{topic}/{t}", self.prefix));
        let usual = if style.publish_qos > 0 {
            // At QoS 1 and 2 Mosquitto's and fastmq's own inflight limit is 20.
            acknowledged_window
        } else {
            window
        };
        self.publishers.push(Publisher {
            client,
            topic_names: topic_names.collect(),
            qos: style.publish_qos,
            payload: style.payload,
            retain: false,
            needed,
            may_lose: style.publish_qos.min(style.subscribe_qos) == 0,
            is_shared: false,
            window: style.window.unwrap_or(usual),
            quota: None,
            schedule: style.schedule,
        });
    }
}

fn part_of(workload: &Workload) -> Part {
    let mut part = Part::default();
    let name = match *workload {
        Workload::Pairs { pairs } => {
            part.pairs = Some(pairs);
            "pairs"
        }
        Workload::SelfTest { pairs, discard } => {
            part.pairs = Some(pairs);
            if discard { "discard" } else { "pairs" }
        }
        Workload::FanOut { subscribers } => {
            part.subscribers = Some(subscribers);
            "fan-out"
        }
        Workload::FanIn { publishers } => {
            part.publishers = Some(publishers);
            "fan-in"
        }
        Workload::Shared {
            publishers,
            subscribers,
        } => {
            (part.publishers, part.subscribers) = (Some(publishers), Some(subscribers));
            "shared"
        }
        Workload::Wildcard {
            publishers,
            subscribers,
            filters,
        } => {
            (part.publishers, part.subscribers) = (Some(publishers), Some(subscribers));
            part.filters = Some(filters);
            "wildcard"
        }
        Workload::Trickle { connections } => {
            part.connections = Some(connections);
            "trickle"
        }
        Workload::Retained {
            messages,
            subscribers,
        } => {
            (part.topics, part.subscribers) = (Some(messages), Some(subscribers));
            "retained"
        }
        Workload::Reconnect {
            subscribers,
            messages,
        } => {
            (part.topics, part.subscribers) = (Some(messages), Some(subscribers));
            "reconnect"
        }
        Workload::Mixed { .. } | Workload::Idle { .. } | Workload::Connect { .. } => "",
    };
    part.workload = name.to_owned();
    part
}

fn read_parts(file: &Path) -> Result<Vec<Part>, Failure> {
    let failure = |reason: String| Failure::File {
        path: file.display().to_string(),
        reason,
    };
    let text = std::fs::read_to_string(file).map_err(|error| failure(error.to_string()))?;
    let parts: Parts = toml::from_str(&text).map_err(|error| failure(error.to_string()))?;
    if parts.load.is_empty() {
        return Err(failure("no [[load]] in it".to_owned()));
    }
    for (index, part) in parts.load.iter().enumerate() {
        options::check(&part.words())
            .map_err(|said| failure(format!("[[load]] {}: {said}", index + 1)))?;
    }
    Ok(parts.load)
}

/// What tells this run's Clients and topics from those of another one. Not the process id: in two containers that
/// is the same, and the Clients of one run would take over the connections of the other.
fn tag() -> &'static str {
    static TAG: LazyLock<String> = LazyLock::new(|| {
        let mut chance = RandomState::new().build_hasher().finish();
        let letters = (0..TAG_SIZE).map(|_| {
            let letter = TAG_LETTERS[(chance % TAG_LETTERS.len() as u64) as usize];
            chance /= TAG_LETTERS.len() as u64;
            char::from(letter)
        });
        letters.collect()
    });
    &TAG
}

/// With the longest index a Client Identifier stays within the 23 bytes that every broker takes [MQTT-3.1.3-5].
const TAG_SIZE: usize = 6;
const TAG_LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// What all Client Identifiers of this run begin with.
pub fn client_prefix() -> String {
    format!("load-{}", tag())
}

pub fn client_identifier(index: u32) -> String {
    format!("{}-{index}", client_prefix())
}
