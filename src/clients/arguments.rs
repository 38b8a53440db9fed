//! The options, with the letters and words that Mosquitto's clients gave them.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::properties::PropertyArguments;
use super::refused::RefusedArguments;

/// Options of `fastmq sub`.
#[derive(Args, Clone, Debug)]
#[command(
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true,
    after_long_help = SUB_AFTER_HELP
)]
pub struct SubArguments {
    /// Topic Filter to subscribe to; may be given more than once
    #[arg(
        short,
        long = "topic",
        value_name = "FILTER",
        allow_hyphen_values = true
    )]
    pub topics: Vec<String>,

    /// Do not print messages whose topic matches this; may be given more than once
    #[arg(
        short = 'T',
        long = "filter-out",
        value_name = "FILTER",
        allow_hyphen_values = true
    )]
    pub filters_out: Vec<String>,

    /// Topic Filter to unsubscribe from, after subscribing; may be given more than once
    #[arg(
        short = 'U',
        long = "unsubscribe",
        value_name = "FILTER",
        allow_hyphen_values = true
    )]
    pub unsubscribe: Vec<String>,

    /// QoS of all subscriptions
    #[arg(short, long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,

    /// Print the topic before each payload
    #[arg(short, long)]
    pub verbose: bool,

    /// Print messages in this format, see "Format" below
    #[arg(short = 'F', value_name = "FORMAT", allow_hyphen_values = true)]
    pub format: Option<String>,

    /// No end of line after a message
    #[arg(short = 'N')]
    pub no_newline: bool,

    /// JSON over several lines, with the format's %j and %J
    #[arg(long)]
    pub pretty: bool,

    /// End after so many messages
    #[arg(short = 'C', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// End after so many seconds, with exit status 27
    #[arg(short = 'W', value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout_s: Option<u32>,

    /// End as soon as the broker has acknowledged the subscriptions
    #[arg(short = 'E')]
    pub exit_after_subscribing: bool,

    /// Do not print messages that were retained
    #[arg(short = 'R')]
    pub no_retained: bool,

    /// Print retained messages only, and end at the first that is not
    #[arg(long)]
    pub retained_only: bool,

    /// Clear every retained message that arrives and is not filtered out
    #[arg(long)]
    pub remove_retained: bool,

    /// Keep the retain flag as the publisher set it (MQTT 5)
    #[arg(long)]
    pub retain_as_published: bool,

    /// Which retained messages a subscription asks for (MQTT 5)
    #[arg(long, value_name = "WHEN", value_parser = ["always", "new", "never"], default_value = "always")]
    pub retain_handling: String,

    /// Print only about so many percent of the messages
    #[arg(long, value_name = "PERCENT")]
    pub random_filter: Option<f64>,

    /// What both commands have.
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// Options of `fastmq pub`.
#[derive(Args, Clone, Debug)]
#[command(
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true,
    after_long_help = PUB_AFTER_HELP
)]
pub struct PubArguments {
    /// Topic Name to publish to
    #[arg(short, long, value_name = "TOPIC", allow_hyphen_values = true)]
    pub topic: Option<String>,

    /// Publish this text
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: Option<String>,

    /// Publish the content of a file
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Publish each line of standard input
    #[arg(short = 'l', long)]
    pub stdin_line: bool,

    /// Publish an empty message
    #[arg(short, long)]
    pub null_message: bool,

    /// Publish the whole of standard input as one message; there has to be some
    #[arg(short = 's', long)]
    pub stdin_file: bool,

    /// QoS of all messages
    #[arg(short, long, value_name = "QOS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,

    /// Retain the message
    #[arg(short, long)]
    pub retain: bool,

    /// Publish the message so many times
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,

    /// Wait so many seconds after one repetition was delivered and before the next
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub repeat_delay: f64,

    /// Most messages of QoS 1 and 2 that are under way at once
    #[arg(short = 'M', long = "max-inflight", value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    pub inflight_max: u16,

    /// What both commands have.
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// What both have.
#[derive(Args, Clone, Debug)]
pub struct ConnectionArguments {
    /// Broker to connect to [default: localhost]
    #[arg(short, long, value_name = "HOST", help_heading = CONNECTION)]
    pub host: Option<String>,

    /// Port [default: 1883, with TLS 8883, with WebSocket 80 or 443]
    #[arg(short, long, value_name = "PORT", help_heading = CONNECTION, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// User, password, host, port and topic in one.
    // Brackets in a comment would be links.
    #[arg(
        short = 'L',
        long,
        value_name = "URL",
        help_heading = CONNECTION,
        help = "User, password, host, port and topic in one: mqtt://, mqtts://, ws:// or \
                wss://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC"
    )]
    pub url: Option<String>,

    /// Connect to a unix domain socket instead
    #[arg(long, value_name = "PATH", help_heading = CONNECTION)]
    pub unix: Option<PathBuf>,

    /// Connect from this local address
    #[arg(short = 'A', value_name = "ADDRESS", help_heading = CONNECTION)]
    pub bind_address: Option<String>,

    /// Speak through a WebSocket
    #[arg(long, help_heading = CONNECTION)]
    pub ws: bool,

    /// Path of the WebSocket [default: /mqtt]
    #[arg(long, value_name = "PATH", help_heading = CONNECTION)]
    pub ws_path: Option<String>,

    /// Send small packets at once (TCP_NODELAY)
    #[arg(long, help_heading = CONNECTION)]
    pub nodelay: bool,

    /// Protocol version: mqttv31, mqttv311 or mqttv5 (or 31, 311, 5) [default: mqttv311]
    #[arg(short = 'V', long = "protocol-version", value_name = "VERSION", help_heading = CONNECTION)]
    pub version: Option<String>,

    /// Client Identifier [default: the broker assigns one]
    #[arg(short, long, value_name = "ID", help_heading = CONNECTION, allow_hyphen_values = true)]
    pub id: Option<String>,

    /// Client Identifier from this and the process id
    #[arg(short = 'I', long, value_name = "PREFIX", help_heading = CONNECTION, allow_hyphen_values = true)]
    pub id_prefix: Option<String>,

    /// User name
    #[arg(short, long, value_name = "NAME", help_heading = CONNECTION, allow_hyphen_values = true)]
    pub username: Option<String>,

    /// Password
    #[arg(short = 'P', long = "pw", value_name = "PASSWORD", help_heading = CONNECTION, allow_hyphen_values = true)]
    pub password: Option<String>,

    /// Keep alive in seconds, at least 5; 0 turns it off
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60, help_heading = CONNECTION)]
    pub keepalive: u16,

    /// Keep the session after disconnecting, and continue it; needs -i
    #[arg(short = 'c', long, help_heading = CONNECTION)]
    pub disable_clean_session: bool,

    /// Seconds for which the broker keeps the session, or -1 for ever (MQTT 5) [default: 0, -1 with -c]
    #[arg(short = 'x', value_name = "SECONDS", help_heading = CONNECTION, allow_hyphen_values = true)]
    pub session_expiry: Option<String>,

    /// Topic of the Will
    #[arg(long, value_name = "TOPIC", help_heading = WILL, allow_hyphen_values = true)]
    pub will_topic: Option<String>,

    /// Payload of the Will
    #[arg(long, value_name = "TEXT", help_heading = WILL, allow_hyphen_values = true)]
    pub will_payload: Option<String>,

    /// QoS of the Will
    #[arg(long, value_name = "QOS", help_heading = WILL, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub will_qos: Option<u8>,

    /// Retain the Will
    #[arg(long, help_heading = WILL)]
    pub will_retain: bool,

    /// File with the certificates of the authorities to trust; turns TLS on
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub cafile: Option<PathBuf>,

    /// Folder with such files; turns TLS on
    #[arg(long, value_name = "FOLDER", help_heading = TLS)]
    pub capath: Option<PathBuf>,

    /// Trust the system's authorities; turns TLS on. So do mqtts://, wss:// and port 8883
    #[arg(long, help_heading = TLS)]
    pub tls_use_os_certs: bool,

    /// No TLS, whatever the port
    #[arg(long, help_heading = TLS)]
    pub no_tls: bool,

    /// This client's certificate
    #[arg(long, value_name = "FILE", help_heading = TLS, requires = "key")]
    pub cert: Option<PathBuf>,

    /// This client's private key
    #[arg(long, value_name = "FILE", help_heading = TLS, requires = "cert")]
    pub key: Option<PathBuf>,

    /// Do not check that the broker's certificate is for its host name
    #[arg(long, help_heading = TLS)]
    pub insecure: bool,

    /// Only this version of TLS
    #[arg(long, value_name = "VERSION", value_parser = ["tlsv1.2", "tlsv1.3"], help_heading = TLS)]
    pub tls_version: Option<String>,

    /// Protocol to ask for with ALPN
    #[arg(long, value_name = "PROTOCOL", help_heading = TLS)]
    pub tls_alpn: Option<String>,

    /// `-D`.
    #[command(flatten)]
    pub properties: PropertyArguments,

    /// What Mosquitto's have and these do not.
    #[command(flatten)]
    pub refused: RefusedArguments,

    /// Say what is sent and received
    #[arg(short, long)]
    pub debug: bool,

    /// No errors on standard error
    #[arg(long)]
    pub quiet: bool,

    /// Take default options from this file instead of the user's
    #[arg(short = 'o', value_name = "FILE")]
    pub options_file: Option<PathBuf>,

    /// Print help
    #[arg(long, action = ArgAction::HelpLong)]
    pub help: Option<bool>,

    /// Print version
    #[arg(long = "version", action = ArgAction::Version)]
    pub print_version: Option<bool>,
}

const CONNECTION: &str = "Connection";
const WILL: &str = "Will";
const TLS: &str = "TLS";

const SUB_AFTER_HELP: &str = "\
Format:
  %t topic   %p payload   %x %X payload in hexadecimal   %l payload length
  %q QoS     %r retain    %m packet identifier
  %A topic alias   %C content type   %D correlation data   %E message expiry interval
  %F payload format indicator   %P user properties   %R response topic   %S subscription identifier
  %I time as ISO 8601   %U seconds since 1970   %j %J message as JSON, payload as a string or as JSON
  %%  @@  \\\\ the character itself   \\0 \\a \\e \\n \\r \\t \\v as in C
  @X what strftime(3) makes of %X, for any X; @N the nanoseconds
  After the %, a width as in printf(3): %10t %-10t %010l %.5t; that of %p, %x and %X cuts too

Default options, one to a line, are taken from $XDG_CONFIG_HOME/fastmq_sub or ~/.config/fastmq_sub.

Exit status: 0, or 27 when -W ended it, or the broker's code when it refused the connection or all
subscriptions, or 1 for anything wrong with the options or the address. Other errors have the numbers
of libmosquitto.

Otherwise than in mosquitto_sub 2.0.11:
  %j is JSON whatever the payload: what is no UTF-8 becomes U+FFFD, and a NUL ends nothing
  %J leaves the numbers and strings of a payload as they were written
  properties stand in an order of their own in %j and %J, and tst has no Z before its zone
  %20x prints all of a payload that has room, not half of it
  a session that somebody else took over is not taken back: the broker's code is the exit status
  -k 0 turns keep alive off, and --help ends with 0
  options that would do nothing are refused: those of TLS without TLS, of a Will without --will-topic,
  -h and -p with -L, those of TCP with --unix, --ws-path without --ws
  --ciphers, --keyform, --psk, --psk-identity, --proxy, --tls-engine and --tls-engine-kpass-sha1 are
  refused, with the reason";

const PUB_AFTER_HELP: &str = "\
Default options, one to a line, are taken from $XDG_CONFIG_HOME/fastmq_pub or ~/.config/fastmq_pub.

Exit status: 0, or the broker's code when it refused the connection or a message, or 1 for anything
wrong with the options or the address. Other errors have the numbers of libmosquitto.

Otherwise than in mosquitto_pub 2.0.11:
  a message that the broker refuses in MQTT 5 is no success: the broker's code is the exit status, also
  that of a DISCONNECT
  -l publishes lines with a NUL whole
  properties and topics that the specification does not allow are refused
  -k 0 turns keep alive off, and --help ends with 0
  options that would do nothing are refused: those of TLS without TLS, of a Will without --will-topic,
  -h and -p with -L, those of TCP with --unix, --ws-path without --ws
  --ciphers, --keyform, --psk, --psk-identity, --proxy, --tls-engine and --tls-engine-kpass-sha1 are
  refused, with the reason";
