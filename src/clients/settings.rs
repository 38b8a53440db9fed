//! What the connection's options mean together.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::process;

use super::arguments::ConnectionArguments;
use super::failure::Failure;
use super::properties::{Properties, pairs};
use super::url::Url;
use crate::codec::{Connect, ConnectProperties, ForwardedProperties, UserProperties, Will};
use crate::message::{ProtocolVersion, QoS};
use crate::topic::TopicName;

/// Where to connect to, and in what wrapping.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub target: Target,
    pub bind_address: Option<String>,
    pub nodelay: bool,
    pub tls: Option<TlsSettings>,
    /// Path of the WebSocket, if it is to be one.
    pub web_socket: Option<String>,
}

/// The other end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Target {
    /// Whose certificate TLS expects.
    pub fn host(&self) -> &str {
        match self {
            Self::Tcp { host, .. } => host,
            Self::Unix(_) => "localhost",
        }
    }

    /// Host and port as a URL has them.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => f.write_str(&self.authority()),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// How to trust and to be trusted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsSettings {
    pub cafile: Option<PathBuf>,
    pub capath: Option<PathBuf>,
    pub use_os_certs: bool,
    /// Certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub insecure: bool,
    pub version: Option<String>,
    pub alpn: Option<String>,
}

/// What CONNECT says, and all that both commands need.
#[derive(Clone, Debug)]
pub struct Settings {
    pub endpoint: Endpoint,
    pub version: ProtocolVersion,
    pub client_identifier: String,
    pub clean_start: bool,
    pub keep_alive_s: u16,
    pub username: Option<String>,
    pub password: Option<String>,
    pub session_expiry: Option<u32>,
    pub will: Option<WillSettings>,
    pub properties: Properties,
    pub debug: bool,
    pub quiet: bool,
    /// Topic of the URL.
    pub url_topic: Option<String>,
}

/// The Will.
#[derive(Clone, Debug)]
pub struct WillSettings {
    pub topic_name: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub retain: bool,
    forwarded: Vec<u8>,
}

const PORT: u16 = 1883;
const PORT_TLS: u16 = 8883;
/// A Keep Alive below this is refused, as by Mosquitto's clients, unless it is 0.
const KEEP_ALIVE_MIN_S: u16 = 5;
/// A Session Expiry Interval that never ends.
const NEVER: u32 = u32::MAX;

impl Settings {
    /// Checks the options against each other.
    ///
    /// # Errors
    /// [`Failure::Usage`] that names the options.
    pub fn new(arguments: &ConnectionArguments) -> Result<Self, Failure> {
        arguments.refused.check()?;
        let properties = arguments.properties.parse()?;
        let version = version(arguments)?;
        let url = arguments.url.as_deref().map(Url::parse).transpose()?;
        let url = url.unwrap_or_default();
        let endpoint = endpoint(arguments, &url)?;
        let username = arguments.username.clone().or(url.username);
        let password = arguments.password.clone().or(url.password);
        if password.is_some() && username.is_none() && !version.is_v5() {
            // [v3.1.1 MQTT-3.1.2-22]
            return usage("-P needs -u, except in MQTT 5");
        }
        if (1..KEEP_ALIVE_MIN_S).contains(&arguments.keepalive) {
            return usage("-k has to be 0 or at least 5");
        }
        let clean_start = !arguments.disable_clean_session;
        let session_expiry = session_expiry(arguments, version, &properties)?;
        let client_identifier = client_identifier(arguments, version)?;
        if arguments.id.is_none() && arguments.id_prefix.is_none() {
            if !clean_start {
                return usage("-c needs a client identifier, see -i");
            }
            if session_expiry == Some(NEVER) {
                return usage("a session that never ends needs a client identifier, see -i");
            }
        }
        for text in [
            Some(&client_identifier),
            username.as_ref(),
            password.as_ref(),
        ] {
            if text.is_some_and(|text| text.len() > usize::from(u16::MAX)) {
                return usage("-i, -u and -P can have 65535 bytes at most");
            }
        }
        Ok(Self {
            endpoint,
            version,
            client_identifier,
            clean_start,
            keep_alive_s: arguments.keepalive,
            username,
            password,
            session_expiry,
            will: will(arguments, &properties)?,
            properties,
            debug: arguments.debug,
            quiet: arguments.quiet,
            url_topic: url.topic,
        })
    }

    /// Gives `send` the CONNECT, which borrows from these settings.
    pub fn with_connect(&self, send: impl FnOnce(&Connect<'_>)) {
        let properties = &self.properties.connect;
        let user_properties = pairs(&properties.user_properties);
        let mut connect = Connect::new(self.version, &self.client_identifier);
        connect.clean_start = self.clean_start;
        connect.keep_alive_s = self.keep_alive_s;
        connect.username = self.username.as_deref();
        connect.password = self.password.as_deref().map(str::as_bytes);
        connect.will = self.will.as_ref().map(|will| Will {
            qos: will.qos,
            retain: will.retain,
            topic_name: &will.topic_name,
            payload: &will.payload,
            delay_interval_s: self.properties.will_delay_interval_s,
            message_expiry_interval_s: self.properties.will.message_expiry_interval_s,
            properties: ForwardedProperties::from_encoded(&will.forwarded),
        });
        connect.properties = ConnectProperties {
            session_expiry_interval: self.session_expiry,
            receive_maximum: properties.receive_maximum,
            maximum_packet_size: properties.maximum_packet_size,
            topic_alias_maximum: properties.topic_alias_maximum,
            request_response_information: properties.request_response_information,
            request_problem_information: !properties.omit_problem_information,
            user_properties: UserProperties::new(&user_properties),
            authentication_method: properties.authentication_method.as_deref(),
            authentication_data: properties.authentication_data.as_deref(),
        };
        send(&connect);
    }
}

fn usage<T>(said: &str) -> Result<T, Failure> {
    Err(Failure::Usage(said.to_owned()))
}

fn version(arguments: &ConnectionArguments) -> Result<ProtocolVersion, Failure> {
    let has_properties = !arguments.properties.is_empty();
    let version = match arguments.version.as_deref() {
        None if has_properties => ProtocolVersion::V5,
        None | Some("mqttv311" | "311") => ProtocolVersion::V311,
        Some("mqttv31" | "31") => ProtocolVersion::V3,
        Some("mqttv5" | "5") => ProtocolVersion::V5,
        Some(other) => {
            let said = format!("-V {other}: the versions are mqttv31, mqttv311 and mqttv5");
            return Err(Failure::Usage(said));
        }
    };
    if has_properties && !version.is_v5() {
        return usage("-D needs -V mqttv5: earlier versions have no properties");
    }
    Ok(version)
}

fn endpoint(arguments: &ConnectionArguments, url: &Url) -> Result<Endpoint, Failure> {
    let has_url = arguments.url.is_some();
    if has_url && (arguments.host.is_some() || arguments.port.is_some()) {
        return usage("-L says the host and the port: not together with -h or -p");
    }
    if arguments.unix.is_some() {
        if has_url || arguments.host.is_some() || arguments.port.is_some() {
            return usage("--unix is instead of -h, -p and -L");
        }
        if arguments.bind_address.is_some() || arguments.nodelay {
            return usage("-A and --nodelay are for TCP: not together with --unix");
        }
    }
    let has_authority =
        arguments.cafile.is_some() || arguments.capath.is_some() || arguments.tls_use_os_certs;
    let port = arguments.port.or(url.port);
    let wants_tls = has_authority || url.tls || port == Some(PORT_TLS);
    if arguments.no_tls && (has_authority || url.tls) {
        return usage("--no-tls contradicts the options that ask for TLS");
    }
    let tls = (wants_tls && !arguments.no_tls).then(|| TlsSettings {
        cafile: arguments.cafile.clone(),
        capath: arguments.capath.clone(),
        use_os_certs: arguments.tls_use_os_certs || !has_authority,
        identity: arguments.cert.clone().zip(arguments.key.clone()),
        insecure: arguments.insecure,
        version: arguments.tls_version.clone(),
        alpn: arguments.tls_alpn.clone(),
    });
    if tls.is_none() {
        for (given, name) in [
            (arguments.cert.is_some(), "--cert and --key need"),
            (arguments.insecure, "--insecure needs"),
            (arguments.tls_version.is_some(), "--tls-version needs"),
            (arguments.tls_alpn.is_some(), "--tls-alpn needs"),
        ] {
            if given {
                let how = "TLS: give --cafile, --capath or --tls-use-os-certs";
                return Err(Failure::Usage(format!("{name} {how}")));
            }
        }
    }
    let web_socket = arguments.ws || url.web_socket;
    if !web_socket && arguments.ws_path.is_some() {
        return usage("--ws-path needs --ws");
    }
    let ws_path = arguments.ws_path.as_deref().unwrap_or("/mqtt");
    if !ws_path.starts_with('/') {
        return usage("--ws-path has to begin with a slash");
    }
    let target = match &arguments.unix {
        Some(path) => Target::Unix(path.clone()),
        None => Target::Tcp {
            host: match &arguments.host {
                Some(host) => host.clone(),
                None if has_url => url.host.clone(),
                None => "localhost".to_owned(),
            },
            port: port.unwrap_or(match (web_socket, tls.is_some()) {
                (false, false) => PORT,
                (false, true) => PORT_TLS,
                (true, false) => 80,
                (true, true) => 443,
            }),
        },
    };
    Ok(Endpoint {
        target,
        bind_address: arguments.bind_address.clone(),
        nodelay: arguments.nodelay,
        tls,
        web_socket: web_socket.then(|| ws_path.to_owned()),
    })
}

fn session_expiry(
    arguments: &ConnectionArguments,
    version: ProtocolVersion,
    properties: &Properties,
) -> Result<Option<u32>, Failure> {
    let Some(text) = arguments.session_expiry.as_deref() else {
        let of_property = properties.connect.session_expiry;
        let of_clean = (arguments.disable_clean_session && version.is_v5()).then_some(NEVER);
        return Ok(of_property.or(of_clean));
    };
    if !version.is_v5() {
        return usage("-x needs -V mqttv5: in earlier versions a session ends, or never with -c");
    }
    if properties.connect.session_expiry.is_some() {
        return usage("-x and -D connect session-expiry-interval say the same: give one of them");
    }
    if text == "-1" || text == "∞" {
        return Ok(Some(NEVER));
    }
    match text.parse() {
        Ok(seconds) => Ok(Some(seconds)),
        Err(_) => usage("-x has to be 0 to 4294967295, or -1 for a session that never ends"),
    }
}

fn client_identifier(
    arguments: &ConnectionArguments,
    version: ProtocolVersion,
) -> Result<String, Failure> {
    Ok(match (&arguments.id, &arguments.id_prefix) {
        (Some(_), Some(_)) => return usage("-i and -I cannot be used together"),
        (Some(id), None) if id.is_empty() => {
            return usage("-i is empty: without it the broker chooses a client identifier");
        }
        (Some(id), None) => id.clone(),
        (None, Some(prefix)) => format!("{prefix}{}", process::id()),
        // MQTT 3.1 knows no empty one, and wants at most 23 characters.
        (None, None) if version == ProtocolVersion::V3 => {
            let state = std::hash::RandomState::new();
            let random = std::hash::BuildHasher::hash_one(&state, process::id());
            format!("fastmq-{random:016x}")
        }
        (None, None) => String::new(),
    })
}

fn will(
    arguments: &ConnectionArguments,
    properties: &Properties,
) -> Result<Option<WillSettings>, Failure> {
    let Some(topic_name) = &arguments.will_topic else {
        let has_properties =
            properties.will != Default::default() || properties.will_delay_interval_s != 0;
        if arguments.will_payload.is_some()
            || arguments.will_qos.is_some()
            || arguments.will_retain
            || has_properties
        {
            return usage("a Will needs --will-topic");
        }
        return Ok(None);
    };
    if TopicName::new(topic_name).is_err() {
        return Err(Failure::Usage(format!(
            "--will-topic {topic_name}: a topic to publish to is not empty and has no + or #"
        )));
    }
    let payload = arguments
        .will_payload
        .clone()
        .unwrap_or_default()
        .into_bytes();
    if payload.len() > usize::from(u16::MAX) {
        return usage("--will-payload can have 65535 bytes at most");
    }
    Ok(Some(WillSettings {
        topic_name: topic_name.clone(),
        payload,
        qos: QoS::from_bits(arguments.will_qos.unwrap_or(0)).unwrap_or_default(),
        retain: arguments.will_retain,
        forwarded: properties.will.forwarded(),
    }))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::SubArguments;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        sub: SubArguments,
    }

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let all = std::iter::once(&"sub").chain(arguments);
        let parsed = Command::try_parse_from(all).map_err(|error| error.to_string())?;
        Settings::new(&parsed.sub.connection).map_err(|error| error.to_string())
    }

    fn target(arguments: &[&str]) -> (String, u16, bool, bool) {
        let endpoint = settings(arguments).unwrap().endpoint;
        let Target::Tcp { host, port } = endpoint.target else {
            panic!("{arguments:?}")
        };
        (
            host,
            port,
            endpoint.tls.is_some(),
            endpoint.web_socket.is_some(),
        )
    }

    #[test]
    fn ports_follow_the_wrapping() {
        let local = |port, tls, ws| ("localhost".to_owned(), port, tls, ws);
        assert_eq!(target(&[]), local(1883, false, false));
        assert_eq!(target(&["--cafile", "ca"]), local(8883, true, false));
        assert_eq!(target(&["-p", "8883"]), local(8883, true, false));
        assert_eq!(
            target(&["-p", "8883", "--no-tls"]),
            local(8883, false, false)
        );
        assert_eq!(target(&["--ws"]), local(80, false, true));
        assert_eq!(target(&["--ws", "--cafile", "ca"]), local(443, true, true));
        assert_eq!(
            target(&["-L", "wss://b:9/t"]),
            ("b".to_owned(), 9, true, true)
        );
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let cases: [(&[&str], &str); 24] = [
            (&["-i", "a", "-I", "b"], "-i and -I"),
            (&["-i", ""], "-i is empty"),
            (&["-P", "secret"], "-P needs -u"),
            (&["-k", "3"], "-k"),
            (&["-c"], "-c needs"),
            (&["-x", "-1", "-V", "5"], "never ends"),
            (&["-x", "5"], "-x needs -V mqttv5"),
            (&["-x", "soon", "-V", "5"], "-x has to be"),
            (&["-V", "4"], "-V 4"),
            (
                &["-V", "311", "-D", "connect", "receive-maximum", "1"],
                "-D needs",
            ),
            (&["--will-payload", "x"], "--will-topic"),
            (&["--will-topic", "a/#"], "--will-topic a/#"),
            (&["--will-qos", "1"], "--will-topic"),
            (&["--insecure"], "--insecure needs TLS"),
            (&["--tls-version", "tlsv1.3"], "--tls-version needs TLS"),
            (&["--tls-alpn", "mqtt"], "--tls-alpn needs TLS"),
            (&["--no-tls", "--cafile", "x"], "--no-tls"),
            (&["-L", "mqtt://h/t", "-h", "h"], "-L"),
            (&["--unix", "s", "-h", "h"], "--unix"),
            (&["--unix", "s", "-p", "1884"], "--unix"),
            (&["--unix", "s", "-A", "127.0.0.1"], "--unix"),
            (&["--unix", "s", "--nodelay"], "--unix"),
            (&["--ws-path", "/here"], "--ws-path needs --ws"),
            (&["--ws", "--ws-path", "mqtt"], "slash"),
        ];
        for (arguments, named) in cases {
            let error = settings(arguments).unwrap_err();
            assert!(error.contains(named), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn the_version_and_the_session_follow_mosquitto_s_rules() {
        let version = |arguments: &[&str]| settings(arguments).unwrap().version;
        assert_eq!(version(&[]), ProtocolVersion::V311);
        assert_eq!(version(&["-V", "31"]), ProtocolVersion::V3);
        assert_eq!(
            version(&["-D", "connect", "receive-maximum", "1"]),
            ProtocolVersion::V5
        );
        let expiry = |arguments: &[&str]| settings(arguments).unwrap().session_expiry;
        assert_eq!(expiry(&["-V", "5"]), None);
        assert_eq!(expiry(&["-V", "5", "-c", "-i", "a"]), Some(NEVER));
        assert_eq!(expiry(&["-V", "5", "-c", "-i", "a", "-x", "9"]), Some(9));
        assert_eq!(expiry(&["-c", "-i", "a"]), None);
        // The later one of an option given twice counts.
        assert_eq!(expiry(&["-V", "5", "-x", "9", "-x", "8"]), Some(8));
    }

    #[test]
    fn mqtt_3_1_gets_an_identifier_of_legal_length() {
        let id = settings(&["-V", "31"]).unwrap().client_identifier;
        assert!((1..=23).contains(&id.len()), "{id}");
        assert_eq!(settings(&[]).unwrap().client_identifier, "");
    }
}
