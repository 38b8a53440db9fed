//! What became of every message, which promises that breaks, and what it is although none is broken.

use crate::result::Truth;

use super::conductor::Conductor;

/// Of the messages of one QoS.
#[derive(Clone, Copy, Default)]
struct Counts {
    expected: u64,
    lost: u64,
    duplicated: u64,
    reordered: u64,
    unsent: u64,
    /// That wait for PUBACK or PUBREC, and for PUBCOMP.
    unacknowledged: (u64, u64),
    publishers: u64,
    /// Of them, those that could publish no more for want of acknowledgements.
    stopped: u64,
    /// To more than one member of a shared subscription.
    shared_out_again: u64,
}

pub(super) struct Verdict {
    pub(super) truth: Truth,
    /// Messages that were due to be delivered, whether they were published or not.
    pub(super) expected: u64,
    /// Every promise that was broken.
    pub(super) broken: Vec<String>,
    /// What went wrong and breaks no promise.
    pub(super) allowed: Vec<String>,
}

impl Conductor<'_> {
    /// Where a run `broke_off`, nobody waited for what was under way: that it is missing breaks no promise.
    pub(super) fn verdict(&self, broke_off: bool) -> Verdict {
        let mut truth = Truth::default();
        let plan = &self.run.plan;
        let mut published = vec![0; plan.publishers.len()];
        let mut by_qos = [Counts::default(); 3];
        for end in &self.ends {
            truth.corrupt += end.corrupt;
            truth.breaches.add(&end.breaches);
            for publisher in &end.publishers {
                let plan = &plan.publishers[publisher.publisher as usize];
                published[publisher.publisher as usize] = publisher.published;
                let counts = &mut by_qos[usize::from(plan.qos)];
                counts.unsent += publisher.unsent;
                counts.unacknowledged.0 += publisher.unacknowledged.0;
                counts.unacknowledged.1 += publisher.unacknowledged.1;
                counts.publishers += 1;
                counts.stopped += u64::from(publisher.has_stopped);
                if plan.is_shared {
                    let arrived = publisher.arrivals - publisher.surplus;
                    counts.expected += publisher.published;
                    counts.lost += publisher.published.saturating_sub(arrived);
                    counts.shared_out_again += publisher.surplus;
                }
            }
        }
        for end in self.ends.iter().flat_map(|end| &end.flows) {
            let source = &plan.publishers[end.publisher as usize];
            let counts = &mut by_qos[usize::from(end.qos)];
            let topics = source.topic_names.len() as u64;
            let sent = published[end.publisher as usize];
            let expected = (sent + topics - 1).saturating_sub(end.topic) / topics;
            if !end.is_shared {
                counts.expected += expected;
                counts.lost += end.flow.lost(expected);
            }
            counts.duplicated += end.flow.duplicated();
            counts.reordered += end.flow.reordered();
        }
        let (mut broken, mut allowed) = (Vec::new(), Vec::new());
        let found = truth.breaches.in_words();
        broken.extend(found.map(|(count, what)| format!("{count} {what}")));
        let unreleased = self.ends.iter().map(|end| end.unreleased).sum();
        let missing = &mut truth.breaches;
        (missing.puback_missing, _) = by_qos[1].unacknowledged;
        (missing.pubrec_missing, missing.pubcomp_missing) = by_qos[2].unacknowledged;
        missing.pubrel_missing = unreleased;
        if unreleased > 0 {
            let what = format!("{unreleased} deliveries at QoS 2 that no PUBREL followed");
            if broke_off {
                allowed.push(format!("{what} when the run broke off"));
            } else {
                broken.push(what);
            }
        }
        for (qos, counts) in by_qos.iter().enumerate() {
            truth.lost += counts.lost;
            truth.duplicated += counts.duplicated + counts.shared_out_again;
            truth.reordered += counts.reordered;
            truth.unsent += counts.unsent;
            truth.unacknowledged += counts.unacknowledged.0 + counts.unacknowledged.1;
            let lost = format!("of {} messages lost", counts.expected);
            // What a member of a group that is gone had not acknowledged goes to another one, and is older.
            let is_in_order = !(broke_off && plan.publishers.iter().any(|p| p.is_shared));
            let promises = [
                (qos > 0, counts.lost, lost.as_str()),
                // At most once, and exactly once; only at least once may repeat.
                (
                    qos != 1,
                    counts.duplicated,
                    "messages delivered more than once",
                ),
                // QoS 1 may repeat, and to the one that had it: no connection was lost.
                (
                    !broke_off,
                    counts.shared_out_again,
                    "messages delivered to more than one of those who share them",
                ),
                (
                    is_in_order,
                    counts.reordered,
                    "messages delivered out of order",
                ),
            ];
            for (promised, count, what) in promises {
                if count == 0 {
                    continue;
                }
                if broke_off && (!promised || what == lost) {
                    allowed.push(format!(
                        "{count} {what} at QoS {qos} when the run broke off"
                    ));
                } else if promised {
                    broken.push(format!("{count} {what} at QoS {qos}"));
                } else {
                    allowed.push(format!("{count} {what} at QoS {qos}, which allows it"));
                }
            }
            let first_step = if qos == 1 { "PUBACK" } else { "PUBREC" };
            let (published, released) = counts.unacknowledged;
            for (count, step) in [(published, first_step), (released, "PUBCOMP")] {
                if count == 0 {
                    continue;
                }
                let said = format!("{count} messages never acknowledged at QoS {qos}");
                if broke_off {
                    allowed.push(format!("{said} when the run broke off"));
                } else {
                    broken.push(format!("{said}: {step} did not come"));
                }
            }
            if counts.stopped > 0 && !broke_off {
                allowed.push(format!(
                    "{} of {} publishers at QoS {qos} stopped: acknowledgements that did not come filled their windows",
                    counts.stopped, counts.publishers
                ));
            }
            if counts.unsent > 0 {
                // The broker was never offered them. If it owes something, that is counted above.
                allowed.push(format!(
                    "{} messages at QoS {qos} were due and never sent: those before them were not through",
                    counts.unsent
                ));
            }
        }
        if truth.corrupt > 0 {
            let what =
                "messages changed or delivered to the wrong subscriber or by the wrong topic";
            broken.push(format!("{} {what}", truth.corrupt));
        }
        truth.passed = broken.is_empty();
        Verdict {
            expected: by_qos.iter().map(|counts| counts.expected).sum(),
            truth,
            broken,
            allowed,
        }
    }
}
