//! Reads `iptables-save` and `ip6tables-save`: iptables(8), iptables-extensions(8).

use super::firewall::{Chains, Filter, Limit, Rule, Then};

/// What the table `filter` lets in. `command` is what its rules are shown with.
pub fn read(command: &str, text: &str) -> Filter {
    let mut chains = Chains::new();
    let mut policy_drops = false;
    let mut table = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        if table != "filter" {
            continue;
        }
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split(' ');
            let (name, policy) = (words.next().unwrap_or_default(), words.next());
            policy_drops |= name == "INPUT" && policy == Some("DROP");
            chains.entry(name.to_owned()).or_default();
        }
        let words = words(line);
        if let Some(("-A", [chain, rest @ ..])) =
            words.split_first().map(|(word, rest)| (word.as_str(), rest))
        {
            let (limits, then) = rule(rest);
            let rule = Rule { text: format!("{command} {line}"), limits, then };
            chains.entry(chain.clone()).or_default().push(rule);
        }
    }
    chains.entry("INPUT".to_owned()).or_default();
    Filter::follow(&chains, "INPUT", policy_drops)
}

/// Words, some of them in quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' if !quoted => words.extend(word.take()),
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(letters.next()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// Modules that say nothing without options of their own.
const MODULES: [&str; 8] =
    ["tcp", "udp", "icmp", "icmp6", "conntrack", "state", "multiport", "comment"];

fn rule(mut words: &[String]) -> (Vec<Limit>, Then) {
    let mut limits = Vec::new();
    while let Some((option, rest)) = words.split_first() {
        let (not, option, rest) = match (option.as_str(), rest.split_first()) {
            ("!", Some((option, rest))) => (true, option.as_str(), rest),
            (option, _) => (false, option, rest),
        };
        let end = rest.iter().position(|word| word == "!" || word.starts_with('-'));
        // A comment is one word, whatever it begins with.
        let end = if option == "--comment" { 1 } else { end.unwrap_or(rest.len()) };
        let (values, rest) = rest.split_at(end.min(rest.len()));
        let value = values.first().map_or("", String::as_str);
        if option == "-j" || option == "-g" {
            return (limits, then(option, value));
        }
        let list = || value.to_lowercase().split(',').map(str::to_owned).collect::<Vec<_>>();
        limits.push(match option {
            "--comment" => Limit::Nothing,
            "-m" if MODULES.contains(&value) => Limit::Nothing,
            _ if not || values.len() != 1 => Limit::Other,
            "-i" => Limit::Interfaces(vec![value.to_owned()]),
            "-p" => Limit::Protocols(list()),
            "-d" => Limit::To(vec![value.to_owned()]),
            "--ctstate" | "--state" => Limit::States(list()),
            "--dport" | "--dports" => {
                Limit::Ports(None, list().iter().map(|port| port.replace(':', "-")).collect())
            }
            _ => Limit::Other,
        });
        words = rest;
    }
    (limits, Then::Next)
}

fn then(option: &str, target: &str) -> Then {
    match target {
        // Who reads the queue decides.
        "ACCEPT" | "NFQUEUE" | "QUEUE" => Then::Accept,
        "DROP" | "REJECT" => Then::Drop,
        "RETURN" => Then::Return,
        // Chains don't have the names of targets, which are in upper case; but they may be so.
        _ if TARGETS.contains(&target) => Then::Next,
        chain if option == "-g" => Then::Goto(chain.to_owned()),
        chain => Then::Jump(chain.to_owned()),
    }
}

/// Targets after which the next rule is seen. One that is not named here is taken for a chain that
/// is not known, and so for one that accepts.
const TARGETS: [&str; 12] = [
    "LOG",
    "NFLOG",
    "AUDIT",
    "TRACE",
    "MARK",
    "CONNMARK",
    "SECMARK",
    "CONNSECMARK",
    "CLASSIFY",
    "SET",
    "TCPMSS",
    "DSCP",
];
