//! To which listener a directive belongs, and which listeners there are.

use super::{Memory, bad, good, remarks};
use crate::config::{Config, ListenAddress, Protocol, Severity};
use std::path::PathBuf;

fn tcp(host: Option<&str>, port: u16) -> ListenAddress {
    ListenAddress::Tcp {
        host: host.map(str::to_owned),
        port,
    }
}

fn addresses(config: &Config) -> Vec<ListenAddress> {
    config
        .listeners
        .iter()
        .map(|listener| listener.address.clone())
        .collect()
}

#[test]
fn listeners_are_ports_addresses_names_and_sockets() {
    let config = good(
        "listener 1883\nlistener 1884 10.0.0.1\nlistener 1885 ::1 # v6\nlistener 1886 example.org\n\
         listener 0 /run/mqtt.sock\nlistener 0 127.0.0.1\nlistener 0 127.0.0.1",
    );
    assert_eq!(
        addresses(&config),
        [
            tcp(None, 1883),
            tcp(Some("10.0.0.1"), 1884),
            tcp(Some("::1"), 1885),
            tcp(Some("example.org"), 1886),
            ListenAddress::Unix(PathBuf::from("/run/mqtt.sock")),
            tcp(Some("127.0.0.1"), 0),
            tcp(Some("127.0.0.1"), 0),
        ]
    );
    assert!(!config.is_local_only);
}

#[test]
fn directives_belong_to_the_listener_above_them() {
    let config = good("listener 1\nmax_qos 1\nlistener 2\nprotocol websockets\nmax_connections 7");
    let [one, two] = &config.listeners[..] else {
        panic!("{:?}", config.listeners);
    };
    assert_eq!((one.policy.max_qos as u8, two.policy.max_qos as u8), (1, 2));
    assert_eq!(
        (one.protocol, two.protocol),
        (Protocol::Mqtt, Protocol::Websockets)
    );
    assert_eq!(
        (one.policy.max_connections, two.policy.max_connections),
        (None, Some(7))
    );
}

#[test]
fn port_and_bind_address_make_the_default_listener() {
    let config = good("port 1884\nbind_address 10.0.0.1\nmax_qos 1\nlistener 1885");
    assert_eq!(
        addresses(&config),
        [tcp(Some("10.0.0.1"), 1884), tcp(None, 1885)]
    );
    assert_eq!(config.listeners[0].policy.max_qos as u8, 1);
    assert!(!config.is_local_only);
    let said = remarks(&config, Severity::Notice).join("\n");
    assert!(
        said.contains("The 'port' option is deprecated in Mosquitto"),
        "{said}"
    );
    assert!(
        said.contains("The 'bind_address' option is deprecated"),
        "{said}"
    );
}

#[test]
fn a_listener_directive_before_any_listener_makes_the_default_one() {
    let config = good("max_connections 5\nlistener 1884");
    assert_eq!(addresses(&config), [tcp(None, 1883), tcp(None, 1884)]);
    assert_eq!(config.listeners[0].policy.max_connections, Some(5));
    let said = remarks(&config, Severity::Notice).join("\n");
    assert!(
        said.contains("Creating default listener due to 'max_connections'"),
        "{said}"
    );
}

#[test]
fn without_a_listener_only_this_machine_may_connect_and_anonymously() {
    let mut config = good("max_connections 5");
    assert!(config.is_local_only);
    config.open_locally(&[], &[]);
    assert_eq!(addresses(&config), [ListenAddress::Loopback { port: 1883 }]);
    for listener in config.settings(&[], 1).listeners {
        assert!(listener.allow_anonymous);
        assert_eq!(listener.max_connections, Some(5), "not lost");
    }
}

#[test]
fn ports_and_addresses_of_the_command_line_count_without_a_listener_only() {
    let mut config = good("");
    config.open_locally(&["10.0.0.1".parse().unwrap()], &[1884, 1885]);
    assert_eq!(
        addresses(&config),
        [tcp(Some("10.0.0.1"), 1884), tcp(Some("10.0.0.1"), 1885)]
    );
    let mut config = good("listener 1");
    config.open_locally(&["10.0.0.1".parse().unwrap()], &[1884]);
    assert_eq!(addresses(&config), [tcp(None, 1)]);
}

#[test]
fn anonymous_clients_are_refused_unless_allowed() {
    let allowed = |text: &str| -> Vec<bool> {
        let mut config = good(text);
        config.open_locally(&[], &[]);
        let settings = config.settings(&[], 1);
        settings
            .listeners
            .iter()
            .map(|listener| listener.allow_anonymous)
            .collect()
    };
    assert_eq!(allowed("listener 1"), [false]);
    assert_eq!(allowed("port 1"), [false]);
    assert_eq!(
        allowed("listener 1\nallow_anonymous true\nlistener 2"),
        [true, true]
    );
    assert_eq!(
        allowed("allow_anonymous true\nlistener 1\nlistener_allow_anonymous false\nlistener 2"),
        [false, true]
    );
    assert_eq!(
        allowed("per_listener_settings true\nlistener 1\nallow_anonymous true\nlistener 2"),
        [true, false]
    );
    assert_eq!(allowed("allow_anonymous false"), [false]);
    assert_eq!(allowed(""), [true]);
}

#[test]
fn per_listener_settings_moves_security_to_the_listener() {
    let text = "listener 1\npassword_file p1\nacl_file a1\nlistener 2\npassword_file p2";
    let config = good(&format!("per_listener_settings true\n{text}"));
    let paths = |index: usize| {
        let files = config.security_files(&config.listeners[index]);
        let path = |file: Option<&crate::config::FileReference>| {
            file.map(|file| file.path.to_str().unwrap().to_owned())
        };
        (path(files.password_file), path(files.acl_file))
    };
    assert_eq!(paths(0), (Some("p1".into()), Some("a1".into())));
    assert_eq!(paths(1), (Some("p2".into()), None));
    let config = good(text);
    for listener in &config.listeners {
        let files = config.security_files(listener);
        assert_eq!(
            files.password_file.unwrap().path,
            PathBuf::from("p2"),
            "the last one counts"
        );
        assert_eq!(files.acl_file.unwrap().path, PathBuf::from("a1"));
        assert_eq!(files.acl_file.unwrap().place.to_string(), "m.conf:3");
    }
}

#[test]
fn per_listener_settings_comes_first_and_stays() {
    let error = bad("allow_anonymous true\nper_listener_settings true");
    assert!(
        error.contains("must be set before any other security settings"),
        "{error}"
    );
    assert!(
        error.contains("'allow_anonymous' was given at m.conf:1"),
        "{error}"
    );
    let error = bad("per_listener_settings true\nallow_anonymous true");
    assert!(
        error.contains("requires a listener to be defined first"),
        "{error}"
    );
    let config = good(
        "per_listener_settings true\nper_listener_settings false\nlistener 1\nallow_anonymous true",
    );
    assert!(config.per_listener_settings);
    assert_eq!(remarks(&config, Severity::Warning).len(), 1);
    good("allow_anonymous true\nper_listener_settings false");
}

#[test]
fn identifiers_follow_the_listener_then_the_broker() {
    let config = good(
        "auto_id_prefix all-\nallow_zero_length_clientid false\nlistener 1\nlistener_auto_id_prefix one-\n\
         listener 2",
    );
    let settings = config.settings(&[], 1);
    assert_eq!(&*settings.listeners[0].auto_id_prefix, "one-");
    assert_eq!(&*settings.listeners[1].auto_id_prefix, "all-");
    assert!(!settings.listeners[0].allow_zero_length_clientid);
    assert_eq!(
        &*good("listener 1").settings(&[], 1).listeners[0].auto_id_prefix,
        "auto-"
    );
}

#[test]
fn included_files_are_read_in_mosquittos_order() {
    let mut files = Memory::default().with("m.conf", "include_dir d/");
    for name in ["b.conf", "A.conf", "01.conf", "a.conf", "B.conf", "00.conf"] {
        files = files.with(&format!("d/{name}"), format!("user {name}"));
    }
    let files = files.with("d/c.txt", "frob").with("d/.conf", "frob");
    let config = Config::parse("m.conf", &files).unwrap();
    let read: Vec<String> = remarks(&config, Severity::Information);
    let order = ["00", "01", "A", "a", "B", "b"];
    let expected: Vec<String> = order
        .iter()
        .map(|name| format!("Loading config file 'd/{name}.conf' (m.conf:1)"))
        .collect();
    assert_eq!(read, expected);
    assert_eq!(
        config.user.as_deref(),
        Some("b.conf"),
        "the last one counts"
    );
}

#[test]
fn a_listener_does_not_reach_into_included_files_and_is_there_again_behind_them() {
    let files = Memory::default()
        .with("m.conf", "listener 1\ninclude_dir d\nmax_qos 0")
        .with("d/a.conf", "listener 2\nmax_qos 1")
        .with("d/b.conf", "mount_point x/");
    let error = Config::parse("m.conf", &files).unwrap_err().to_string();
    assert!(
        error.contains("requires a listener") && error.contains("d/b.conf:1"),
        "{error}"
    );
    let files = files.with("d/b.conf", "");
    let config = Config::parse("m.conf", &files).unwrap();
    let qos: Vec<u8> = config
        .listeners
        .iter()
        .map(|one| one.policy.max_qos as u8)
        .collect();
    assert_eq!(qos, [0, 1]);
}

#[test]
fn there_is_a_bound_for_listeners() {
    let text: String = (1..=1025)
        .map(|port| format!("listener {port}\n"))
        .collect();
    assert!(bad(text).contains("More than 1024 listeners"));
}
