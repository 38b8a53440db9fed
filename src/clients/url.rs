//! The URL of `-L`: user, password, host, port and topic at once.

#![forbid(unsafe_code)]

use super::failure::Failure;

/// What a URL said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Url {
    pub tls: bool,
    pub web_socket: bool,
    pub username: Option<String>,
    pub password: Option<String>,
    pub host: String,
    pub port: Option<u16>,
    pub topic: Option<String>,
}

impl Url {
    /// Reads `SCHEME://[USER[:PASSWORD]@]HOST[:PORT][/TOPIC]`.
    ///
    /// # Errors
    /// [`Failure::Usage`] that says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |what: &str| Failure::Usage(format!("-L {text}: {what}"));
        let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
        let (tls, web_socket) = match scheme {
            "mqtt" => (false, false),
            "mqtts" => (true, false),
            "ws" => (false, true),
            "wss" => (true, true),
            _ => return Err(wrong("the scheme is none of mqtt, mqtts, ws and wss")),
        };
        let (authority, topic) = match rest.split_once('/') {
            Some((authority, "")) => (authority, None),
            Some((authority, topic)) => (authority, Some(topic)),
            None => (rest, None),
        };
        // A password may hold an @ that nobody escaped.
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (username, password) = match user {
            Some(user) => match user.split_once(':') {
                Some((name, password)) => (Some(name), Some(password)),
                None => (Some(user), None),
            },
            None => (None, None),
        };
        let (host, port) = match address.strip_prefix('[') {
            // An IPv6 address has colons of its own.
            Some(rest) => {
                let (host, after) = rest
                    .split_once(']')
                    .ok_or_else(|| wrong("the bracket is not closed"))?;
                match after.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if after.is_empty() => (host, None),
                    None => return Err(wrong("there is more behind the bracket")),
                }
            }
            None => match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        if host.is_empty() {
            return Err(wrong("there is no host"));
        }
        let port = match port {
            Some(digits) => match digits.parse() {
                Ok(port) if port > 0 => Some(port),
                _ => return Err(wrong("the port is none")),
            },
            None => None,
        };
        let decode = |part: &str| decode_percent(part).ok_or_else(|| wrong("%XX is not a byte"));
        Ok(Self {
            tls,
            web_socket,
            username: username.map(decode).transpose()?,
            password: password.map(decode).transpose()?,
            host: host.to_owned(),
            port,
            topic: topic.map(str::to_owned),
        })
    }
}

/// Undoes `%XX`, in which a user or a password hides what would be read as a part of the URL.
fn decode_percent(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_found() {
        let url = Url::parse("mqtts://ann:s%40l%3At@broker.example:8884/a/b/#").unwrap();
        assert_eq!(
            url,
            Url {
                tls: true,
                web_socket: false,
                username: Some("ann".to_owned()),
                password: Some("s@l:t".to_owned()),
                host: "broker.example".to_owned(),
                port: Some(8884),
                topic: Some("a/b/#".to_owned()),
            }
        );
    }

    #[test]
    fn all_but_scheme_and_host_may_be_missing() {
        let url = Url::parse("ws://localhost").unwrap();
        assert!(url.web_socket && !url.tls);
        assert_eq!(
            (url.host.as_str(), url.port, url.topic),
            ("localhost", None, None)
        );
        let url = Url::parse("mqtt://[::1]:1884/t").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", Some(1884)));
        assert_eq!(url.topic.as_deref(), Some("t"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, named) in [
            ("http://localhost/t", "scheme"),
            ("localhost", "scheme"),
            ("mqtt://", "no host"),
            ("mqtt://:1883/t", "no host"),
            ("mqtt://h:0/t", "port"),
            ("mqtt://h:x/t", "port"),
            ("mqtt://h:65536/t", "port"),
            ("mqtt://[::1/t", "bracket"),
            ("mqtt://a%4@h/t", "%XX"),
            ("mqtt://a%+1@h/t", "%XX"),
        ] {
            let error = Url::parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
