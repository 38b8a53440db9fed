//! What became of every message, and which promises that breaks.

use crate::result::Truth;

use super::conductor::Conductor;

impl Conductor<'_> {
    /// The truth of every message, and every promise that was broken.
    pub(super) fn truth(&self) -> (Truth, Vec<String>) {
        let mut truth = Truth::default();
        let plan = &self.run.plan;
        let mut published = vec![0; plan.publishers.len()];
        // Lost, duplicated, reordered and unsent, by QoS.
        let mut by_qos = [[0_u64; 4]; 3];
        for end in &self.ends {
            truth.corrupt += end.corrupt;
            for publisher in &end.publishers {
                let plan = &plan.publishers[publisher.publisher as usize];
                published[publisher.publisher as usize] = publisher.published;
                let counts = &mut by_qos[usize::from(plan.qos)];
                counts[3] += publisher.unsent;
                if plan.is_shared {
                    let arrived = publisher.arrivals - publisher.surplus;
                    counts[0] += publisher.published.saturating_sub(arrived);
                    counts[1] += publisher.surplus;
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
                counts[0] += end.flow.lost(expected);
                counts[1] += end.flow.duplicated();
            }
            counts[2] += end.flow.reordered();
        }
        let mut broken = Vec::new();
        for (qos, &[lost, duplicated, reordered, unsent]) in by_qos.iter().enumerate() {
            truth.lost += lost;
            truth.duplicated += duplicated;
            truth.reordered += reordered;
            truth.unsent += unsent;
            let promises = [
                (qos > 0, lost, "messages lost"),
                // At most once, and exactly once; only at least once may repeat.
                (qos != 1, duplicated, "messages delivered more than once"),
                (true, reordered, "messages delivered out of order"),
                (qos > 0, unsent, "messages never accepted"),
            ];
            for (promised, count, what) in promises {
                if promised && count > 0 {
                    broken.push(format!("{count} {what} at QoS {qos}"));
                }
            }
        }
        if truth.corrupt > 0 {
            let what = "messages changed or delivered to the wrong subscriber";
            broken.push(format!("{} {what}", truth.corrupt));
        }
        truth.passed = broken.is_empty();
        (truth, broken)
    }
}
