//! What one engine found, once all is over.

use hdrhistogram::Histogram;

use crate::accounting::Flow;
use crate::breaches::Breaches;

use super::{Engine, histogram};

/// What became of one publisher's messages to one subscriber.
#[derive(Debug)]
pub struct FlowEnd {
    pub publisher: u32,
    pub topic: u64,
    /// The lower one of publisher and subscriber.
    pub qos: u8,
    pub is_shared: bool,
    pub flow: Flow,
}

#[derive(Debug)]
pub struct PublisherEnd {
    pub publisher: u32,
    pub published: u64,
    pub unsent: u64,
    /// Messages that wait for PUBACK or PUBREC, and for PUBCOMP.
    pub unacknowledged: (u64, u64),
    /// They fill its window, so that it could publish no more.
    pub has_stopped: bool,
    /// Of a shared subscription: deliveries in all, and those that were too many.
    pub arrivals: u64,
    pub surplus: u64,
}

/// What one engine found.
#[derive(Debug)]
pub struct End {
    pub flows: Vec<FlowEnd>,
    pub publishers: Vec<PublisherEnd>,
    pub corrupt: u64,
    /// But for what is missing at the end, which may have been under way.
    pub breaches: Breaches,
    pub unreleased: u64,
    pub overruns: u64,
    pub window_restarts: u64,
    pub windows_restricted: u64,
    pub window_least: u64,
    /// Latencies since the last interval.
    pub intended: Histogram<u64>,
    pub actual: Histogram<u64>,
}

impl Engine {
    pub(super) fn end(&mut self) -> End {
        self.record_latencies();
        let plan = &self.run.plan;
        let mut flows = Vec::new();
        let mut all = std::mem::take(&mut self.flows).into_iter();
        for peer in &self.peers {
            for publisher in peer.first_source..peer.first_source + peer.source_count {
                let source = &plan.publishers[publisher as usize];
                for topic in 0..source.topic_names.len() as u64 {
                    flows.extend(all.next().map(|flow| FlowEnd {
                        publisher,
                        topic,
                        qos: source.qos.min(peer.qos),
                        is_shared: source.is_shared,
                        flow,
                    }));
                }
            }
        }
        let publishers = self.publishers.iter().map(|publisher| PublisherEnd {
            publisher: plan.clients[self.peers[publisher.peer as usize].client as usize]
                .publisher
                .unwrap_or(0),
            published: publisher.window.published(),
            unsent: publisher.waiting(),
            unacknowledged: publisher.window.unacknowledged(),
            has_stopped: publisher.window.free() == 0 && !publisher.window.is_acknowledged(),
            arrivals: publisher.arrivals,
            surplus: publisher.surplus,
        });
        End {
            flows,
            publishers: publishers.collect(),
            corrupt: self.corrupt,
            breaches: self.breaches,
            unreleased: self.unreleased,
            overruns: self.overruns,
            window_restarts: self.window_restarts,
            windows_restricted: self.windows_restricted,
            window_least: self.window_least,
            intended: std::mem::replace(&mut self.intended, histogram()),
            actual: std::mem::replace(&mut self.actual, histogram()),
        }
    }
}
