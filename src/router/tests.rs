//! The router against models that do the obvious slow thing.

#![forbid(unsafe_code)]

use super::{FilterKey, Interest, Matches, Pick, RetainedVersion, Router, ShardSet};
use crate::codec::SubscriptionOptions;
use crate::key::{SessionKey, ShardId};
use crate::message::{Message, MessageRef, QoS};
use crate::time::Instant;
use crate::topic::{TopicFilter, TopicName};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;

const OWN: ShardId = ShardId(1);

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::new(text).expect("legal filter")
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::new(text).expect("legal name")
}

fn session(index: u32) -> SessionKey {
    SessionKey {
        index,
        generation: index % 3,
    }
}

fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions {
        qos,
        ..SubscriptionOptions::default()
    }
}

fn router() -> Router {
    Router::new(OWN, 256)
}

fn subscribe(router: &mut Router, text: &str, index: u32) -> FilterKey {
    let options = options(QoS::AtLeastOnce);
    router
        .subscribe(&filter(text), session(index), options, None, true)
        .filter
}

fn sessions(matches: &Matches) -> BTreeSet<u32> {
    matches
        .targets
        .iter()
        .map(|target| target.session.index)
        .collect()
}

// --- Tables.

#[test]
fn a_topic_finds_the_filters_that_the_specification_says() {
    let filters = [
        "sport/tennis/player1/#",
        "sport/#",
        "#",
        "sport/tennis/+",
        "+",
        "sport/+",
        "+/+",
        "/+",
        "+/tennis/#",
        "$SYS/#",
        "$SYS/monitor/+",
        "+/monitor/Clients",
        "/finance",
        "sport/",
        "sport//player1",
        "/",
        "+/#",
    ];
    let mut router = router();
    for (text, index) in filters.iter().zip(0..) {
        subscribe(&mut router, text, index);
    }
    // [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.2-1], [MQTT-4.7.3-4]
    for name in [
        "sport/tennis/player1",
        "sport/tennis/player1/ranking",
        "sport/tennis/player1/score/wimbledon",
        "sport",
        "sport/",
        "sport//player1",
        "/finance",
        "finance",
        "/",
        "//",
        "$SYS",
        "$SYS/monitor/Clients",
        "$SYS/monitor",
        "$other/monitor/Clients",
        "Sport",
    ] {
        let expected: BTreeSet<u32> = filters
            .iter()
            .zip(0..)
            .filter(|(text, _)| filter(text).matches(topic(name)))
            .map(|(_, index)| index)
            .collect();
        assert_eq!(sessions(&router.matches(topic(name))), expected, "{name}");
    }
}

/// [MQTT-3.3.4-2], [MQTT-3.3.4-3], [MQTT-3.3.4-4], [MQTT-3.8.3-3]
#[test]
fn overlapping_subscriptions_are_one_target_with_all_identifiers() {
    // Few and many other subscribers, because those are merged in different ways.
    for others in [0, 100] {
        let mut router = router();
        let overlapping = [
            ("a/b", QoS::AtMostOnce, Some(7), true),
            ("a/+", QoS::AtLeastOnce, None, false),
            ("a/#", QoS::AtMostOnce, Some(9), false),
            ("+/b", QoS::ExactlyOnce, Some(11), true),
            ("#", QoS::AtMostOnce, Some(7), true),
        ];
        for (text, qos, identifier, no_local) in overlapping {
            let options = SubscriptionOptions {
                no_local,
                ..options(qos)
            };
            let identifier = identifier.and_then(NonZeroU32::new);
            router.subscribe(&filter(text), session(1), options, identifier, true);
        }
        for index in 2..2 + others {
            subscribe(&mut router, "a/b", index);
        }
        let matches = router.matches(topic("a/b"));
        // One more for its own messages, of which it gets what No Local does not keep away.
        assert_eq!(matches.targets.len(), 2 + others as usize);
        for (publisher, qos, expected) in [
            (None, QoS::ExactlyOnce, &[7, 7, 9, 11][..]),
            (Some(session(2)), QoS::ExactlyOnce, &[7, 7, 9, 11]),
            (Some(session(1)), QoS::AtLeastOnce, &[9]),
        ] {
            let targets = matches.targets.iter();
            let mut targets = targets.filter(|it| it.session == session(1) && it.is_for(publisher));
            let target = targets.next().expect("it is there");
            assert!(targets.next().is_none());
            assert_eq!(target.qos, qos);
            assert!(!target.retain_as_published);
            let mut identifiers: Vec<u32> = target
                .subscription_identifiers
                .iter()
                .map(|identifier| identifier.get())
                .collect();
            identifiers.sort_unstable();
            assert_eq!(identifiers, expected);
        }
    }
}

/// [MQTT-3.8.4-3]
#[test]
fn subscribing_again_replaces_the_subscription() {
    let mut router = router();
    let first = router.subscribe(
        &filter("a"),
        session(1),
        options(QoS::AtMostOnce),
        None,
        true,
    );
    assert!(!first.existed && first.announce);
    assert_eq!(router.matches(topic("a")).targets[0].qos, QoS::AtMostOnce);
    let again = router.subscribe(
        &filter("a"),
        session(1),
        options(QoS::ExactlyOnce),
        None,
        true,
    );
    assert!(again.existed && !again.announce);
    assert_eq!(again.filter, first.filter);
    let matches = router.matches(topic("a"));
    assert_eq!(
        (matches.targets.len(), matches.targets[0].qos),
        (1, QoS::ExactlyOnce)
    );
    assert_eq!(router.subscription_count(), 1);
}

#[test]
fn an_old_session_in_the_same_slot_is_not_the_new_one() {
    let mut router = router();
    let (old, new) = (
        SessionKey {
            index: 5,
            generation: 1,
        },
        SessionKey {
            index: 5,
            generation: 2,
        },
    );
    for index in 10..50 {
        subscribe(&mut router, "a", index);
    }
    for (text, session) in [("a", old), ("+", new), ("#", old), ("#", new), ("a/#", old)] {
        router.subscribe(&filter(text), session, options(QoS::AtMostOnce), None, true);
    }
    let matches = router.matches(topic("a"));
    for session in [old, new] {
        assert_eq!(
            matches
                .targets
                .iter()
                .filter(|target| target.session == session)
                .count(),
            1
        );
    }
}

// --- What is remembered.

#[test]
fn a_topic_seen_before_is_not_looked_for_again_until_its_filters_change() {
    let mut router = router();
    subscribe(&mut router, "home/12/#", 1);
    let first = router.matches(topic("home/12/light"));
    assert!(Rc::ptr_eq(&first, &router.matches(topic("home/12/light"))));
    // Elsewhere.
    subscribe(&mut router, "home/13/#", 2);
    subscribe(&mut router, "home/12/door", 2);
    assert!(Rc::ptr_eq(&first, &router.matches(topic("home/12/light"))));
    // The same again.
    subscribe(&mut router, "home/12/#", 1);
    assert!(Rc::ptr_eq(&first, &router.matches(topic("home/12/light"))));
    for (step, text) in (3..).zip(["home/12/light", "home/12/+", "home/#", "+/12/light", "#"]) {
        let before = router.matches(topic("home/12/light"));
        let key = subscribe(&mut router, text, step);
        let after = router.matches(topic("home/12/light"));
        assert_eq!(after.targets.len(), before.targets.len() + 1, "{text}");
        router.unsubscribe(key, session(step));
        assert_eq!(
            router.matches(topic("home/12/light")).targets.len(),
            before.targets.len()
        );
    }
    // Whoever holds old matches keeps them.
    assert_eq!(sessions(&first), BTreeSet::from([1]));
}

#[test]
fn other_shards_and_groups_change_what_is_remembered() {
    let mut router = router();
    assert!(router.matches(topic("a/b")).is_empty());
    router.set_interest(ShardId(200), &filter("a/+"), Interest::PLAIN);
    router.set_interest(ShardId(0), &filter("#"), Interest::PLAIN);
    let matches = router.matches(topic("a/b"));
    assert_eq!(matches.shards, [0, 200].map(ShardId).into_iter().collect());
    assert!(matches.targets.is_empty());
    router.set_interest(ShardId(200), &filter("a/+"), Interest::NONE);
    router.set_interest(ShardId(0), &filter("#"), Interest::NONE);
    assert!(router.matches(topic("a/b")).is_empty());
    let group = Interest {
        members_online: 0,
        members: 2,
    };
    router.set_interest(ShardId(3), &filter("$share/g/a/+"), group);
    let matches = router.matches(topic("a/b"));
    assert_eq!((matches.groups.len(), matches.shards), (1, ShardSet::EMPTY));
    // A member more or less is no reason to look again.
    let key = subscribe(&mut router, "$share/g/a/+", 1);
    assert!(Rc::ptr_eq(&matches, &router.matches(topic("a/b"))));
    router.unsubscribe(key, session(1));
    router.set_interest(ShardId(3), &filter("$share/g/a/+"), Interest::NONE);
    assert!(router.matches(topic("a/b")).is_empty());
    assert_eq!((router.filter_count(), router.node_counts()), (0, (0, 0)));
}

#[test]
fn topics_that_the_same_filters_match_share_who_wants_them_until_one_is_matched_by_others() {
    let mut router = router();
    subscribe(&mut router, "home/#", 1);
    let of = |router: &mut Router, number: u32| router.matches(topic(&format!("home/{number}")));
    let first = (0..1000).map(|number| Rc::as_ptr(&of(&mut router, number)));
    // Filters that are met once may be those of one topic, and a table that grows forgets.
    let copies: BTreeSet<_> = first.collect();
    assert!(copies.len() < 16, "{}", copies.len());
    let shared = of(&mut router, 999);
    assert!(Rc::ptr_eq(&shared, &of(&mut router, 998)));
    subscribe(&mut router, "home/7", 2);
    assert_eq!(of(&mut router, 7).targets.len(), 2);
    for number in [0, 1, 6, 8, 999] {
        assert_eq!(of(&mut router, number).targets.len(), 1, "{number}");
    }
    // A filter that could match all of them and does not match any leaves them as they are.
    subscribe(&mut router, "+/nobody", 3);
    assert!(Rc::ptr_eq(&shared, &of(&mut router, 998)));
    // One that matches all of them does not.
    subscribe(&mut router, "+/+", 4);
    for number in [0, 1, 6, 8, 999] {
        assert_eq!(of(&mut router, number).targets.len(), 2, "{number}");
    }
    assert_eq!(shared.targets.len(), 1);
    router.cache.audit();
}

#[test]
fn who_may_not_read_one_topic_gets_another_one_of_the_same_filters() {
    let mut router = router();
    for index in 0..3 {
        subscribe(&mut router, "home/#", index);
    }
    for round in 0..3 {
        for number in 0..20 {
            let name = format!("home/{number}");
            let may_read = |session: SessionKey| session.index != number % 5 + round;
            let found = sessions(&router.matches_of(topic(&name), may_read));
            let all = (0..3).filter(|&index| index != number % 5 + round);
            assert_eq!(found, all.collect(), "{name}");
        }
        router.cache.audit();
        router.forget_matches();
    }
}

#[test]
fn only_who_is_new_is_asked_about_when_a_subscription_changes_and_everybody_when_rules_do() {
    let mut router = router();
    let asked = |router: &mut Router, denied: u32| {
        let mut asked = Vec::new();
        let may_read = |session: SessionKey| {
            asked.push(session.index);
            session.index != denied
        };
        let found = sessions(&router.matches_of(topic("home/door"), may_read));
        assert!(!found.contains(&denied));
        (found.len(), asked)
    };
    for index in 0..5 {
        subscribe(&mut router, "home/#", index);
    }
    assert_eq!(asked(&mut router, 3), (4, vec![0, 1, 2, 3, 4]));
    // Who was denied is asked about as well: nobody knows of it any more.
    subscribe(&mut router, "home/+", 5);
    subscribe(&mut router, "home/+", 1);
    assert_eq!(asked(&mut router, 3), (5, vec![3, 5]));
    let key = router.find(&filter("home/#")).expect("it is there");
    router.unsubscribe(key, session(0));
    assert_eq!(asked(&mut router, 3), (4, vec![3]));
    // Another Session in the same place.
    let old = session(1);
    router.unsubscribe(key, old);
    let new = SessionKey {
        generation: old.generation + 1,
        ..old
    };
    router.subscribe(&filter("home/#"), new, options(QoS::AtMostOnce), None, true);
    let (_, asked_now) = asked(&mut router, 3);
    assert!(asked_now.contains(&1), "{asked_now:?}");
    router.forget_matches();
    assert_eq!(asked(&mut router, 4).1.len(), 6);
    // Of another topic nothing is known by that.
    let mut count = 0;
    router.matches_of(topic("home/window"), |_| {
        count += 1;
        true
    });
    assert_eq!(count, 6);
}

#[test]
fn what_is_remembered_is_bounded_and_grows_with_it_a_few_sets_at_a_time() {
    use super::cache::CACHED_TOPICS_MAX;
    let mut router = router();
    subscribe(&mut router, "#", 1);
    let (mut sets, mut sizes) = (0, Vec::new());
    for number in 0..CACHED_TOPICS_MAX * 2 {
        let place = router.cache.sets_place();
        assert_eq!(router.matches(topic(&number.to_string())).targets.len(), 1);
        let now = router.cache.sets_count();
        let is_moved = router.cache.sets_place() != place;
        assert!(!is_moved || now < 520, "{now} sets were moved");
        // One that is full takes another way to its bound.
        assert!(now == sets || now <= sets.max(4) + 4, "{sets} to {now}");
        sets = now;
        if [20, 1_000, 10_000, 100_000].contains(&(number + 1)) {
            // What came too fast is remembered when it comes again.
            for number in 0..number {
                router.matches(topic(&number.to_string()));
            }
            let (topics, size) = router.cached_counts();
            assert!(topics >= number * 97 / 100, "{topics} of {number}");
            sets = router.cache.sets_count();
            sizes.push(size);
        }
    }
    for (size, most) in sizes.iter().zip([6_000, 120_000, 1_200_000, 12_000_000]) {
        assert!(*size < most, "{sizes:?}");
    }
    let (topics, size) = router.cached_counts();
    assert_eq!(sets * 7, CACHED_TOPICS_MAX);
    assert!(topics <= CACHED_TOPICS_MAX && topics > CACHED_TOPICS_MAX * 9 / 10);
    assert!(size < 19 << 20, "{size}");
    router.cache.audit();
}

#[test]
fn every_topic_that_is_remembered_is_found_whatever_stands_before_it() {
    let mut router = router();
    subscribe(&mut router, "#", 1);
    let mut found = 0;
    for number in (0..3).flat_map(|_| 0..2_000) {
        let name = number.to_string();
        let remembered = router.cache.remembers(name.as_bytes());
        let mut looked_for = false;
        router.matches_of(topic(&name), |_| {
            looked_for = true;
            true
        });
        assert_eq!(looked_for, !remembered, "{name}");
        found += u32::from(remembered);
    }
    assert!(found > 3_500, "{found}");
}

#[test]
fn what_remembered_topics_hold_is_bounded() {
    use super::cache::{CACHED_HEAP_MAX, Cache};
    // Long topics.
    let mut router = router();
    let long = "x".repeat(60_000);
    for number in 0..1000 {
        assert!(router.matches(topic(&format!("{long}{number}"))).is_empty());
    }
    let (topics, size) = router.cached_counts();
    assert!(size < CACHED_HEAP_MAX + (1 << 20), "{size}");
    assert!((780..810).contains(&topics), "{topics}");
    // Crowds of their own.
    router.cache = Cache::with_bounds(1 << 15, 1 << 20);
    for crowd in 0..10 {
        for index in 0..5_000 {
            subscribe(&mut router, &format!("crowd/{crowd}/+"), index);
        }
    }
    for number in 0..200 {
        let name = format!("crowd/{}/{number}", number % 10);
        let matches = router.matches(topic(&name));
        assert_eq!(matches.targets.len(), 5_000);
        assert!(router.cached_counts().1 < (1 << 20) + 100_000);
        router.cache.audit();
    }
    // One crowd that is larger than the bound is remembered all the same, and alone.
    for index in 0..50_000 {
        subscribe(&mut router, "all", index);
    }
    let all = router.matches(topic("all"));
    assert!(Rc::ptr_eq(&all, &router.matches(topic("all"))));
    router.cache.audit();
    let kept = (0..200).filter(|number| {
        let mut asked = false;
        let name = format!("crowd/{}/{number}", number % 10);
        router.matches_of(topic(&name), |_| {
            asked = true;
            true
        });
        !asked
    });
    assert_eq!(kept.count(), 0);
}

#[test]
fn topics_that_come_in_turns_and_are_too_many_are_remembered_in_part() {
    use super::cache::{CACHED_HEAP_MAX, Cache};
    let mut router = router();
    router.cache = Cache::with_bounds(128, CACHED_HEAP_MAX);
    subscribe(&mut router, "#", 1);
    let mut looked_for = 0;
    for round in 0..20 {
        looked_for = 0;
        for number in 0..2048 {
            router.matches_of(topic(&number.to_string()), |_| {
                looked_for += 1;
                true
            });
        }
        assert!(round > 0 || looked_for == 2048);
    }
    assert!(looked_for < 2048 * 3 / 4, "{looked_for}");
    router.cache.audit();
}

#[test]
fn a_crowd_comes_and_goes() {
    let mut router = router();
    let mut key = None;
    for index in 0..10_000 {
        key = Some(subscribe(&mut router, "news", index));
    }
    let key = key.expect("somebody subscribed");
    let crowd = router.matches(topic("news"));
    assert_eq!(crowd.targets.len(), 10_000);
    assert!(Rc::ptr_eq(&crowd, &router.matches(topic("news"))));
    for index in (0..10_000).map(|step| step * 7919 % 10_000) {
        let end = router
            .unsubscribe(key, session(index))
            .expect("it was subscribed");
        assert_eq!(end.announce, router.filter_count() == 0);
        assert_eq!(router.unsubscribe(key, session(index)), None);
    }
    assert!(router.matches(topic("news")).is_empty());
    assert_eq!(router.node_counts().0, 0);
}

#[test]
fn filters_that_part_late_share_a_node_and_part_at_any_level() {
    let mut router = router();
    let levels: Vec<String> = (0..200).map(|level| format!("level {level}")).collect();
    let whole = levels.join("/");
    let plus = levels[..100].join("/") + "/+/" + &levels[101..].join("/");
    let multi = levels[..50].join("/") + "/#";
    let texts = [&*whole, &*plus, &*multi, "level 0/other"];
    // What parts from the first one, where it is split: above the node below, and above that.
    for (count, nodes) in [(1, 1), (2, 3), (3, 4), (4, 6)] {
        let keys: Vec<_> = (0..count)
            .map(|index| subscribe(&mut router, texts[index as usize], index))
            .collect();
        assert_eq!(router.node_counts().0, nodes);
        let wanted = BTreeSet::from_iter((0..count).filter(|&index| index < 3));
        assert_eq!(sessions(&router.matches(topic(&whole))), wanted);
        let other = whole.replace("level 100", "another");
        assert_eq!(
            sessions(&router.matches(topic(&other))),
            BTreeSet::from_iter((1..count).filter(|&index| index < 3))
        );
        let cut = levels[..199].join("/");
        assert_eq!(
            sessions(&router.matches(topic(&cut))),
            BTreeSet::from_iter((2..count).filter(|&index| index < 3))
        );
        for (index, &key) in keys.iter().enumerate().rev() {
            router.unsubscribe(key, session(index as u32));
        }
        assert_eq!((router.node_counts().0, router.filter_bytes()), (0, 0));
    }
}

/// The deepest topics and filters there can be, and topics that were never checked for depth.
#[test]
fn depth_needs_no_stack() {
    let mut router = router();
    let deepest = "/".repeat(crate::limits::TOPIC_LEVELS_MAX - 1);
    let wildcards = "+/".repeat(crate::limits::TOPIC_LEVELS_MAX - 1) + "#";
    let keys = [(&*deepest, 1), (&*wildcards, 2), ("#", 3)]
        .map(|(text, index)| (subscribe(&mut router, text, index), index));
    assert_eq!(
        sessions(&router.matches(topic(&deepest))),
        BTreeSet::from([1, 2, 3])
    );
    let endless = "/".repeat(65_535);
    let endless = TopicName::from_validated(endless.as_bytes());
    assert_eq!(sessions(&router.matches(endless)), BTreeSet::from([2, 3]));
    for (key, index) in keys {
        router.unsubscribe(key, session(index));
    }
    assert_eq!(router.node_counts().0, 0);
    let message = message(
        std::str::from_utf8(endless.as_bytes()).unwrap_or_default(),
        "x",
    );
    router.retain(
        &message,
        RetainedVersion {
            clock: 1,
            shard: OWN,
        },
    );
    let mut count = 0;
    router.for_each_retained(&filter(&wildcards), Instant::ZERO, |_| count += 1);
    router.for_each_retained(&filter("#"), Instant::ZERO, |_| count += 1);
    assert_eq!(count, 2);
}

// --- Random changes against a model.

#[derive(Clone, Debug)]
enum Step {
    Subscribe {
        filter: usize,
        session: u32,
        qos: u8,
        flags: u8,
        identifier: u32,
        online: bool,
    },
    Unsubscribe {
        filter: usize,
        session: u32,
    },
    SetOnline {
        filter: usize,
        session: u32,
        online: bool,
    },
    SetInterest {
        filter: usize,
        shard: u16,
        online: u32,
        offline: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let filter = || 0..12_usize;
    // Enough Sessions that lists are searched in every way there is.
    let session = || prop_oneof![0..4_u32, 0..40_u32];
    prop_oneof![
        4 => (filter(), session(), 0..3_u8, 0..4_u8, 0..4_u32, any::<bool>()).prop_map(
            |(filter, session, qos, flags, identifier, online)| Step::Subscribe {
                filter, session, qos, flags, identifier, online
            }
        ),
        3 => (filter(), session())
            .prop_map(|(filter, session)| Step::Unsubscribe { filter, session }),
        1 => (filter(), session(), any::<bool>())
            .prop_map(|(filter, session, online)| Step::SetOnline { filter, session, online }),
        2 => (filter(), prop_oneof![Just(0_u16), Just(2), Just(64), Just(255)], 0..3_u32, 0..3_u32)
            .prop_map(|(filter, shard, online, offline)| Step::SetInterest {
                filter, shard, online, offline
            }),
    ]
}

fn filter_text() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        3 => Just("a"), 3 => Just("b"), 1 => Just(""), 1 => Just("$x"), 3 => Just("+"),
        1 => Just("a level that is too long for its node"),
    ];
    let end = prop_oneof![3 => Just(""), 2 => Just("/#")];
    let share = prop_oneof![3 => Just(""), 1 => Just("$share/g/"), 1 => Just("$share/h/")];
    (share, vec(level, 0..6), end).prop_map(|(share, levels, end)| {
        let text = levels.join("/") + end;
        let text = if text.is_empty() || text == "/#" && levels.is_empty() {
            "#".into()
        } else {
            text
        };
        format!("{share}{text}")
    })
}

fn topic_text() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        3 => Just("a"), 3 => Just("b"), 1 => Just(""), 1 => Just("$x"), 1 => Just("c"),
        1 => Just("a level that is too long for its node"),
    ];
    vec(level, 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |text| !text.is_empty())
}

#[derive(Clone, Debug, Default)]
struct ModelFilter {
    subscribers: BTreeMap<u32, (SubscriptionOptions, Option<NonZeroU32>, bool)>,
    shards: BTreeMap<u16, Interest>,
}

impl ModelFilter {
    fn interest(&self, shared: bool) -> Interest {
        let members = self.subscribers.len() as u32;
        let online = self
            .subscribers
            .values()
            .filter(|(_, _, online)| *online)
            .count() as u32;
        match (shared, members) {
            (true, _) => Interest {
                members_online: online,
                members,
            },
            (false, 0) => Interest::NONE,
            (false, _) => Interest::PLAIN,
        }
    }

    fn is_wanted(&self) -> bool {
        !self.subscribers.is_empty() || !self.shards.is_empty()
    }

    fn any_online(&self) -> bool {
        self.interest(true).members_online > 0
            || self
                .shards
                .values()
                .any(|interest| interest.members_online > 0)
    }
}

type ModelTarget = (QoS, bool, Vec<NonZeroU32>);

fn check_topic(router: &mut Router, model: &BTreeMap<String, ModelFilter>, name: &str) {
    // By Session, and whether it is the publisher.
    let mut targets = BTreeMap::<(u32, bool), ModelTarget>::new();
    let mut shards = ShardSet::EMPTY;
    let mut groups = BTreeSet::new();
    for (text, wanted) in model {
        let parsed = filter(text);
        if !wanted.is_wanted() || !parsed.matches(topic(name)) {
            continue;
        }
        if parsed.share_group().is_some() {
            groups.insert(text.as_bytes().to_vec());
            continue;
        }
        for &shard in wanted.shards.keys() {
            shards.insert(ShardId(shard));
        }
        for (&index, (options, identifier, _)) in &wanted.subscribers {
            for is_own in [false, true] {
                if is_own && options.no_local {
                    continue;
                }
                let target = targets.entry((index, is_own)).or_default();
                target.0 = target.0.max(options.qos);
                target.1 |= options.retain_as_published;
                target.2.extend(identifier);
                target.2.sort_unstable();
            }
        }
    }
    let matches = router.matches(topic(name));
    let mut found = BTreeMap::<(u32, bool), ModelTarget>::new();
    for target in &matches.targets {
        assert_eq!(target.session, session(target.session.index));
        let mut identifiers = target.subscription_identifiers.to_vec();
        identifiers.sort_unstable();
        let merged = (target.qos, target.retain_as_published, identifiers);
        for is_own in [false, true] {
            if target.is_for(is_own.then_some(target.session)) {
                assert_eq!(
                    found.insert((target.session.index, is_own), merged.clone()),
                    None,
                    "each Session once"
                );
            }
        }
    }
    assert_eq!(found, targets, "{name}");
    assert_eq!(matches.shards, shards, "{name}");
    let found: Vec<Vec<u8>> = matches
        .groups
        .iter()
        .map(|group| router.filter_text(group.filter()).to_vec())
        .collect();
    assert_eq!(found.len(), groups.len());
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), groups, "{name}");
    for &group in &matches.groups {
        let text = String::from_utf8(router.filter_text(group.filter()).to_vec());
        check_pick(
            router,
            &model[&text.expect("filters are UTF-8")],
            group.filter(),
        );
    }
}

/// Somebody is always picked, somebody online if there is one, and never who is passed over.
fn check_pick(router: &mut Router, wanted: &ModelFilter, key: FilterKey) {
    let is_legal = |pick: &Pick| match pick {
        Pick::Local(target) => {
            let (options, identifier, online) = wanted.subscribers[&target.session.index];
            (target.qos, target.subscription_identifier) == (options.qos, identifier)
                && target.filter == key
                && (online || !wanted.any_online())
        }
        Pick::Remote(shard, _) => {
            let interest = wanted.shards[&shard.0];
            interest.members > 0 && (interest.members_online > 0 || !wanted.any_online())
        }
    };
    let pick = router
        .pick(super::GroupKey(key))
        .expect("a group that matches has members");
    assert!(is_legal(&pick), "{pick:?} of {wanted:?}");
    let Some(&not) = wanted.subscribers.keys().next() else {
        return;
    };
    let mut rest = wanted.clone();
    rest.subscribers.remove(&not);
    let other = router.pick_other(key, session(not));
    assert_eq!(other.is_some(), rest.is_wanted());
    match &other {
        Some(Pick::Local(target)) => {
            assert_ne!(target.session, session(not));
            assert!(rest.subscribers[&target.session.index].2 || !rest.any_online());
        }
        Some(Pick::Remote(shard, _)) => {
            assert!(rest.shards[&shard.0].members_online > 0 || !rest.any_online());
        }
        None => {}
    }
    let text = router.filter_arc(key);
    let local = router.pick_local(&text).map(|target| target.session.index);
    assert_eq!(local.is_some(), !wanted.subscribers.is_empty());
    if let Some(local) = local
        && wanted.interest(true).members_online > 0
    {
        assert!(wanted.subscribers[&local].2);
    }
}

fn take_step(
    router: &mut Router,
    model: &mut BTreeMap<String, ModelFilter>,
    filters: &[String],
    step: &Step,
) {
    let (Step::Subscribe { filter: index, .. }
    | Step::Unsubscribe { filter: index, .. }
    | Step::SetOnline { filter: index, .. }
    | Step::SetInterest { filter: index, .. }) = *step;
    let text = &filters[index % filters.len()];
    let parsed = filter(text);
    let shared = parsed.share_group().is_some();
    let wanted = model.entry(text.clone()).or_default();
    let key = router.find(&parsed);
    assert_eq!(key.is_some(), wanted.is_wanted());
    let before = wanted.interest(shared);
    match *step {
        Step::Subscribe {
            session: index,
            qos,
            flags,
            identifier,
            online,
            ..
        } => {
            let options = SubscriptionOptions {
                no_local: flags & 1 != 0,
                retain_as_published: flags & 2 != 0,
                ..options(QoS::from_bits(qos).expect("legal QoS"))
            };
            let identifier = NonZeroU32::new(identifier);
            let existed = wanted
                .subscribers
                .insert(index, (options, identifier, online))
                .is_some();
            let done = router.subscribe(&parsed, session(index), options, identifier, online);
            assert_eq!(done.existed, existed);
            assert_eq!(done.announce, wanted.interest(shared) != before);
            assert_eq!(router.filter_text(done.filter), text.as_bytes());
            assert_eq!(router.interest(done.filter), wanted.interest(shared));
        }
        Step::Unsubscribe { session: index, .. } => {
            let existed = wanted.subscribers.remove(&index).is_some();
            let done = key.and_then(|key| router.unsubscribe(key, session(index)));
            assert_eq!(done.is_some(), existed);
            if let Some(done) = done {
                assert_eq!(done.announce, wanted.interest(shared) != before);
                assert_eq!(done.interest, wanted.interest(shared));
                assert_eq!(&*done.text, text.as_bytes());
            }
        }
        Step::SetOnline {
            session: index,
            online,
            ..
        } => {
            if let Some(subscriber) = wanted.subscribers.get_mut(&index) {
                subscriber.2 = online;
            }
            let announce = key.is_some_and(|key| router.set_online(key, session(index), online));
            assert_eq!(announce, wanted.interest(shared) != before);
        }
        Step::SetInterest {
            shard,
            online,
            offline,
            ..
        } => {
            let interest = Interest {
                members_online: online,
                members: online + offline,
            };
            router.set_interest(ShardId(shard), &parsed, interest);
            if interest.members == 0 {
                wanted.shards.remove(&shard);
            } else {
                wanted.shards.insert(shard, interest);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn behaves_as_comparing_every_filter(
        filters in vec(filter_text(), 12),
        topics in vec(topic_text(), 6),
        steps in vec(step(), 1..120),
    ) {
        let mut router = router();
        let mut model = BTreeMap::new();
        for step in &steps {
            take_step(&mut router, &mut model, &filters, step);
            // However many levels they have.
            prop_assert!(router.node_counts().0 <= 2 * router.filter_count());
            topics.iter().for_each(|name| check_topic(&mut router, &model, name));
        }
        let subscriptions: usize = model.values().map(|wanted| wanted.subscribers.len()).sum();
        prop_assert_eq!(router.subscription_count(), subscriptions);
        prop_assert_eq!(
            router.filter_count(),
            model.values().filter(|wanted| wanted.is_wanted()).count()
        );
        // Everybody leaves, and nothing stays behind.
        for (text, wanted) in std::mem::take(&mut model) {
            for &shard in wanted.shards.keys() {
                router.set_interest(ShardId(shard), &filter(&text), Interest::NONE);
            }
            for &index in wanted.subscribers.keys() {
                let key = router.find(&filter(&text)).expect("somebody wants it");
                prop_assert!(router.unsubscribe(key, session(index)).is_some());
            }
        }
        topics.iter().for_each(|name| check_topic(&mut router, &model, name));
        prop_assert_eq!((router.filter_count(), router.subscription_count()), (0, 0));
        prop_assert_eq!((router.node_counts().0, router.filter_bytes()), (0, 0));
    }

    #[test]
    fn the_same_calls_give_the_same_answers(
        filters in vec(filter_text(), 12),
        topics in vec(topic_text(), 4),
        steps in vec(step(), 1..40),
    ) {
        let run = || {
            let mut router = router();
            let mut model = BTreeMap::new();
            let mut answers = Vec::new();
            for step in &steps {
                take_step(&mut router, &mut model, &filters, step);
                for name in &topics {
                    let matches = router.matches(topic(name));
                    answers.extend(matches.targets.iter().map(|target| target.session.index));
                    for &group in &matches.groups {
                        answers.push(match router.pick(group) {
                            Some(Pick::Local(target)) => target.session.index,
                            Some(Pick::Remote(shard, _)) => u32::from(shard.0) + 1000,
                            None => 2000,
                        });
                    }
                }
            }
            answers
        };
        prop_assert_eq!(run(), run());
    }
}

// --- A table of topics seen before, against none.

/// What happens between two look-ups.
#[derive(Clone, Debug)]
enum Turn {
    Filter(Step),
    /// Topics from one number on.
    LookUp(u32, u32),
    /// Other access rules.
    Rules(u32),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => step().prop_map(Turn::Filter),
        6 => (0..300_u32, 1..60_u32).prop_map(|(first, count)| Turn::LookUp(first, count)),
        1 => (0..4_u32).prop_map(Turn::Rules),
    ]
}

/// Few first levels, so that filters match many; some are too long to stand beside what is known of them.
fn numbered_topic(number: u32) -> String {
    let first = ["a", "b", "", "c"][number as usize % 4];
    let second = ["a", "b", "$x"][number as usize / 4 % 3];
    let last = if number.is_multiple_of(7) {
        "a level that is too long for its node"
    } else {
        ""
    };
    format!("{first}/{second}/{number}{last}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_table_of_any_size_answers_as_none(
        filters in vec(filter_text(), 12),
        turns in vec(turn(), 1..120),
        sets_max in prop_oneof![Just(8_usize), Just(16), Just(128)],
        heap_max in prop_oneof![Just(0_usize), Just(500), Just(5_000), Just(1 << 20)],
    ) {
        use super::cache::Cache;
        let (mut remembering, mut plain) = (router(), router());
        remembering.cache = Cache::with_bounds(sets_max, heap_max);
        let mut models = [BTreeMap::new(), BTreeMap::new()];
        let mut rules = 0;
        for turn in &turns {
            match turn {
                Turn::Filter(step) => {
                    take_step(&mut remembering, &mut models[0], &filters, step);
                    take_step(&mut plain, &mut models[1], &filters, step);
                }
                Turn::LookUp(first, count) => for number in *first..first + count {
                    let name = numbered_topic(number);
                    let may_read = |session: SessionKey| {
                        rules == 0 || !(session.index + number + rules).is_multiple_of(5)
                    };
                    plain.cache = Cache::default();
                    let wanted = plain.matches_of(topic(&name), may_read);
                    // Whoever still has the last ones keeps them.
                    let found = remembering.matches_of(topic(&name), may_read);
                    prop_assert_eq!(&found.targets, &wanted.targets);
                    prop_assert_eq!(&found.shards, &wanted.shards);
                    prop_assert_eq!(&found.groups, &wanted.groups);
                },
                Turn::Rules(other) => {
                    rules = *other;
                    remembering.forget_matches();
                    plain.forget_matches();
                }
            }
            remembering.cache.audit();
            prop_assert!(remembering.cached_counts().0 <= 7 * sets_max);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_look_up_over_turns_finds_what_one_at_once_finds_whatever_comes_between(
        filters in vec(filter_text(), 12),
        before in vec(step(), 1..60),
        between in vec(vec(step(), 0..4), 0..24),
        topic_text in topic_text(),
        most in 1..5_usize,
        denied in 2..6_u32,
        is_guarded in any::<bool>(),
    ) {
        let (mut slow, mut plain) = (router(), router());
        let mut models = [BTreeMap::new(), BTreeMap::new()];
        let mut take = |slow: &mut Router, plain: &mut Router, step: &Step| {
            take_step(slow, &mut models[0], &filters, step);
            take_step(plain, &mut models[1], &filters, step);
        };
        for step in &before {
            take(&mut slow, &mut plain, step);
        }
        let may_read = |session: SessionKey| !is_guarded || !session.index.is_multiple_of(denied);
        let mut between = between.iter();
        let mut look_up = slow.begin_look_up(topic(&topic_text));
        let found = loop {
            if !slow.is_right(&look_up) {
                match slow.begin_look_up_anew(look_up) {
                    Some(begun) => look_up = begun,
                    None => break slow.matches_of(topic(&topic_text), may_read),
                }
            }
            let (found, took) = slow.continue_look_up(&mut look_up, is_guarded, most, may_read);
            prop_assert!(took <= 3 * most, "{took}");
            if let Some(found) = found {
                prop_assert!(slow.is_right(&look_up));
                break found;
            }
            for step in between.next().into_iter().flatten() {
                take(&mut slow, &mut plain, step);
            }
        };
        let wanted = plain.matches_of(topic(&topic_text), may_read);
        prop_assert_eq!(&found.targets, &wanted.targets);
        prop_assert_eq!(&found.shards, &wanted.shards);
        prop_assert_eq!(&found.groups, &wanted.groups);
        prop_assert_eq!(found.receivers(), wanted.receivers());
        slow.cache.audit();
        // Nothing that filters needed stays behind.
        prop_assert_eq!(slow.node_counts(), plain.node_counts());
        let again = slow.remembered(topic_text.as_bytes());
        prop_assert!(again.is_some_and(|it| Rc::ptr_eq(&it, &found)));
    }
}

#[test]
fn a_topic_that_takes_more_nodes_or_questions_than_may_be_is_not_looked_up_at_once() {
    let mut router = router();
    for index in 0..100 {
        subscribe(&mut router, "t/#", index);
    }
    let (mut asked, name) = (0, topic("t/1"));
    assert!(router.look_up_some(name, true, 99, |_| true).is_none());
    assert!(router.look_up_some(name, false, 1, |_| true).is_none());
    assert!(router.look_up_some(name, false, 2, |_| true).is_some());
    // Of those that it has by these rules nobody is asked again.
    subscribe(&mut router, "t/1", 1);
    let found = router.look_up_some(name, true, 99, |_| {
        asked += 1;
        true
    });
    assert_eq!(found.map(|(matches, _)| matches.receivers()), Some(100));
    assert!(asked <= 1);
}

// --- Shared Subscriptions across shards.

/// Shards that tell each other at once what they want.
struct Cluster {
    routers: Vec<Router>,
    /// Messages by shard and Session.
    received: BTreeMap<(usize, u32), u32>,
}

const GROUP: &str = "$share/g/a/+";

impl Cluster {
    fn new(members: &[u32]) -> Self {
        let count = members.len();
        let routers = (0..count)
            .map(|index| Router::new(ShardId(index as u16), count))
            .collect();
        let mut cluster = Self {
            routers,
            received: BTreeMap::new(),
        };
        for (shard, &members) in members.iter().enumerate() {
            for index in 0..members {
                cluster.received.insert((shard, index), 0);
                let done = cluster.routers[shard].subscribe(
                    &filter(GROUP),
                    session(index),
                    options(QoS::AtLeastOnce),
                    None,
                    true,
                );
                assert!(done.announce);
                let interest = cluster.routers[shard].interest(done.filter);
                for other in (0..count).filter(|&other| other != shard) {
                    let from = ShardId(shard as u16);
                    cluster.routers[other].set_interest(from, &filter(GROUP), interest);
                }
            }
        }
        cluster
    }

    fn publish(&mut self, shard: usize) {
        let matches = self.routers[shard].matches(topic("a/b"));
        // One copy a group [MQTT-4.8.2-4].
        assert_eq!(matches.groups.len(), 1);
        let received = match self.routers[shard].pick(matches.groups[0]) {
            Some(Pick::Local(target)) => (shard, target.session.index),
            Some(Pick::Remote(other, text)) => {
                let other = other.index();
                let target = self.routers[other]
                    .pick_local(&text)
                    .expect("it has members");
                (other, target.session.index)
            }
            None => panic!("the group has members"),
        };
        *self.received.get_mut(&received).expect("it is a member") += 1;
    }

    fn unfairness(&self) -> u32 {
        let most = self.received.values().max().expect("there are members");
        most - self.received.values().min().expect("there are members")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// [MQTT-4.8.2-4]
    #[test]
    fn a_publisher_is_fair_to_members_on_all_shards(
        members in vec(0..6_u32, 1..6).prop_filter("members", |all| all.iter().sum::<u32>() > 0),
        publisher in 0..6_usize,
    ) {
        let mut cluster = Cluster::new(&members);
        let publisher = publisher % members.len();
        for _ in 0..200 {
            cluster.publish(publisher);
            prop_assert!(cluster.unfairness() <= 1, "{:?}", cluster.received);
        }
    }

    #[test]
    fn publishers_on_many_shards_are_each_fair(
        members in vec(0..6_u32, 1..6).prop_filter("members", |all| all.iter().sum::<u32>() > 0),
        publishers in vec(0..6_usize, 200),
    ) {
        let mut cluster = Cluster::new(&members);
        for publisher in publishers {
            cluster.publish(publisher % members.len());
            prop_assert!(cluster.unfairness() <= members.len() as u32, "{:?}", cluster.received);
        }
    }
}

// --- Retained messages.

fn message(name: &str, payload: &str) -> Arc<Message> {
    expiring_message(name, payload, None)
}

fn expiring_message(name: &str, payload: &str, expires_at: Option<Instant>) -> Arc<Message> {
    Arc::new(Message::new(MessageRef {
        topic_name: name.as_bytes(),
        properties: b"",
        payload: payload.as_bytes(),
        qos: QoS::AtLeastOnce,
        retain: true,
        expires_at,
    }))
}

fn version(clock: u64, shard: u16) -> RetainedVersion {
    RetainedVersion {
        clock,
        shard: ShardId(shard),
    }
}

fn replay(router: &Router, text: &str, now: Instant) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    router.for_each_retained(&filter(text), now, |message| {
        let parts = (**message).as_ref();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let again = found.insert(text(parts.topic_name), text(parts.payload));
        assert_eq!(again, None, "each topic once");
    });
    found
}

/// [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7]
#[test]
fn the_last_retained_message_stays_until_an_empty_one() {
    let mut router = router();
    assert!(router.retain(&message("a/b", "1"), version(1, 1)));
    assert!(router.retain(&message("a/b", "2"), version(2, 1)));
    assert_eq!(replay(&router, "a/b", Instant::ZERO)["a/b"], "2");
    assert_eq!((router.retained_count(), router.retained_bytes()), (1, 4));
    assert!(router.retain(&message("a/b", ""), version(3, 1)));
    assert!(replay(&router, "#", Instant::ZERO).is_empty());
    let counts = (
        router.retained_count(),
        router.tombstone_count(),
        router.retained_bytes(),
    );
    assert_eq!(counts, (0, 1, 0));
    assert_eq!(router.node_counts().1, 0);
    // A write that was overtaken.
    assert!(!router.retain(&message("a/b", "late"), version(2, 5)));
    router.forget_tombstones_below(3, usize::MAX);
    assert_eq!(router.tombstone_count(), 1);
    router.forget_tombstones_below(4, usize::MAX);
    assert_eq!(router.tombstone_count(), 0);
    assert!(router.retain(&message("a/b", "new"), version(4, 0)));
    assert_eq!(
        router.retained(topic("a/b")).map(|(_, version)| version),
        Some(version(4, 0))
    );
}

/// [MQTT-3.3.2-5]
#[test]
fn expired_retained_messages_are_not_replayed() {
    let mut router = router();
    let at = Instant::ZERO.add_seconds(10);
    router.retain(&expiring_message("a/b", "1", Some(at)), version(1, 1));
    router.retain(&message("a/c", "2"), version(2, 1));
    assert_eq!(
        replay(&router, "a/+", Instant::ZERO.add_seconds(9)).len(),
        2
    );
    assert_eq!(replay(&router, "a/+", at).len(), 1);
    assert_eq!(replay(&router, "a/b", at).len(), 0);
    assert_eq!(router.next_retained_expiry(), Some(at));
    assert_eq!(router.expire_retained(Instant::ZERO, 10), 0);
    assert_eq!(router.expire_retained(at, 10), 1);
    assert_eq!(
        (router.retained_count(), router.next_retained_expiry()),
        (1, None)
    );
    // What was written before the message that expired stays overtaken.
    assert!(!router.retain(&message("a/b", "old"), version(0, 9)));
    assert!(!router.retain(&expiring_message("a/b", "1", Some(at)), version(1, 1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Against the rule: what was there when the walk began and has not been written since.
    #[test]
    fn a_walk_in_steps_finds_what_was_there_at_its_beginning_and_is_unchanged(
        topics in vec(topic_text(), 12),
        text in filter_text(),
        before in vec((0..12_usize, any::<bool>()), 0..30),
        meanwhile in vec(((0..12_usize, any::<bool>()), 1..4_usize), 0..30),
    ) {
        let mut router = router();
        let mut clock = 0;
        let mut write = |router: &mut Router, (name, keeps): (usize, bool)| {
            clock += 1;
            let payload = if keeps { "x" } else { "" };
            router.retain(&message(&topics[name], payload), version(clock, 0));
        };
        for change in before {
            write(&mut router, change);
        }
        let mut expected = replay(&router, &text, Instant::ZERO);
        let mut walk = router.begin_retained_walk();
        let mut found = BTreeSet::new();
        let mut steps = meanwhile.into_iter();
        while !walk.is_over() {
            let next = steps.next();
            let visits_max = next.map_or(usize::MAX, |(_, visits_max)| visits_max);
            let visits = router.continue_retained_walk(&mut walk, &filter(&text), visits_max, Instant::ZERO, |it, is_later| {
                if is_later {
                    return;
                }
                let name = String::from_utf8(it.topic_name().to_vec()).expect("UTF-8");
                assert!(found.insert(name), "each topic once");
            });
            prop_assert!(visits <= visits_max);
            if let Some((change, _)) = next {
                // What was found before it changed stays found.
                if !found.contains(&topics[change.0]) {
                    expected.remove(&topics[change.0]);
                }
                write(&mut router, change);
            }
        }
        prop_assert_eq!(&found, &expected.into_keys().collect::<BTreeSet<_>>());
        drop(walk);
        // Nothing of what had to stay meanwhile stays for good.
        for name in 0..topics.len() {
            write(&mut router, (name, false));
        }
        router.tidy_retained(usize::MAX);
        prop_assert_eq!((router.retained_count(), router.node_counts().1), (0, 0));
    }

    /// Replicas see the writes of each shard in its order, and of different shards in any.
    #[test]
    fn replicas_converge(
        topics in vec(topic_text(), 8),
        filters in vec(filter_text(), 8),
        writes in vec((0..3_u16, 0..8_usize, prop_oneof![Just(""), Just("x"), Just("y")]), 0..60),
        clocks in vec(0..3_u64, 60),
        orders in vec(vec(0..3_u16, 60), 3),
    ) {
        // Clocks only rise within a shard; equal ones on two shards are told apart by the shard.
        let mut queues: [Vec<(usize, &str, u64)>; 3] = Default::default();
        for ((shard, name, payload), step) in writes.into_iter().zip(clocks) {
            let queue = &mut queues[usize::from(shard)];
            let clock = queue.last().map_or(0, |&(_, _, clock)| clock) + 1 + step;
            queue.push((name % topics.len(), payload, clock));
        }
        let mut latest = BTreeMap::<&str, (RetainedVersion, &str)>::new();
        for (queue, shard) in queues.iter().zip(0..) {
            for &(name, payload, clock) in queue {
                let entry = latest.entry(&topics[name]).or_default();
                *entry = (*entry).max((version(clock, shard), payload));
            }
        }
        for order in orders {
            let mut router = router();
            let mut next = [0; 3];
            // The order first, then what it left over.
            let rest = (0..3).flat_map(|shard| std::iter::repeat_n(shard, 60));
            for shard in order.into_iter().chain(rest) {
                let position = &mut next[usize::from(shard)];
                let Some(&(name, payload, clock)) = queues[usize::from(shard)].get(*position) else {
                    continue;
                };
                *position += 1;
                router.retain(&message(&topics[name], payload), version(clock, shard));
            }
            let live = |text: &str| -> BTreeMap<String, String> {
                let is_live = |(name, (_, payload)): &(&&str, &(RetainedVersion, &str))| {
                    !payload.is_empty() && filter(text).matches(topic(name))
                };
                let owned = |(name, (_, payload)): (&&str, &(RetainedVersion, &str))| {
                    ((*name).to_owned(), (*payload).to_owned())
                };
                latest.iter().filter(is_live).map(owned).collect()
            };
            for text in filters.iter().map(String::as_str).chain(["#", "$x/#", "+/#", "/#"]) {
                prop_assert_eq!(replay(&router, text, Instant::ZERO), live(text), "{}", text);
            }
            for name in &topics {
                prop_assert_eq!(replay(&router, name, Instant::ZERO), live(name), "{}", name);
            }
            let count = latest.values().filter(|(_, payload)| !payload.is_empty()).count();
            prop_assert_eq!(router.retained_count(), count);
            prop_assert_eq!(router.tombstone_count(), latest.len() - count);
            // Everything is removed, and nothing stays behind.
            for name in &topics {
                router.retain(&message(name, ""), version(1000, 0));
            }
            prop_assert_eq!((router.retained_count(), router.node_counts().1), (0, 0));
            router.forget_tombstones_below(1001, usize::MAX);
            prop_assert_eq!(router.tombstone_count(), 0);
            prop_assert_eq!(router.retained_bytes(), 0);
        }
    }
}
