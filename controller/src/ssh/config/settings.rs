//! What the files say about one host. The first value that is found counts.

use super::words;
use std::str::FromStr;
use std::time::Duration;

/// How a host is reached that is not reached directly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// Explicitly none.
    None,
    /// `ProxyJump none`: no later `ProxyJump` counts, but a later `ProxyCommand` does.
    NoJump,
    /// `ProxyJump`: destinations parted by commas, the first is connected to first.
    Jump(String),
    /// `ProxyCommand`, with its tokens.
    Command(String),
}

/// Which addresses are connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressFamily {
    /// Both.
    #[default]
    Any,
    /// IPv4 only.
    Inet,
    /// IPv6 only.
    Inet6,
}

/// Settings as they are written: tokens, `~` and variables are not replaced yet, but for
/// `HostName`'s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // named as in ssh_config(5)
pub struct Settings {
    pub host_name: Option<String>,
    pub user: Option<String>,
    pub port: Option<u16>,
    pub proxy: Option<Proxy>,
    pub identity_files: Vec<String>,
    pub certificate_files: Vec<String>,
    pub identities_only: Option<bool>,
    pub identity_agent: Option<String>,
    pub user_known_hosts_files: Option<Vec<String>>,
    pub global_known_hosts_files: Option<Vec<String>>,
    pub host_key_alias: Option<String>,
    pub address_family: Option<AddressFamily>,
    pub connect_timeout: Option<Duration>,
    pub batch_mode: Option<bool>,
    pub preferred_authentications: Option<Vec<String>>,
    pub pubkey_authentication: Option<bool>,
    pub kbd_interactive_authentication: Option<bool>,
    pub password_authentication: Option<bool>,
    pub number_of_password_prompts: Option<u32>,
    pub(super) ignore_unknown: Option<String>,
}

impl Settings {
    /// Takes a line, unless its setting has a value already; with `apply` off it is only looked
    /// at.
    ///
    /// # Errors
    /// A sentence about a value that is none.
    pub(super) fn take(&mut self, keyword: &str, rest: &str, apply: bool) -> Result<(), String> {
        let mut unused = Settings::default();
        let to = if apply { self } else { &mut unused };
        if rest.is_empty() {
            return Err("it has no value".into());
        }
        // To the end of the line, quotes and all.
        match keyword {
            "proxycommand" => {
                let proxy = match rest {
                    _ if rest.eq_ignore_ascii_case("none") => Proxy::None,
                    command => Proxy::Command(command.to_owned()),
                };
                if matches!(to.proxy, None | Some(Proxy::NoJump)) {
                    to.proxy = Some(proxy);
                }
                return Ok(());
            }
            "proxyjump" => {
                let proxy = match rest {
                    _ if rest.eq_ignore_ascii_case("none") => Proxy::NoJump,
                    jumps => Proxy::Jump(jumps.to_owned()),
                };
                to.proxy.get_or_insert(proxy);
                return Ok(());
            }
            _ => {}
        }
        let mut words = words::split(rest)?;
        if keyword == "userknownhostsfile" || keyword == "globalknownhostsfile" {
            let files = match keyword {
                "userknownhostsfile" => &mut to.user_known_hosts_files,
                _ => &mut to.global_known_hosts_files,
            };
            if words.iter().any(|word| word.eq_ignore_ascii_case("none")) {
                words.clear();
            }
            files.get_or_insert(words);
            return Ok(());
        }
        let [word] = <[String; 1]>::try_from(words)
            .map_err(|words| format!("it takes one value, not {}", words.len()))?;
        if word.is_empty() {
            return Err("its value is empty".into());
        }
        match keyword {
            "hostname" => first(&mut to.host_name, word),
            "user" => first(&mut to.user, word),
            "port" => first(&mut to.port, port(&word)?),
            "identityfile" => add(&mut to.identity_files, word),
            "certificatefile" => add(&mut to.certificate_files, word),
            "identitiesonly" => first(&mut to.identities_only, boolean(&word)?),
            "identityagent" => first(&mut to.identity_agent, word),
            "hostkeyalias" => first(&mut to.host_key_alias, word),
            "addressfamily" => first(&mut to.address_family, family(&word)?),
            "connecttimeout" => {
                if let Some(time) = time(&word)? {
                    first(&mut to.connect_timeout, time);
                }
            }
            "batchmode" => first(&mut to.batch_mode, boolean(&word)?),
            "preferredauthentications" => {
                let methods = word.split(',').map(str::to_owned).collect();
                first(&mut to.preferred_authentications, methods);
            }
            "pubkeyauthentication" => {
                // `unbound` and `host-bound` say how, not whether.
                let on = match word.to_ascii_lowercase().as_str() {
                    "unbound" | "host-bound" => true,
                    _ => boolean(&word)?,
                };
                first(&mut to.pubkey_authentication, on);
            }
            "kbdinteractiveauthentication" | "challengeresponseauthentication" => {
                first(&mut to.kbd_interactive_authentication, boolean(&word)?);
            }
            "passwordauthentication" => {
                first(&mut to.password_authentication, boolean(&word)?);
            }
            "numberofpasswordprompts" => {
                first(&mut to.number_of_password_prompts, number(&word)?);
            }
            "ignoreunknown" => first(&mut to.ignore_unknown, word),
            // Host keys are always checked, and an unknown one is always asked about.
            "stricthostkeychecking" => {}
            other => unreachable!("{other} is not among the keywords that are used"),
        }
        Ok(())
    }
}

fn first<T>(setting: &mut Option<T>, value: T) {
    setting.get_or_insert(value);
}

fn add(list: &mut Vec<String>, word: String) {
    if !list.contains(&word) {
        list.push(word);
    }
}

fn boolean(word: &str) -> Result<bool, String> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err(format!("'{word}' is neither yes nor no")),
    }
}

fn number<T: FromStr>(word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("'{word}' is not a number that it takes"))
}

fn port(word: &str) -> Result<u16, String> {
    match number(word)? {
        0 => Err("'0' is not a port".into()),
        port => Ok(port),
    }
}

fn family(word: &str) -> Result<AddressFamily, String> {
    match word.to_ascii_lowercase().as_str() {
        "any" => Ok(AddressFamily::Any),
        "inet" => Ok(AddressFamily::Inet),
        "inet6" => Ok(AddressFamily::Inet6),
        _ => Err(format!("'{word}' is not an address family: any, inet or inet6")),
    }
}

/// `90`, `1m30s`; `none` is `None`. Source: sshd_config(5), "TIME FORMATS".
fn time(word: &str) -> Result<Option<Duration>, String> {
    if word.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let bad = || format!("'{word}' is not a time, such as 20 or 1m30s");
    let (mut seconds, mut digits) = (0u64, String::new());
    for c in word.chars().chain(word.ends_with(|c: char| c.is_ascii_digit()).then_some('s')) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            'w' => 604_800,
            _ => return Err(bad()),
        };
        let count: u64 = digits.parse().map_err(|_| bad())?;
        digits.clear();
        seconds = count.checked_mul(unit).and_then(|t| t.checked_add(seconds)).ok_or_else(bad)?;
    }
    match seconds {
        0 => Err(bad()),
        seconds => Ok(Some(Duration::from_secs(seconds))),
    }
}
