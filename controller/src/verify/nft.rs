//! Reads `nft -j list ruleset`: schema in libnftables-json(5).

use super::firewall::{Chains, Filter, Limit, Rule, Then};
use serde_json::Value;
use std::collections::BTreeMap;

/// What each chain at the input hook lets in.
pub fn read(text: &str) -> Result<Vec<Filter>, String> {
    // Warnings may be around it.
    let json = &text[text.find("{\"nftables\"").unwrap_or_default()..];
    let document = serde_json::Deserializer::from_str(json).into_iter::<Value>().next();
    let document = document.ok_or("no answer")?.map_err(|error| error.to_string())?;
    let items = document["nftables"].as_array().ok_or("not a rule set")?;
    let mut tables: BTreeMap<(&str, &str), Table<'_>> = BTreeMap::new();
    for item in items {
        let Some((kind, item)) = item.as_object().and_then(|item| item.iter().next()) else {
            continue;
        };
        let word = |key: &str| item[key].as_str().unwrap_or_default();
        let table = tables.entry((word("family"), word("table"))).or_default();
        match kind.as_str() {
            "set" | "map" => _ = table.sets.insert(word("name"), list(&item["elem"])),
            "chain" => {
                table.chains.entry(word("name")).or_default();
                if word("hook") == "input" && word("type") == "filter" {
                    table.hooks.push((word("name"), word("policy") == "drop"));
                }
            }
            "rule" => table.chains.entry(word("chain")).or_default().push(item),
            _ => {}
        }
    }
    let mut filters = Vec::new();
    for ((family, name), table) in tables {
        let (ipv4, ipv6) = (["ip", "inet"].contains(&family), ["ip6", "inet"].contains(&family));
        if !ipv4 && !ipv6 {
            continue;
        }
        let chains = table.read(&format!("nft {family} {name}"));
        for (hook, policy_drops) in table.hooks {
            let filter = Filter::follow(&chains, hook, policy_drops);
            let of_iptables = family != "inet" && (name, hook) == ("filter", "INPUT");
            filters.push(Filter { ipv4, ipv6, of_iptables, ..filter });
        }
    }
    Ok(filters)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[derive(Default)]
struct Table<'a> {
    chains: BTreeMap<&'a str, Vec<&'a Value>>,
    sets: BTreeMap<&'a str, &'a [Value]>,
    /// Chains at the input hook, and whether they drop what comes to their ends.
    hooks: Vec<(&'a str, bool)>,
}

impl Table<'_> {
    fn read(&self, name: &str) -> Chains {
        let read = |(chain, rules): (&&str, &Vec<&Value>)| {
            let rules = rules
                .iter()
                .flat_map(|rule| self.rules(&format!("{name} {chain}:"), list(&rule["expr"])));
            ((*chain).to_owned(), rules.collect())
        };
        self.chains.iter().map(read).collect()
    }

    /// One rule for each alternative, which maps of verdicts and sets of pairs have.
    fn rules(&self, chain: &str, expressions: &[Value]) -> Vec<Rule> {
        let mut text = chain.to_owned();
        let mut ways: Vec<Vec<Limit>> = vec![Vec::new()];
        let mut unknown = false;
        for expression in expressions {
            let Some((kind, value)) = expression.as_object().and_then(|map| map.iter().next())
            else {
                continue;
            };
            if let Some(then) = verdict(kind, value) {
                text = format!("{text} {}", shown_verdict(kind, value));
                let rule = |limits| Rule { text: text.clone(), limits, then: then.clone() };
                return ways.into_iter().map(rule).collect();
            }
            match kind.as_str() {
                "match" => {
                    let (left, op) = (&value["left"], value["op"].as_str().unwrap_or_default());
                    let sign = if ["==", "in"].contains(&op) { "" } else { op };
                    text = format!("{text} {}", shown(left));
                    text = format!("{text} {sign}{}", shown(&value["right"]));
                    let more = self.matched(left, &value["right"], !sign.is_empty());
                    ways = multiplied(&ways, more);
                }
                "vmap" => return self.verdicts(&text, &ways, value),
                "counter" | "log" | "comment" => {}
                _ => {
                    // iptables' own, of which only the name is said: it may be a target.
                    unknown |= kind == "xt";
                    text = format!("{text} {kind}");
                    ways.iter_mut().for_each(|limits| limits.push(Limit::Other));
                }
            }
        }
        let then = if unknown { Then::Accept } else { Then::Next };
        let rule = |limits| Rule { text: text.clone(), limits, then: then.clone() };
        ways.into_iter().map(rule).collect()
    }

    fn verdicts(&self, text: &str, ways: &[Vec<Limit>], map: &Value) -> Vec<Rule> {
        let (key, data) = (&map["key"], &map["data"]);
        let text = format!("{text} {}", shown(key));
        let named = data.as_str().and_then(|name| name.strip_prefix('@'));
        let Some(elements) = (match named {
            Some(name) => self.sets.get(name).copied(),
            None => data["set"].as_array().map(Vec::as_slice),
        }) else {
            let text = format!("{text} vmap {}", shown(data));
            let rule = |way: &Vec<Limit>| {
                let limits = way.iter().cloned().chain([Limit::Other]).collect();
                Rule { text: text.clone(), limits, then: Then::Accept }
            };
            return ways.iter().map(rule).collect();
        };
        let mut rules = Vec::new();
        for element in elements {
            let pair =
                (element.get(1).and_then(Value::as_object)).and_then(|map| map.iter().next());
            let (then, verdict) = match pair {
                Some((kind, value)) => (verdict(kind, value), shown_verdict(kind, value)),
                None => (None, "?".to_owned()),
            };
            let text = format!("{text} {} {verdict}", shown(&element[0]));
            for limits in multiplied(ways, self.matched(key, &element[0], false)) {
                let then = then.clone().unwrap_or(Then::Accept);
                rules.push(Rule { text: text.clone(), limits, then });
            }
        }
        rules
    }

    /// The conditions of a match, for each alternative.
    fn matched(&self, left: &Value, right: &Value, not: bool) -> Vec<Vec<Limit>> {
        let Some(parts) = left.get("concat") else {
            return match self.values(right) {
                // A set that is empty matches nothing.
                Some(values) if values.is_empty() && !not => Vec::new(),
                values => vec![vec![limit(left, values, not)]],
            };
        };
        let named = right.as_str().and_then(|name| name.strip_prefix('@'));
        let elements = match named {
            Some(name) => self.sets.get(name).copied(),
            None => {
                Some(right["set"].as_array().map_or(std::slice::from_ref(right), Vec::as_slice))
            }
        };
        let Some(elements) = elements.filter(|_| !not) else { return vec![vec![Limit::Other]] };
        let parts = list(parts);
        let one = |element: &Value| {
            let values = list(&inner(element)["concat"]);
            if values.len() != parts.len() {
                return vec![Limit::Other];
            }
            let both = parts.iter().zip(values);
            both.map(|(part, value)| limit(part, self.values(value), false)).collect()
        };
        elements.iter().map(one).collect()
    }

    /// The values of an expression on the right; `None` if it is a set that is not known.
    fn values(&self, right: &Value) -> Option<Vec<String>> {
        let flat = |list: &[Value]| {
            let lists: Option<Vec<_>> = list.iter().map(|value| self.values(value)).collect();
            Some(lists?.concat())
        };
        if let Some(name) = right.as_str().and_then(|name| name.strip_prefix('@')) {
            return flat(self.sets.get(name)?);
        }
        match (inner(right), inner(right).get("set")) {
            (Value::Array(list), _) | (_, Some(Value::Array(list))) => flat(list),
            (value, _) => Some(vec![shown(value)]),
        }
    }
}

/// An element of a set, without its timeout and comment.
fn inner(value: &Value) -> &Value {
    value.pointer("/elem/val").unwrap_or(value)
}

/// Both conditions. Where both have alternatives, the second ones are not understood.
fn multiplied(ways: &[Vec<Limit>], more: Vec<Vec<Limit>>) -> Vec<Vec<Limit>> {
    let more = if ways.len() > 1 && more.len() > 1 { vec![vec![Limit::Other]] } else { more };
    let both = |way: &Vec<Limit>| {
        let way = way.clone();
        more.iter().map(move |more| [way.clone(), more.clone()].concat()).collect::<Vec<_>>()
    };
    ways.iter().flat_map(both).collect()
}

fn limit(left: &Value, values: Option<Vec<String>>, not: bool) -> Limit {
    let word = |pointer: &str| left.pointer(pointer).and_then(Value::as_str);
    let (protocol, field) = (word("/payload/protocol"), word("/payload/field"));
    // Whatever is asked of it: it is ICMP.
    if let Some(protocol @ ("icmp" | "icmpv6")) = protocol {
        return Limit::Protocols(vec![protocol.to_owned()]);
    }
    let Some(values) = values.filter(|_| !not) else { return Limit::Other };
    match (word("/meta/key"), word("/ct/key"), protocol, field) {
        (Some("iif" | "iifname"), ..) => Limit::Interfaces(values),
        (Some("l4proto"), ..) => Limit::Protocols(values),
        (_, Some("state"), ..) => Limit::States(values),
        (_, _, Some("ip"), Some("protocol")) => Limit::Protocols(values),
        (_, _, Some("ip6"), Some("nexthdr")) => Limit::Protocols(values),
        (_, _, Some("ip" | "ip6"), Some("daddr")) => Limit::To(values),
        (_, _, Some("th"), Some("dport")) => Limit::Ports(None, values),
        (_, _, Some(protocol), Some("dport")) => Limit::Ports(Some(protocol.to_owned()), values),
        _ => Limit::Other,
    }
}

fn verdict(kind: &str, value: &Value) -> Option<Then> {
    let target = || value["target"].as_str().unwrap_or_default().to_owned();
    Some(match kind {
        // Who reads the queue decides.
        "accept" | "queue" => Then::Accept,
        "drop" | "reject" => Then::Drop,
        "return" => Then::Return,
        "jump" => Then::Jump(target()),
        "goto" => Then::Goto(target()),
        "continue" => Then::Next,
        _ => return None,
    })
}

fn shown_verdict(kind: &str, value: &Value) -> String {
    match value["target"].as_str() {
        Some(target) => format!("{kind} {target}"),
        None => kind.to_owned(),
    }
}

/// As `nft list ruleset` would have it, or as it is.
fn shown(value: &Value) -> String {
    let joined = |list: &[Value], by: &str| list.iter().map(shown).collect::<Vec<_>>().join(by);
    let word = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    if let Some(key) = word("/meta/key") {
        return key.to_owned();
    }
    if let Some(key) = word("/ct/key") {
        return format!("ct {key}");
    }
    if let (Some(protocol), Some(field)) = (word("/payload/protocol"), word("/payload/field")) {
        return format!("{protocol} {field}");
    }
    if let Some(Value::Array(list)) = value.get("set") {
        return format!("{{ {} }}", joined(list, ", "));
    }
    if let Some(Value::Array(list)) = value.get("concat") {
        return joined(list, " . ");
    }
    if let Some(Value::Array(ends)) = value.get("range") {
        return joined(ends, "-");
    }
    if let Some(prefix) = value.get("prefix") {
        return format!("{}/{}", shown(&prefix["addr"]), prefix["len"]);
    }
    match value {
        Value::String(word) => word.clone(),
        Value::Array(list) => joined(list, ","),
        other => other.to_string(),
    }
}
