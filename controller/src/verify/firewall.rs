//! What a rule set lets in.
//!
//! NixOS's firewall is either a table of nftables with a dropping input hook, or iptables chains
//! named `nixos-fw` (nixpkgs `nixos/modules/services/networking/firewall-{nftables,iptables}.nix`).
//! Both are read into the same [`Rule`]s by [`super::nft`] and [`super::iptables`], and followed
//! here from the hook on.
//!
//! What is not understood of a rule makes it narrower in the kernel, and never here: so a rule is
//! rather named too often.

use std::collections::{BTreeMap, BTreeSet};

/// A condition of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// None at all: a comment, a module without options.
    Nothing,
    /// It comes in by one of these interfaces.
    Interfaces(Vec<String>),
    /// Its connection is in one of these states, in lower case.
    States(Vec<String>),
    /// It is of one of these protocols.
    Protocols(Vec<String>),
    /// It goes to one of these ports, each a number or a range, of this protocol or any.
    Ports(Option<String>, Vec<String>),
    /// It goes to one of these addresses.
    To(Vec<String>),
    /// Anything else.
    Other,
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// Lets it in.
    Accept,
    /// Drops or rejects it.
    Drop,
    /// Goes back to where this chain was called.
    Return,
    /// Calls a chain.
    Jump(String),
    /// Goes to a chain, and from there to where this one was called.
    Goto(String),
    /// Goes on.
    Next,
}

/// A rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// As people know it.
    pub text: String,
    /// All of these have to hold.
    pub limits: Vec<Limit>,
    /// Then this is done.
    pub then: Then,
}

/// Chains by their names.
pub type Chains = BTreeMap<String, Vec<Rule>>;

/// What one chain at the input hook lets in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Whether it sees IPv4.
    pub ipv4: bool,
    /// Whether it sees IPv6.
    pub ipv6: bool,
    /// Whether nftables shows a chain that is iptables's, by which it is read better.
    pub of_iptables: bool,
    /// Whether everything else is dropped.
    pub drops: bool,
    /// TCP ports that are let in and may be.
    pub tcp: BTreeSet<String>,
    /// UDP ports that are let in and may be.
    pub udp: BTreeSet<String>,
    /// What more is let in, each with its rule.
    pub more: BTreeSet<String>,
}

/// Bounds of what is followed: the kernel's own are narrower (16 calls deep), or as wide.
const DEEP: usize = 64;
const RULES: usize = 100_000;

impl Filter {
    /// Follows the chain at the hook; `policy_drops` is about what comes to its end.
    pub fn follow(chains: &Chains, hook: &str, policy_drops: bool) -> Filter {
        let mut walk = Walk { chains, path: Vec::new(), seen: 0, filter: Filter::default() };
        let falls = walk.chain(hook);
        Filter { drops: policy_drops || !falls, ..walk.filter }
    }

    fn accept(&mut self, path: &[&Rule]) {
        let limits: Vec<&Limit> =
            path.iter().flat_map(|rule| &rule.limits).filter(|limit| narrows(limit)).collect();
        if limits.iter().any(|limit| is_harmless(limit)) {
            return;
        }
        // The rule that says what is accepted: the last one with a condition.
        let limited = path.iter().rev().find(|rule| rule.limits.iter().any(narrows));
        let rule = limited.or(path.last()).map_or("", |rule| rule.text.as_str());
        let ports = limits.iter().find_map(|limit| match limit {
            Limit::Ports(protocol, ports) => Some((protocol, ports)),
            _ => None,
        });
        if let Some((protocol, ports)) = ports {
            for protocol in protocols(protocol.as_deref(), &limits) {
                for port in ports {
                    match may_be_open(&protocol, port, &limits) {
                        Some(Udp) => _ = self.udp.insert(port.clone()),
                        Some(Tcp) => _ = self.tcp.insert(port.clone()),
                        None => {
                            let protocol = protocol.to_uppercase();
                            self.more.insert(format!("{protocol} {port} ({rule})"));
                        }
                    }
                }
            }
            return;
        }
        let what = match limits[..] {
            [] => "everything".to_owned(),
            [Limit::Interfaces(names)] => {
                let names = names.iter().filter(|name| *name != "lo").cloned();
                format!("trusted interface {}", names.collect::<Vec<_>>().join(" "))
            }
            _ => "any port".to_owned(),
        };
        self.more.insert(format!("{what} ({rule})"));
    }
}

fn is_limited(rule: &Rule) -> bool {
    rule.limits.iter().any(|limit| *limit != Limit::Nothing)
}

/// Whether a condition says something of who may come in. Connections that are new or not followed
/// are what everything begins with.
fn narrows(limit: &Limit) -> bool {
    match limit {
        Limit::Nothing => false,
        Limit::States(_) => is_harmless(limit),
        _ => true,
    }
}

fn all(names: &[String], of: &[&str]) -> bool {
    !names.is_empty() && names.iter().all(|name| of.contains(&name.as_str()))
}

/// What comes from the machine itself, what belongs to a connection that was let in or that it
/// made itself, and ICMP.
fn is_harmless(limit: &Limit) -> bool {
    match limit {
        Limit::Interfaces(names) => all(names, &["lo"]),
        Limit::States(states) => all(states, &["established", "related"]),
        Limit::Protocols(names) => all(names, &["icmp", "ipv6-icmp", "icmpv6"]),
        _ => false,
    }
}

/// The protocols of a rule on ports that has one of its own or not.
fn protocols(own: Option<&str>, limits: &[&Limit]) -> Vec<String> {
    let said = limits.iter().find_map(|limit| match limit {
        Limit::Protocols(names) => Some(names.clone()),
        _ => None,
    });
    let both = || vec!["tcp".to_owned(), "udp".to_owned()];
    own.map(|own| vec![own.to_owned()]).or(said).unwrap_or_else(both)
}

enum Transport {
    Tcp,
    Udp,
}

use Transport::{Tcp, Udp};

/// SSH, multicast DNS, and what NixOS always lets in: answers to the DHCPv6 client, and DHCP
/// requests of systemd's virtual machines and containers.
fn may_be_open(protocol: &str, port: &str, limits: &[&Limit]) -> Option<Transport> {
    let virtual_machines = |name: &String| {
        let kind = name.strip_suffix(['+', '*']);
        kind.is_some_and(|kind| ["ve-", "vz-", "vt-", "ns-"].contains(&kind))
    };
    match (protocol, port) {
        ("tcp", "22") => Some(Tcp),
        ("udp", "5353") => Some(Udp),
        ("udp", "546") => {
            let local = |limit: &&Limit| matches!(limit, Limit::To(to) if all(to, &["fe80::/64"]));
            limits.iter().any(local).then_some(Udp)
        }
        ("udp", "67") => {
            let inside = |limit: &&Limit| matches!(limit, Limit::Interfaces(names) if !names.is_empty() && names.iter().all(virtual_machines));
            limits.iter().any(inside).then_some(Udp)
        }
        _ => None,
    }
}

struct Walk<'a> {
    chains: &'a Chains,
    path: Vec<&'a Rule>,
    seen: usize,
    filter: Filter,
}

impl<'a> Walk<'a> {
    /// Whether anything comes back from this chain.
    fn chain(&mut self, name: &str) -> bool {
        let Some(rules) = self.chains.get(name).filter(|_| self.path.len() < DEEP) else {
            let path = self.path.clone();
            self.filter.accept(&path);
            return true;
        };
        let mut returns = false;
        for rule in rules {
            self.seen += 1;
            if self.seen > RULES {
                self.filter.more.insert("what more than 100000 rules say".to_owned());
                return true;
            }
            // Whether what the rule matches goes on with the next one.
            let goes_on = self.rule(rule, rules.len() == 1, &mut returns);
            if !goes_on && !is_limited(rule) {
                return returns;
            }
        }
        true
    }

    fn rule(&mut self, rule: &'a Rule, alone: bool, returns: &mut bool) -> bool {
        // A chain that only accepts, as nixos-fw-accept: who calls it is the one to name.
        let accepts = alone && rule.then == Then::Accept && !is_limited(rule);
        if !accepts || self.path.is_empty() {
            self.path.push(rule);
            let goes_on = self.follow(rule, returns);
            self.path.pop();
            return goes_on;
        }
        self.follow(rule, returns)
    }

    fn follow(&mut self, rule: &'a Rule, returns: &mut bool) -> bool {
        match &rule.then {
            Then::Next => true,
            Then::Drop => false,
            Then::Accept => {
                let path = self.path.clone();
                self.filter.accept(&path);
                false
            }
            Then::Return => {
                *returns = true;
                false
            }
            Then::Jump(chain) => self.chain(chain),
            Then::Goto(chain) => {
                *returns |= self.chain(chain);
                false
            }
        }
    }
}

#[cfg(test)]
#[path = "firewall_tests.rs"]
mod tests;
