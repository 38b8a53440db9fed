//! The table of directives: every one of Mosquitto 2.1's mosquitto.conf(5), and fastmq's own.
//!
//! Parser, manual page, example file and the list of differences are made from it, so none of them
//! can know a directive that another does not.

#![forbid(unsafe_code)]

mod bridge;
mod general;
mod listener;
mod log;
mod messages;
mod own;
mod persistence;
mod plugin;
mod security;
mod tls;

use super::directive::Directive;

/// Directives of one subject.
#[derive(Debug)]
pub struct Section {
    /// Its heading in the manual.
    pub title: &'static str,
    /// What its directives have in common.
    pub introduction: &'static str,
    /// The directives.
    pub directives: &'static [Directive],
}

/// All directives, by subject.
pub static DIRECTIVES: [Section; 10] = [
    general::SECTION,
    security::SECTION,
    messages::SECTION,
    log::SECTION,
    persistence::SECTION,
    listener::SECTION,
    tls::SECTION,
    own::SECTION,
    bridge::SECTION,
    plugin::SECTION,
];

/// All directives.
pub fn all() -> impl Iterator<Item = &'static Directive> {
    DIRECTIVES.iter().flat_map(|section| section.directives)
}

/// The directive that a file calls `name`.
pub(super) fn find(name: &str) -> Option<&'static Directive> {
    all().find(|directive| directive.is_named(name))
}

/// The directive that somebody who wrote `name` may have meant.
pub(super) fn similar(name: &str) -> Option<&'static str> {
    // Longer names are nobody's slip, and the comparison is quadratic.
    if name.len() > 40 {
        return None;
    }
    let slips_max = name.len().div_ceil(6);
    all()
        .filter(|directive| !directive.name.ends_with('*'))
        .map(|directive| (distance(name, directive.name), directive.name))
        .min()
        .filter(|&(slips, _)| slips <= slips_max)
        .map(|(_, name)| name)
}

/// How many characters have to be added, left out or changed to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, from) in a.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let cost = if from == *to { diagonal } else { diagonal + 1 };
            diagonal = *cell;
            left = cost.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::config::directive::Status;
    use std::collections::BTreeSet;

    /// Every name that Mosquitto 2.1's parser knows.
    const MOSQUITTO: &str = "
        accept_protocol_versions acl_file address addresses allow_anonymous allow_duplicate_messages
        allow_zero_length_clientid auth_opt_* auth_plugin auth_plugin_deny_special_chars auto_id_prefix
        autosave_interval autosave_on_changes bind_address bind_interface bridge_alpn
        bridge_attempt_unsubscribe bridge_bind_address bridge_cafile bridge_capath bridge_certfile
        bridge_ciphers bridge_ciphers_tls1.3 bridge_identity bridge_insecure bridge_keyfile
        bridge_max_packet_size bridge_max_topic_alias bridge_outgoing_retain bridge_protocol_version
        bridge_psk bridge_receive_maximum bridge_reload_type bridge_require_ocsp
        bridge_session_expiry_interval bridge_tcp_keepalive bridge_tcp_user_timeout
        bridge_tls_use_os_certs bridge_tls_version cafile capath certfile check_retain_source ciphers
        ciphers_tls1.3 cleansession clientid clientid_prefixes connection connection_messages crlfile
        dhparamfile disable_client_cert_date_checks enable_control_api enable_proxy_protocol
        global_max_clients global_max_connections global_plugin http_dir idle_timeout include_dir
        keepalive_interval keyfile listener listener_allow_anonymous listener_auto_id_prefix
        local_cleansession local_clientid local_password local_username log_dest log_facility
        log_timestamp log_timestamp_format log_type max_connections max_inflight_bytes
        max_inflight_messages max_keepalive max_packet_size max_qos max_queued_bytes max_queued_messages
        max_topic_alias max_topic_alias_broker maximum_qos memory_limit message_size_limit mount_point
        notification_topic notifications notifications_local_only packet_buffer_size password
        password_file per_listener_settings persistence persistence_file persistence_location
        persistent_client_expiration pid_file plugin plugin_load plugin_opt_* plugin_use port protocol
        proxy_protocol_v2_require_tls psk_file psk_hint queue_qos0_messages remote_clientid
        remote_password remote_username require_certificate restart_timeout retain_available
        retain_expiry_interval retained_persistence retry_interval round_robin set_tcp_nodelay
        socket_domain start_type store_clean_interval sys_interval threshold tls_engine tls_engine_kpass_sha1 tls_keyform
        tls_version topic try_private upgrade_outgoing_qos use_identity_as_username
        use_subject_as_username use_username_as_clientid user username websockets_headers_size
        websockets_log_level websockets_origin";

    #[test]
    fn every_directive_of_mosquitto_is_in_the_table_and_every_other_one_is_our_own() {
        let theirs: BTreeSet<&str> = MOSQUITTO.split_whitespace().collect();
        let ours: BTreeSet<&str> = all().map(|directive| directive.name).collect();
        let missing: Vec<_> = theirs.difference(&ours).collect();
        assert!(missing.is_empty(), "{missing:?}");
        for name in ours.difference(&theirs) {
            assert!(name.starts_with("fastmq_"), "{name}");
        }
    }

    #[test]
    fn names_are_unique_and_every_row_is_complete() {
        let mut seen = BTreeSet::new();
        for directive in all() {
            assert!(seen.insert(directive.name), "{} twice", directive.name);
            assert!(!directive.syntax.is_empty(), "{}", directive.name);
            assert!(!directive.text.is_empty(), "{}", directive.name);
            assert!(directive.text.ends_with('.'), "{}", directive.name);
            if let Status::Refused { why } | Status::NoEffect { why } = directive.status {
                assert!(why.ends_with('.'), "{}: {why}", directive.name);
            }
        }
    }

    #[test]
    fn prefixes_hide_no_other_directive() {
        for directive in all().filter(|directive| !directive.name.ends_with('*')) {
            assert_eq!(find(directive.name).unwrap().name, directive.name);
        }
        assert_eq!(find("plugin_opt_path").unwrap().name, "plugin_opt_*");
        assert!(find("plugin_opt").is_none());
        assert!(find("").is_none());
    }

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        assert_eq!(similar("allow_anonymus"), Some("allow_anonymous"));
        assert_eq!(similar("max_quos"), Some("max_qos"));
        assert_eq!(similar("listner"), Some("listener"));
        assert_eq!(similar("frobnicate"), None);
        assert_eq!(similar(""), None);
        assert_eq!(similar(&"x".repeat(1000)), None);
    }

    #[test]
    fn distance_counts_slips() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
