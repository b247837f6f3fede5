//! Where to connect.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A machine as the operator names it; what is left out, the SSH configuration may say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Login name, if given.
    pub user: Option<String>,
    /// Name, address (without brackets) or alias of the SSH configuration.
    pub host: String,
    /// TCP port, if given.
    pub port: Option<u16>,
}

/// A user on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Login name.
    pub user: String,
    /// Name, address (without brackets) or alias, as it was given.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Not a destination.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a destination: {why} (expected [USER@]HOST, an IPv6 address in brackets)")]
pub struct DestinationError {
    text: String,
    why: &'static str,
}

impl Destination {
    /// The machine as `known_hosts` names it: `host`, or `[host]:port` for a port other than 22.
    pub fn known_hosts_name(&self) -> String {
        known_hosts_name(&self.host, self.port)
    }
}

/// `host`, or `[host]:port` for a port other than 22.
pub(super) fn known_hosts_name(host: &str, port: u16) -> String {
    match port {
        22 => host.to_lowercase(),
        port => format!("[{}]:{port}", host.to_lowercase()),
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = self.host.contains(':');
        write!(f, "{}@", self.user)?;
        match brackets {
            true => write!(f, "[{}]", self.host)?,
            false => write!(f, "{}", self.host)?,
        }
        match self.port {
            22 => Ok(()),
            port => write!(f, ":{port}"),
        }
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    /// As an [`Address`], where `root` and 22 are what is left out.
    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let Address { user, host, port } = text.parse()?;
        Ok(Destination {
            user: user.unwrap_or_else(|| "root".to_owned()),
            host,
            port: port.unwrap_or(22),
        })
    }
}

impl FromStr for Address {
    type Err = DestinationError;

    /// Reads `[user@]host[:port]`, `[user@][address]:port`, a bare IPv6 address, and each of
    /// them after `ssh://`.
    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let fail = |why| Err(DestinationError { text: text.to_owned(), why });
        let plain = text.strip_prefix("ssh://").unwrap_or(text);
        let (user, rest) = match plain.rsplit_once('@') {
            Some(("", _)) => return fail("the user is empty"),
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, plain),
        };
        let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
            match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
                _ => return fail("the bracket is not closed"),
            }
        } else if rest.matches(':').count() == 1 {
            let (host, port) = rest.split_once(':').unwrap_or((rest, ""));
            (host, Some(port))
        } else {
            (rest, None)
        };
        if host.is_empty() {
            return fail("the host is empty");
        }
        // A user's name stands in commands of the configuration (%r), as the host's does.
        let odd = |text: &str| {
            text.starts_with('-') || text.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        let meant_for_shells = |c: char| "'`\"$\\;&<>|(){}".contains(c);
        if odd(host) || host.contains(meant_for_shells) {
            return fail("that is no host name");
        }
        if user.as_deref().is_some_and(|user| odd(user) || user.contains(meant_for_shells)) {
            return fail("that is no user name");
        }
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port != 0 => Some(port),
            Some(_) => return fail("the port is not a number between 1 and 65535"),
        };
        Ok(Address { user, host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, u16) {
        let d: Destination = text.parse().unwrap();
        (d.user, d.host, d.port)
    }

    #[test]
    fn forms() {
        let is = |u: &str, h: &str, p| (u.to_owned(), h.to_owned(), p);
        assert_eq!(parsed("root@nas"), is("root", "nas", 22));
        assert_eq!(parsed("10.0.0.5:2222"), is("root", "10.0.0.5", 2222));
        assert_eq!(parsed("admin@[fe80::1%eth0]:23"), is("admin", "fe80::1%eth0", 23));
        assert_eq!(parsed("2001:db8::7"), is("root", "2001:db8::7", 22));
        assert_eq!(parsed("ssh://admin@nas:2222"), is("admin", "nas", 2222));
        let alias: Address = "nas".parse().unwrap();
        assert_eq!((alias.user, alias.port), (None, None));
        for bad in [
            "",
            "@host",
            "root@",
            "host:0",
            "host:x",
            "[::1",
            "-oProxyCommand=x",
            "a b",
            "a;b",
            "$(x)@h",
        ] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shown_as_written() {
        for text in ["root@nas", "admin@[fe80::1%eth0]:23", "root@10.0.0.5:2222"] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
    }
}
