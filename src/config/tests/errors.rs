//! What an operator reads when something is wrong, and where.

use super::{Memory, bad, good, remarks};
use crate::config::{Config, LogTypes, Scope, Severity, Status, all};

#[test]
fn every_mistake_is_named_with_file_line_and_directive() {
    // The text, the line of the mistake, what is said of it.
    let cases: [(&str, usize, &str); 44] = [
        ("frob 1", 1, "Unknown configuration variable 'frob'."),
        (
            "\n# a\nallow_anonymus true",
            3,
            "Unknown configuration variable 'allow_anonymus'. Did you mean 'allow_anonymous'?",
        ),
        (
            "allow_anonymous",
            1,
            "Empty 'allow_anonymous' value in configuration.",
        ),
        (
            "allow_anonymous #",
            1,
            "Empty 'allow_anonymous' value in configuration.",
        ),
        (
            "allow_anonymous maybe",
            1,
            "Invalid 'allow_anonymous' value (maybe): it must be true or false.",
        ),
        (
            "allow_anonymous True",
            1,
            "Invalid 'allow_anonymous' value (True)",
        ),
        (
            "max_keepalive",
            1,
            "Empty 'max_keepalive' value in configuration.",
        ),
        (
            "max_keepalive long",
            1,
            "'max_keepalive' value not a number (long).",
        ),
        (
            "max_keepalive 10s",
            1,
            "'max_keepalive' value not a number (10s).",
        ),
        (
            "max_keepalive 65536",
            1,
            "Invalid 'max_keepalive' value (65536): it must be from 0 to 65535.",
        ),
        ("max_keepalive -1", 1, "Invalid 'max_keepalive' value (-1)"),
        (
            "max_packet_size 19",
            1,
            "Invalid 'max_packet_size' value (19)",
        ),
        (
            "max_inflight_messages 65536",
            1,
            "Invalid 'max_inflight_messages' value (65536)",
        ),
        ("sys_interval -1", 1, "Invalid 'sys_interval' value (-1)"),
        (
            "message_size_limit 268435456",
            1,
            "Invalid 'message_size_limit' value",
        ),
        ("memory_limit -1", 1, "Invalid 'memory_limit' value (-1)"),
        (
            "password_file",
            1,
            "Empty 'password_file' value in configuration.",
        ),
        (
            "password_file \t ",
            1,
            "Empty 'password_file' value in configuration.",
        ),
        (
            "password_file /a\u{7}b",
            1,
            "Invalid 'password_file' value (/a\\u{7}b): it holds a control character.",
        ),
        (
            "pid_file a\npid_file b",
            2,
            "Duplicate 'pid_file' value in configuration: it was given at m.conf:1 already.",
        ),
        ("listener", 1, "Empty 'listener' value in configuration."),
        ("listener mqtt", 1, "'listener' value not a number (mqtt)."),
        ("listener 65536", 1, "Invalid 'port' value (65536)"),
        ("listener -1", 1, "Invalid 'port' value (-1)"),
        (
            "listener 0",
            1,
            "A listener with port 0 must provide a Unix socket path.",
        ),
        (
            "listener 1883\nlistener 1883",
            2,
            "There is a listener 1883 already, at m.conf:1.",
        ),
        ("port 0", 1, "Invalid 'port' value (0)"),
        (
            "mount_point a/",
            1,
            "The 'mount_point' option requires a listener to be defined first: it belongs below the 'listener' line that it is for.",
        ),
        (
            "listener 1\nmount_point a/#",
            2,
            "Invalid 'mount_point' value (a/#)",
        ),
        (
            "listener 1\nprotocol http_api",
            2,
            "Invalid 'protocol' value (http_api): it must be mqtt or websockets.",
        ),
        (
            "listener 1\naccept_protocol_versions 6",
            2,
            "Invalid 'accept_protocol_versions' value (6)",
        ),
        (
            "listener 1\naccept_protocol_versions ,",
            2,
            "Empty 'accept_protocol_versions' value in configuration.",
        ),
        ("listener 1\nmax_qos 3", 2, "Invalid 'max_qos' value (3)"),
        (
            "listener 1\nenable_proxy_protocol 3",
            2,
            "Invalid 'enable_proxy_protocol' value (3)",
        ),
        (
            "listener 1\nsocket_domain ipv5",
            2,
            "Invalid 'socket_domain' value (ipv5)",
        ),
        (
            "listener 1\ntls_version tlsv1.1",
            2,
            "Invalid 'tls_version' value (tlsv1.1)",
        ),
        (
            "listener 1\ntls_keyform engine",
            2,
            "Invalid 'tls_keyform' value (engine)",
        ),
        ("log_dest dlt", 1, "Invalid 'log_dest' value (dlt)"),
        (
            "log_dest file",
            1,
            "Empty 'log_dest' value in configuration.",
        ),
        ("log_type chatter", 1, "Invalid 'log_type' value (chatter)"),
        (
            "persistent_client_expiration 2",
            1,
            "Invalid 'persistent_client_expiration' value (2)",
        ),
        (
            "fastmq_durability sometimes",
            1,
            "Invalid 'fastmq_durability' value (sometimes)",
        ),
        ("fastmq_cores 0", 1, "Invalid 'fastmq_cores' value (0)"),
        (
            "fastmq_admin_listener 1 home",
            1,
            "Invalid 'fastmq_admin_listener' value (home)",
        ),
    ];
    for (text, line, said) in cases {
        let error = bad(text);
        let expected = format!("Error: {said}");
        assert!(error.starts_with(&expected), "{text:?} said {error:?}");
        let place = format!("\nError found at m.conf:{line}.");
        assert!(error.ends_with(&place), "{text:?} said {error:?}");
    }
}

#[test]
fn longer_prefixes_than_mosquittos_are_refused() {
    let prefix = "x".repeat(51);
    assert!(bad(format!("auto_id_prefix {prefix}")).contains("its length must be <= 50"));
    good(&format!("auto_id_prefix {}", "x".repeat(50)));
}

#[test]
fn bytes_that_are_no_text_are_an_error_except_in_a_comment() {
    assert!(bad(b"user \xff\xfe").contains("Malformed UTF-8"));
    assert!(super::parse(b"# \xff\xfe\nuser me").is_ok());
}

#[test]
fn every_refused_directive_is_refused_with_its_reason_wherever_it_stands() {
    let mut count = 0;
    for directive in all() {
        let Status::Refused { why } = directive.status else {
            continue;
        };
        count += 1;
        let name = directive.name.replace('*', "path");
        for before in ["", "listener 1883\n"] {
            let error = bad(format!("{before}{name} x"));
            assert!(error.contains(&format!("'{name}'")), "{error}");
            assert!(error.contains(why), "{error}");
        }
    }
    assert!(
        count > 15,
        "plugins, engines, PSK and some of bridges: {count}"
    );
}

#[test]
fn every_directive_without_effect_says_so() {
    for directive in all() {
        let Status::NoEffect { why } = directive.status else {
            continue;
        };
        let config = good(&format!("listener 1883\n{} 1", directive.name));
        let said = remarks(&config, Severity::Warning);
        assert_eq!(said.len(), 1, "{}: {said:?}", directive.name);
        assert!(
            said[0].contains(directive.name) && said[0].contains(why),
            "{said:?}"
        );
        assert!(said[0].contains("m.conf:2"), "{said:?}");
    }
}

#[test]
fn what_means_nothing_on_a_unix_socket_is_said() {
    let config =
        good("listener 0 /s\nbind_interface lo\nsocket_domain ipv4\nlistener 1\nbind_interface lo");
    let said = remarks(&config, Severity::Warning);
    assert_eq!(said.len(), 2, "{said:?}");
    for (said, name, line) in [
        (&said[0], "bind_interface", 2),
        (&said[1], "socket_domain", 3),
    ] {
        let expected = format!("Warning: {name} has no effect on a unix socket (m.conf:{line})");
        assert_eq!(*said, expected);
    }
}

#[test]
fn what_means_nothing_beside_other_settings_of_tls_is_said() {
    let tls = "listener 1\ncertfile c\nkeyfile k\n";
    for (rest, said) in [
        (
            "ciphers A\ntls_version tlsv1.3",
            "ciphers has no effect with `tls_version tlsv1.3` (m.conf:4)",
        ),
        (
            "disable_client_cert_date_checks true",
            "disable_client_cert_date_checks has no effect without `require_certificate true` \
             (m.conf:4)",
        ),
    ] {
        let config = good(&format!("{tls}{rest}"));
        assert_eq!(
            remarks(&config, Severity::Warning),
            [format!("Warning: {said}")]
        );
    }
    let all = "cafile a\nrequire_certificate true\ndisable_client_cert_date_checks true\nciphers A";
    let config = good(&format!("{tls}{all}"));
    assert!(remarks(&config, Severity::Warning).is_empty());
}

#[test]
fn bounds_of_handshakes_are_said_to_mean_nothing_where_there_are_none() {
    for name in ["fastmq_handshake_timeout", "fastmq_max_pending_connections"] {
        let config = good(&format!("listener 1\n{name} 7"));
        let expected = format!(
            "Warning: {name} has no effect on a listener without TLS, WebSockets and PROXY headers \
             (m.conf:2)"
        );
        assert_eq!(remarks(&config, Severity::Warning), [expected]);
        for wrapped in [
            "certfile c\nkeyfile k",
            "protocol websockets",
            "enable_proxy_protocol 1",
        ] {
            let config = good(&format!("listener 1\n{name} 7\n{wrapped}"));
            assert!(remarks(&config, Severity::Warning).is_empty(), "{wrapped}");
        }
    }
}

#[test]
fn a_type_of_log_lines_that_there_are_none_of_is_said() {
    let config = good("log_type error\nlog_type internal");
    assert_eq!(config.log.types, LogTypes::ERROR);
    let said = remarks(&config, Severity::Warning);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("'log_type internal' changes nothing"),
        "{said:?}"
    );
    assert!(said[0].contains("m.conf:2"), "{said:?}");
    // Alone it leaves the lines that there are by default, that one among them.
    let config = good("log_type internal");
    assert_eq!(config.log.types, LogTypes::DEFAULT);
    assert_eq!(
        good("log_type internal\nlog_type error").log.types,
        LogTypes::ERROR
    );
}

#[test]
fn of_a_megabyte_that_is_wrong_as_much_is_shown_as_tells_what_it_is() {
    let long = "ü".repeat(1 << 19);
    for text in [
        long.clone(),
        format!("{long} 1"),
        format!("allow_anonymous {long}"),
        format!("max_keepalive {long}"),
        format!("max_keepalive 1{long}"),
        format!("log_type {long}"),
        format!("log_dest {long}"),
        format!("include_dir /{long}"),
        format!("listener {long}"),
        format!("listener 1 \u{1}{long}"),
        format!("listener 1 {long}\nlistener 1 {long}"),
        format!("protocol {long}"),
        format!("tls_version {long}"),
        format!("plugin_opt_{long} 1"),
        format!("password_file a\u{1}{long}"),
        format!("persistent_client_expiration {long}"),
        format!("accept_protocol_versions {long}"),
        format!("clientid_prefixes a\u{1}{long}"),
        format!("fastmq_cores {long}"),
        format!("fastmq_admin_listener {long}"),
        format!("fastmq_admin_listener 1 {long}"),
        format!("fastmq_durability {long}"),
        format!("fastmq_durability interval {long}"),
        format!("enable_proxy_protocol {long}"),
        format!("ciphers {long}"),
        format!("certfile {long}"),
        format!("password_file {long}"),
        format!("log_dest file {long}"),
        format!("persistence_location {long}"),
        format!("listener 1\nprotocol websockets\nhttp_dir {long}"),
    ] {
        let Err(error) = super::parse(&text) else {
            continue;
        };
        let error = error.to_string();
        assert!(error.len() < 1000, "{} bytes: {error:.300}", error.len());
    }
    let config = good(&format!(
        "allow_anonymous true {long}\nretry_interval {long}"
    ));
    for said in remarks(&config, Severity::Warning) {
        assert!(said.len() < 1000, "{} bytes: {said:.300}", said.len());
    }
}

#[test]
fn a_comment_behind_the_name_of_a_directory_is_named_as_the_reason_why_there_is_no_such() {
    let error = bad("include_dir /nowhere # mine");
    assert!(error.contains("'/nowhere # mine'"), "{error}");
    assert!(error.contains("a comment has a line of its own"), "{error}");
    assert!(!bad("include_dir /nowhere").contains("comment"));
}

#[test]
fn every_listener_directive_that_needs_a_listener_says_so() {
    for directive in all() {
        if let Scope::OwnListener(_) = directive.scope {
            let error = bad(format!("{} 1", directive.name));
            assert!(
                error.contains("requires a listener to be defined first"),
                "{}: {error}",
                directive.name
            );
        }
    }
}

#[test]
fn contradictions_are_found_and_named_with_the_line_of_their_directive() {
    let tls = "listener 1\ncertfile c\nkeyfile k\n";
    let cases = [
        ("listener 1\ncertfile c".to_owned(), "Both certfile and keyfile", 2),
        ("listener 1\nkeyfile k".to_owned(), "Both certfile and keyfile", 2),
        ("listener 1\ncafile c".to_owned(), "cafile specified without", 2),
        ("listener 1\ncapath c".to_owned(), "capath specified without", 2),
        ("listener 1\ncrlfile c".to_owned(), "crlfile specified without", 2),
        ("listener 1\nciphers c".to_owned(), "ciphers specified without", 2),
        ("listener 1\nciphers_tls1.3 c".to_owned(), "ciphers_tls1.3 specified without", 2),
        ("listener 1\nrequire_certificate true".to_owned(), "require_certificate specified without", 2),
        ("listener 1\ntls_version tlsv1.3".to_owned(), "tls_version specified without", 2),
        (
            "listener 1\ndisable_client_cert_date_checks true".to_owned(),
            "disable_client_cert_date_checks specified without",
            2,
        ),
        (format!("{tls}require_certificate true"), "needs cafile or capath", 4),
        (format!("{tls}cafile a\ncrlfile r"), "crlfile needs require_certificate", 5),
        (format!("{tls}use_identity_as_username true"), "use_identity_as_username needs", 4),
        (format!("{tls}use_subject_as_username true"), "use_subject_as_username needs", 4),
        (format!("{tls}enable_proxy_protocol 2"), "cannot be used with `enable_proxy_protocol 2`", 2),
        (
            "listener 1\nenable_proxy_protocol 2\nrequire_certificate true\nuse_subject_as_username true".to_owned(),
            "use_subject_as_username cannot be used",
            4,
        ),
        ("listener 1\nproxy_protocol_v2_require_tls true".to_owned(), "needs `enable_proxy_protocol 2`", 2),
        ("listener 1\nwebsockets_origin http://a".to_owned(), "needs `protocol websockets`", 2),
        ("fastmq_admin_listener 9 0.0.0.0".to_owned(), "needs fastmq_admin_token_file", 1),
        ("fastmq_admin_token_file t".to_owned(), "without fastmq_admin_listener", 1),
    ];
    for (text, said, line) in cases {
        let error = bad(&text);
        assert!(error.contains(said), "{text:?} said {error:?}");
        let place = format!("\nError found at m.conf:{line}.");
        assert!(error.ends_with(&place), "{text:?} said {error:?}");
    }
    good(&format!(
        "{tls}cafile a\nrequire_certificate true\nuse_identity_as_username true"
    ));
    good(
        "listener 1\nenable_proxy_protocol 2\nrequire_certificate true\nuse_identity_as_username true",
    );
    good("fastmq_admin_listener 9 0.0.0.0\nfastmq_admin_token_file t");
}

#[test]
fn errors_in_included_files_have_their_place() {
    let files = Memory::default()
        .with("m.conf", "user me\ninclude_dir d")
        .with("d/a.conf", "\nfrob");
    let error = Config::parse("m.conf", &files).unwrap_err().to_string();
    assert!(error.ends_with("Error found at d/a.conf:2."), "{error}");
    let nested = files.with("d/a.conf", "include_dir e");
    let error = Config::parse("m.conf", &nested).unwrap_err().to_string();
    assert!(
        error.contains("only valid in the main configuration file"),
        "{error}"
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let error = Config::parse("none.conf", &Memory::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Error: Unable to open config file 'none.conf': No such file or directory."
    );
    let error = bad("include_dir nowhere");
    assert!(
        error.contains("Unable to open include_dir 'nowhere'"),
        "{error}"
    );
    assert!(error.contains("m.conf:1"), "{error}");
}

#[test]
fn what_follows_a_value_is_not_ignored_in_silence() {
    let config = good("max_keepalive 60 seconds");
    let said = remarks(&config, Severity::Warning);
    assert_eq!(
        said,
        ["Warning: 'seconds' after the value of 'max_keepalive' is ignored (m.conf:1)"]
    );
    let config = good("max_keepalive 60 # seconds");
    assert!(
        config.remarks.is_empty(),
        "a comment may follow: {:?}",
        config.remarks
    );
}

#[test]
fn a_value_that_is_replaced_is_noticed() {
    let config = good("user a\n\nuser b");
    assert_eq!(config.user.as_deref(), Some("b"));
    assert_eq!(
        remarks(&config, Severity::Notice),
        ["'user' replaces the value given at m.conf:1 (m.conf:3)"]
    );
    let config = good("listener 1\nmax_qos 1\nlistener 2\nmax_qos 0");
    assert!(config.remarks.is_empty(), "not the same listener");
}
