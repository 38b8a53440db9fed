//! Retained messages that were found for new subscriptions and wait to be sent: in the order in which they were found, and by
//! subscription, so that those of one that ends are taken out without a look at the others.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::subscribe::ReplayRequest;
use crate::message::Message;
use crate::router::FilterKey;

/// Retained messages that a new subscription still has to get: those that one look found, so that a list of
/// a million never grows by moving what it holds.
#[derive(Debug)]
pub(super) struct ReplayItems {
    /// Never none.
    pub(super) messages: VecDeque<Arc<Message>>,
    pub(super) request: ReplayRequest,
}

/// All that were found and not sent.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By when they were found.
    items: BTreeMap<u64, ReplayItems>,
    of: BTreeSet<(FilterKey, u64)>,
    next: u64,
    /// Messages in them.
    count: usize,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Messages that wait.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// These have been found as well.
    pub(super) fn push(&mut self, items: ReplayItems) {
        if items.messages.is_empty() {
            return;
        }
        self.count += items.messages.len();
        self.of.insert((items.request.filter, self.next));
        self.items.insert(self.next, items);
        self.next += 1;
    }

    /// The message that was found first, and what asked for it.
    pub(super) fn first(&self) -> Option<(&Arc<Message>, ReplayRequest)> {
        let (_, items) = self.items.first_key_value()?;
        Some((items.messages.front()?, items.request))
    }

    /// That one has been sent, or will not be.
    pub(super) fn pop(&mut self) {
        let Some(mut first) = self.items.first_entry() else {
            return;
        };
        let items = first.get_mut();
        self.count -= usize::from(items.messages.pop_front().is_some());
        if items.messages.is_empty() {
            let (number, items) = first.remove_entry();
            self.of.remove(&(items.request.filter, number));
        }
    }

    /// Takes out what was found first.
    pub(super) fn pop_items(&mut self) -> Option<ReplayItems> {
        let (number, items) = self.items.pop_first()?;
        self.of.remove(&(items.request.filter, number));
        self.count -= items.messages.len();
        Some(items)
    }

    /// Takes out what was found because of this subscription. How many looks' worth that is.
    pub(super) fn forget(&mut self, filter: FilterKey) -> usize {
        let mut looks = 0;
        while let Some(&(of, number)) = self.of.range((filter, 0)..).next()
            && of == filter
        {
            self.of.remove(&(filter, number));
            let items = self.items.remove(&number);
            self.count -= items.map_or(0, |items| items.messages.len());
            looks += 1;
        }
        looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::SubscriptionOptions;
    use crate::message::QoS;

    fn items(filter: u32, count: usize) -> ReplayItems {
        let options = SubscriptionOptions::new(QoS::AtMostOnce);
        ReplayItems {
            messages: (0..count).map(|_| Arc::new(Message::default())).collect(),
            request: ReplayRequest::new(FilterKey(filter), options, None, 0),
        }
    }

    fn of_first(found: &Found) -> Option<u32> {
        found.first().map(|(_, request)| request.filter.0)
    }

    #[test]
    fn what_a_subscription_has_found_is_gone_with_it_and_the_rest_keeps_its_order() {
        let mut found = Found::default();
        for (filter, count) in [(7, 2), (3, 1), (7, 5), (9, 0), (8, 3)] {
            found.push(items(filter, count));
        }
        assert_eq!((found.count(), of_first(&found)), (11, Some(7)));
        found.pop();
        assert_eq!((found.count(), of_first(&found)), (10, Some(7)));
        assert_eq!(found.forget(FilterKey(7)), 2);
        assert_eq!(found.forget(FilterKey(7)), 0);
        assert_eq!((found.count(), of_first(&found)), (4, Some(3)));
        found.pop();
        assert_eq!((found.count(), of_first(&found)), (3, Some(8)));
        found.push(items(3, 4));
        assert_eq!(found.pop_items().map(|it| it.messages.len()), Some(3));
        assert_eq!(found.forget(FilterKey(3)), 1);
        assert!(found.is_empty() && found.of.is_empty() && found.count() == 0);
    }
}
