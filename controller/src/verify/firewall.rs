//! Which ports a rule set lets in.
//!
//! NixOS's firewall is either a table of nftables with a dropping input hook, or iptables chains
//! named `nixos-fw` (nixpkgs `nixos/modules/services/networking/firewall-{nftables,iptables}.nix`).

use serde_json::Value;
use std::collections::BTreeSet;

/// What a rule set lets in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Open {
    /// TCP ports, each a number or a range.
    pub tcp: BTreeSet<String>,
    /// UDP ports.
    pub udp: BTreeSet<String>,
    /// Whether everything else is dropped.
    pub drops: bool,
}

/// Reads `nft -j list ruleset`: schema in libnftables-json(5).
///
/// Every rule that matches a destination port and accepts counts, in whatever chain: which chains
/// are reached is not followed, so that a port is rather named too often.
pub fn nft(json: &str) -> Result<Open, String> {
    let document: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let items = document["nftables"].as_array().ok_or("not a rule set")?;
    let mut open = Open::default();
    for item in items {
        let chain = &item["chain"];
        if chain["hook"] == "input" && chain["policy"] == "drop" {
            open.drops = true;
        }
        let Some(expressions) = item["rule"]["expr"].as_array() else { continue };
        if !expressions.iter().any(|expression| expression.get("accept").is_some()) {
            continue;
        }
        for expression in expressions {
            let (left, right) = (&expression["match"]["left"], &expression["match"]["right"]);
            let payload = &left["payload"];
            if payload["field"] != "dport" {
                continue;
            }
            // `th` is any transport; then both may come in.
            let protocol = payload["protocol"].as_str().unwrap_or_default();
            for port in ports(right) {
                if protocol != "udp" {
                    open.tcp.insert(port.clone());
                }
                if protocol != "tcp" {
                    open.udp.insert(port);
                }
            }
        }
    }
    Ok(open)
}

fn ports(right: &Value) -> Vec<String> {
    match right {
        Value::Number(number) => vec![number.to_string()],
        Value::Object(map) => match (map.get("set"), map.get("range")) {
            (Some(Value::Array(list)), _) => list.iter().flat_map(ports).collect(),
            (_, Some(Value::Array(ends))) => {
                vec![ends.iter().flat_map(ports).collect::<Vec<_>>().join("-")]
            }
            _ => vec![right.to_string()],
        },
        other => vec![other.to_string()],
    }
}

/// Reads `iptables-save`; `None` if it has no firewall of NixOS's.
pub fn iptables(text: &str) -> Option<Open> {
    let rules: Vec<&str> = text.lines().filter(|line| line.starts_with("-A nixos-fw ")).collect();
    if rules.is_empty() {
        return None;
    }
    let entered =
        text.lines().any(|line| line.starts_with("-A INPUT ") && line.ends_with("-j nixos-fw"));
    let refused = rules.last().is_some_and(|rule| rule.ends_with("-j nixos-fw-log-refuse"));
    let mut open = Open { drops: entered && refused, ..Open::default() };
    for rule in rules.iter().filter(|rule| rule.ends_with("-j nixos-fw-accept")) {
        let words: Vec<&str> = rule.split_whitespace().collect();
        let after = |flag: &str| {
            words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).copied()
        };
        let Some(port) = after("--dport").or_else(|| after("--dports")) else { continue };
        let list = if after("-p") == Some("udp") { &mut open.udp } else { &mut open.tcp };
        list.insert(port.replace(':', "-"));
    }
    Some(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_nftables() {
        let rule = |protocol: &str, right: &str, verdict: &str| {
            format!(
                r#"{{"rule": {{"expr": [{{"match": {{"op": "==", "left": {{"payload":
                {{"protocol": "{protocol}", "field": "dport"}}}}, "right": {right}}}}}, {{"{verdict}": null}}]}}}}"#
            )
        };
        let chain = r#"{"chain": {"hook": "input", "policy": "drop"}}"#;
        let text = format!(
            r#"{{"nftables": [{{"metainfo": {{}}}}, {chain}, {}, {}, {}, {}]}}"#,
            rule("tcp", "22", "accept"),
            rule("tcp", r#"{"set": [80, {"range": [8000, 8010]}]}"#, "accept"),
            rule("udp", "5353", "accept"),
            rule("tcp", "25", "drop"),
        );
        let open = nft(&text).unwrap();
        assert!(open.drops);
        assert_eq!(open.tcp.into_iter().collect::<Vec<_>>(), ["22", "80", "8000-8010"]);
        assert_eq!(open.udp.into_iter().collect::<Vec<_>>(), ["5353"]);
        assert!(!nft(r#"{"nftables": []}"#).unwrap().drops);
        assert!(nft("nonsense").is_err());
    }

    /// As NixOS 25.05 has it, shortened.
    #[test]
    fn rules_of_iptables() {
        let text = "*filter\n-A INPUT -j nixos-fw\n-A nixos-fw -i lo -j nixos-fw-accept\n\
                    -A nixos-fw -p tcp -m tcp --dport 22 -j nixos-fw-accept\n\
                    -A nixos-fw -p udp -m udp --dport 60000:61000 -j nixos-fw-accept\n\
                    -A nixos-fw -j nixos-fw-log-refuse\nCOMMIT\n";
        let open = iptables(text).unwrap();
        assert!(open.drops);
        assert_eq!(open.tcp.into_iter().collect::<Vec<_>>(), ["22"]);
        assert_eq!(open.udp.into_iter().collect::<Vec<_>>(), ["60000-61000"]);
        assert!(!iptables(&text.replace("-A INPUT -j nixos-fw\n", "")).unwrap().drops);
        assert_eq!(iptables("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"), None);
    }
}
