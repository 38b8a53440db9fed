//! A configuration that follows another one.

use super::{good, remarks};
use crate::config::{Config, Protocol, ProxyProtocol, Severity};

fn succeed(old: &str, new: &str) -> Result<Config, String> {
    let (mut old, mut new) = (good(old), good(new));
    old.open_locally(&[], &[]);
    new.open_locally(&[], &[]);
    new.remarks.clear();
    match new.succeed(&old) {
        Ok(()) => Ok(new),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn what_can_change_changes() {
    let new = succeed(
        "listener 1\nmax_qos 2\nlistener 2",
        "allow_anonymous true\nmax_queued_messages 5\nlistener 1\nmax_qos 1\nlistener 2",
    )
    .unwrap();
    let settings = new.settings(&[], 1);
    assert_eq!(settings.policy.limits.max_queued_messages, 5);
    assert_eq!(settings.listeners[0].max_qos as u8, 1);
    assert!(settings.listeners[1].allow_anonymous);
    assert!(new.remarks.is_empty(), "{:?}", new.remarks);
}

#[test]
fn how_connections_to_a_listener_begin_can_change() {
    let new = succeed(
        "listener 1\nprotocol websockets\nhttp_dir a\nwebsockets_origin http://a\nlistener 2\n\
         enable_proxy_protocol 1",
        "listener 1\nprotocol websockets\nhttp_dir b\nwebsockets_origin http://b\n\
         websockets_origin http://c\nlistener 2\nenable_proxy_protocol 2\n\
         proxy_protocol_v2_require_tls true",
    )
    .unwrap();
    let [first, second] = &new.listeners[..] else {
        panic!("two listeners");
    };
    assert_eq!(first.http_dir.as_ref().unwrap().path.to_str(), Some("b"));
    assert_eq!(first.websockets_origins, ["http://b", "http://c"]);
    assert_eq!(second.proxy_protocol, Some(ProxyProtocol::V2));
    assert!(second.proxy_protocol_v2_require_tls);
    assert!(new.remarks.is_empty(), "{:?}", new.remarks);
    let gone = succeed("listener 1\nenable_proxy_protocol 1", "listener 1").unwrap();
    assert_eq!(gone.listeners[0].proxy_protocol, None);
}

#[test]
fn a_listener_can_begin_and_cease_to_be_encrypted_or_a_web_socket() {
    let kinds = [
        "listener 1",
        "listener 1\ncertfile c\nkeyfile k",
        "listener 1\nprotocol websockets",
        "listener 1\nprotocol websockets\ncertfile c\nkeyfile k",
    ];
    for old in kinds {
        for new in kinds {
            let succeeded = succeed(old, new).unwrap();
            let [listener] = &succeeded.listeners[..] else {
                panic!("one listener");
            };
            assert_eq!(listener.has_tls(), new.contains("certfile"));
            let is_web_socket = listener.protocol == Protocol::Websockets;
            assert_eq!(is_web_socket, new.contains("websockets"));
            assert!(!listener.is_closed);
            assert!(succeeded.remarks.is_empty(), "{:?}", succeeded.remarks);
        }
    }
}

#[test]
fn what_counts_at_the_start_only_stays_and_is_remarked() {
    let new = succeed(
        "pid_file a\nfastmq_cores 1\nlistener 1\nmount_point a/\nbind_interface a\npersistence false",
        "pid_file b\nfastmq_cores 2\nlistener 1\nmount_point b/\nbind_interface b\npersistence true",
    )
    .unwrap();
    assert_eq!(new.pid_file.as_ref().unwrap().path.to_str(), Some("a"));
    assert_eq!(new.cores, Some(1));
    assert!(!new.persistence.enabled);
    assert_eq!(new.listeners[0].policy.mount_point.as_deref(), Some("a/"));
    let said = remarks(&new, Severity::Warning).join("\n");
    for name in [
        "pid_file",
        "fastmq_cores",
        "mount_point",
        "bind_interface",
        "persistence",
    ] {
        assert!(
            said.contains(&format!("'{name}' has changed")),
            "{name}: {said}"
        );
    }
    assert!(
        said.contains("m.conf:1") && said.contains("m.conf:6"),
        "{said}"
    );
}

#[test]
fn a_directive_that_is_gone_or_new_has_changed_too() {
    let said = |old, new| remarks(&succeed(old, new).unwrap(), Severity::Warning).join("\n");
    let later = "that counts from the next start on";
    assert_eq!(
        said("user a\nlistener 1", "listener 1"),
        format!("Warning: 'user' is gone, which means mosquitto: {later}")
    );
    assert_eq!(
        said("listener 1\nbind_interface a", "\nlistener 1"),
        format!("Warning: 'bind_interface' is gone: {later} (m.conf:2)"),
        "the line of its listener"
    );
    assert_eq!(
        said("listener 1", "listener 1\nuser a"),
        format!("Warning: 'user' has changed: {later} (m.conf:2)")
    );
    assert_eq!(said("user a\nlistener 1", "listener 1\nuser a"), "");
    assert_eq!(
        said("listener 1", "set_tcp_nodelay true\nlistener 1"),
        "",
        "the default"
    );
    assert_eq!(
        said("listener 1\nmount_point a/\nlistener 2", "listener 2"),
        ""
    );
}

#[test]
fn a_change_that_waits_for_the_next_start_is_remarked_at_each_reload_until_it_is_taken_back() {
    let runs = "user a\nlistener 1\nmount_point a/";
    let changed = "listener 1\n\nmount_point b/\nlistener 2\nmount_point c/";
    let mut config = good(runs);
    for (text, expected) in [
        (changed, 2),
        (changed, 2),
        (runs, 0),
        (runs, 0),
        (changed, 2),
    ] {
        let mut next = good(text);
        next.succeed(&config).unwrap();
        let said = remarks(&next, Severity::Warning);
        assert_eq!(said.len(), expected, "{text:?}: {said:?}");
        if expected > 0 {
            assert!(said[0].contains("'user' is gone"), "{said:?}");
            assert!(said[1].contains("'mount_point' has changed"), "{said:?}");
            assert!(said[1].ends_with("(m.conf:3)"), "{said:?}");
        }
        config = next;
    }
}

#[test]
fn listeners_may_change_their_order_and_keep_their_place() {
    let new = succeed(
        "listener 1\nmax_qos 0\nlistener 2\nmount_point x/",
        "listener 2\nmount_point x/\nlistener 1\nmax_qos 1",
    )
    .unwrap();
    assert_eq!(new.listeners[0].address.to_string(), "1");
    assert_eq!(new.listeners[0].policy.max_qos as u8, 1);
    assert!(new.remarks.is_empty(), "{:?}", new.remarks);
}

/// The addresses of the listeners, and which of them are closed.
fn listeners(config: &Config) -> Vec<(String, bool)> {
    config
        .listeners
        .iter()
        .map(|listener| (listener.address.to_string(), listener.is_closed))
        .collect()
}

#[test]
fn a_new_listener_comes_last_and_one_that_is_gone_keeps_its_place() {
    let new = succeed("listener 1\nlistener 2", "listener 3\nlistener 2").unwrap();
    let said = |name: &str, is_closed| (name.to_owned(), is_closed);
    assert_eq!(
        listeners(&new),
        [said("1", true), said("2", false), said("3", false)]
    );
    assert!(new.remarks.is_empty(), "{:?}", new.remarks);
    // One that comes back is another one: connections of the old one may still be there.
    let mut again = good("listener 1\nlistener 2\nlistener 3");
    again.succeed(&new).unwrap();
    let is_closed: Vec<_> = again.listeners.iter().map(|it| it.is_closed).collect();
    assert_eq!(is_closed, [true, false, false, false]);
    assert_eq!(again.listeners[3].address.to_string(), "1");
}

#[test]
fn what_was_open_to_this_machine_only_closes_when_there_is_a_listener() {
    let new = succeed("", "listener 1").unwrap();
    assert_eq!(
        listeners(&new),
        [("1883 localhost".to_owned(), true), ("1".to_owned(), false)]
    );
    // Nobody asked for anonymous clients on it.
    assert!(!new.settings(&[], 1).listeners[1].allow_anonymous);
    assert!(succeed("", "max_qos 1").unwrap().listeners.len() == 1);
}

#[test]
fn bridges_are_those_of_the_new_configuration_and_their_lines_do_not_matter() {
    let a = "connection a\naddress h\ntopic x\nbridge_reload_type immediate\n";
    let b = "connection b\naddress h\ntopic x\n";
    let old = good(&format!("listener 1\n{a}{b}"));
    let mut new = good(&format!("{b}listener 1\n\n{a}"));
    new.succeed(&old).unwrap();
    let names: Vec<_> = new.bridges.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    assert!(remarks(&new, Severity::Warning).is_empty());
    assert!(new.bridges[1].is_reloaded_at_once && !new.bridges[0].is_reloaded_at_once);
    assert!(new.bridges[1].says_the_same_as(&old.bridges[0]));
    for line in ["topic y", "round_robin true", "bridge_cafile x"] {
        let mut new = good(&format!("listener 1\n{a}{line}\n"));
        new.succeed(&old).unwrap();
        assert!(!new.bridges[0].says_the_same_as(&old.bridges[0]), "{line}");
    }
}
