//! A listener's mount point: what begins every topic of its Clients, unseen by them.
//!
//! Put in front of what they publish, subscribe to and leave as a Will; taken off what they are sent.

#![forbid(unsafe_code)]

use std::borrow::Cow;

use crate::topic::TopicName;

/// `filter` below `mount_point`. The part of a Shared Subscription that is not a filter stays in front.
pub(super) fn mounted_filter<'a>(mount_point: Option<&str>, filter: &'a str) -> Cow<'a, str> {
    let Some(mount_point) = mount_point else {
        return Cow::Borrowed(filter);
    };
    let topic_at = filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.find('/'))
        .map_or(0, |end| "$share/".len() + end + 1);
    let (share, topic) = filter.split_at(topic_at);
    Cow::Owned(format!("{share}{mount_point}{topic}"))
}

/// `topic_name` below `mount_point`, unless that is too long or too deep to be one.
pub(super) fn mounted_topic<'a>(
    mount_point: Option<&str>,
    topic_name: &'a str,
) -> Option<Cow<'a, str>> {
    let mounted = match mount_point {
        Some(mount_point) => Cow::Owned(format!("{mount_point}{topic_name}")),
        None => Cow::Borrowed(topic_name),
    };
    TopicName::new(&mounted).is_ok().then_some(mounted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::TOPIC_LEVELS_MAX;

    #[test]
    fn the_mount_point_stands_before_the_filter_and_behind_the_share_name() {
        assert_eq!(mounted_filter(None, "a/#"), "a/#");
        assert_eq!(mounted_filter(Some("m/"), "a/#"), "m/a/#");
        assert_eq!(mounted_filter(Some("m/"), "$share/g/a/#"), "$share/g/m/a/#");
        assert_eq!(mounted_filter(Some("m/"), "$SYS/#"), "m/$SYS/#");
    }

    #[test]
    fn a_topic_that_the_mount_point_makes_too_deep_or_too_long_is_none() {
        assert_eq!(mounted_topic(Some("m/"), "a").as_deref(), Some("m/a"));
        assert_eq!(mounted_topic(None, "a").as_deref(), Some("a"));
        let deep = vec!["x"; TOPIC_LEVELS_MAX].join("/");
        assert_eq!(mounted_topic(None, &deep).as_deref(), Some(&*deep));
        assert_eq!(mounted_topic(Some("m/"), &deep), None);
        let long = "x".repeat(65_534);
        assert!(mounted_topic(Some("m"), &long).is_some());
        assert_eq!(mounted_topic(Some("m/"), &long), None);
    }
}
