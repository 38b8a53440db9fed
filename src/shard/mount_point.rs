//! A listener's mount point: what begins every topic of its Clients, unseen by them.
//!
//! Put in front of what they publish, subscribe to and leave as a Will; taken off what they are sent.

#![forbid(unsafe_code)]

use std::borrow::Cow;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_stands_before_the_filter_and_behind_the_share_name() {
        assert_eq!(mounted_filter(None, "a/#"), "a/#");
        assert_eq!(mounted_filter(Some("m/"), "a/#"), "m/a/#");
        assert_eq!(mounted_filter(Some("m/"), "$share/g/a/#"), "$share/g/m/a/#");
        assert_eq!(mounted_filter(Some("m/"), "$SYS/#"), "m/$SYS/#");
    }
}
