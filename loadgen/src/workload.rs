//! Who connects, who subscribes to whom, and how fast publishers may go.

use crate::options::{Options, Workload};

/// One connection and what it does.
#[derive(Debug, Default)]
pub struct Client {
    pub topic_filter: Option<String>,
    /// Index of the publisher that this Client is.
    pub publisher: Option<u32>,
    /// Whom it hears: this publisher and so many after it.
    pub first_source: u32,
    pub source_count: u32,
}

#[derive(Debug)]
pub struct Publisher {
    pub client: u32,
    pub topic_name: String,
    pub subscriber_count: u32,
}

/// When publishers publish.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As fast as the window lets them.
    Saturate,
    /// So many messages a second together, whatever the broker does.
    Schedule { rate: f64 },
}

#[derive(Debug)]
pub struct Plan {
    pub name: &'static str,
    pub clients: Vec<Client>,
    pub publishers: Vec<Publisher>,
    pub window: u64,
    pub pace: Pace,
}

impl Plan {
    /// The plan of a workload that publishes; `None` for those that do not.
    pub fn new(options: &Options) -> Option<Self> {
        let mut plan = Self {
            name: "",
            clients: Vec::new(),
            publishers: Vec::new(),
            window: 0,
            pace: Pace::Saturate,
        };
        // At QoS 1 and 2 Mosquitto's and fastmq's own inflight limit is 20.
        let mut acknowledged_window = 16;
        let window_at_qos0 = match options.workload {
            Workload::Pairs { pairs } => {
                plan.name = "pairs";
                for index in 0..pairs {
                    plan.subscribe(index, index, 1);
                }
                for index in 0..pairs {
                    plan.publish(index, 1);
                }
                1000
            }
            Workload::FanOut { subscribers } => {
                plan.name = "fan-out";
                for _ in 0..subscribers {
                    plan.subscribe(0, 0, 1);
                }
                plan.publish(0, subscribers);
                100
            }
            Workload::FanIn { publishers } => {
                plan.name = "fan-in";
                plan.subscribe(0, 0, publishers);
                for _ in 0..publishers {
                    plan.publish(0, 1);
                }
                // One subscriber's queue must hold what all have under way: usually 1000 messages.
                let share = (1000 / u64::from(publishers)).max(1);
                acknowledged_window = share.min(acknowledged_window);
                share
            }
            Workload::Trickle { connections, rate } => {
                plan.name = "trickle";
                for index in 0..connections {
                    plan.subscribe(index, (index + connections - 1) % connections, 1);
                }
                for index in 0..connections {
                    let next = (index + 1) % connections;
                    plan.clients[index as usize].publisher = Some(index);
                    plan.publishers.push(Publisher {
                        client: index,
                        topic_name: topic(next),
                        subscriber_count: 1,
                    });
                }
                plan.pace = Pace::Schedule { rate };
                1000
            }
            Workload::Idle { .. } | Workload::Connect { .. } => return None,
        };
        let acknowledged = options.common.qos > 0;
        let usual = if acknowledged {
            acknowledged_window
        } else {
            window_at_qos0
        };
        plan.window = options.common.window.unwrap_or(usual);
        Some(plan)
    }

    fn subscribe(&mut self, topic_index: u32, first_source: u32, source_count: u32) {
        let topic_filter = Some(topic(topic_index));
        self.clients.push(Client {
            topic_filter,
            publisher: None,
            first_source,
            source_count,
        });
    }

    fn publish(&mut self, topic_index: u32, subscriber_count: u32) {
        let client = self.clients.len() as u32;
        let publisher = Some(self.publishers.len() as u32);
        self.clients.push(Client {
            publisher,
            ..Client::default()
        });
        let topic_name = topic(topic_index);
        self.publishers.push(Publisher {
            client,
            topic_name,
            subscriber_count,
        });
    }
}

/// Topics carry the process id, so that several generators can share a broker.
pub fn topic(index: u32) -> String {
    format!("load/{}/{index}", std::process::id())
}

pub fn client_identifier(index: usize) -> String {
    format!("load-{}-{index}", std::process::id())
}
