use super::super::{iptables, nft};
use super::*;

/// What `iptables-save` and `ip6tables-save` say of the rules of nixpkgs
/// `nixos/modules/services/networking/firewall-iptables.nix` with its defaults, `allowedTCPPorts` 22,
/// `allowedUDPPorts` 5353 and a `pingLimit`.
const IPTABLES: &str = include_str!("fixtures/nixos-iptables.txt");
const IP6TABLES: &str = include_str!("fixtures/nixos-ip6tables.txt");

/// What `nft -j list ruleset` says of those of nixpkgs
/// `nixos/modules/services/networking/firewall-nftables.nix` with the same, and `rejectPackets`.
const NFT: &str = include_str!("fixtures/nixos-nft.json");

fn words(list: &BTreeSet<String>) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

#[test]
fn nixos_s_own_rules_let_in_nothing_more() {
    let ipv4 = iptables::read("iptables", IPTABLES);
    let ipv6 = iptables::read("ip6tables", IP6TABLES);
    assert!(ipv4.drops && ipv6.drops);
    assert_eq!((words(&ipv4.more), words(&ipv6.more)), (vec![], vec![]));
    assert_eq!((words(&ipv4.tcp), words(&ipv6.tcp)), (vec!["22"], vec!["22"]));
    assert_eq!(words(&ipv4.udp), ["5353", "67"]);
    assert_eq!(words(&ipv6.udp), ["5353", "546", "67"]);
    // `rejectPackets`.
    let reject = IPTABLES.replace(
        "-A nixos-fw-refuse -j DROP",
        "-A nixos-fw-refuse -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j REJECT --reject-with tcp-reset\n\
         -A nixos-fw-refuse -j REJECT --reject-with icmp-port-unreachable",
    );
    assert_eq!(iptables::read("iptables", &reject), ipv4);

    let [filter] = &nft::read(NFT).unwrap()[..] else { panic!("one chain is at the hook") };
    assert!(filter.drops && filter.ipv4 && filter.ipv6);
    assert_eq!(words(&filter.more), [""; 0]);
    assert_eq!((words(&filter.tcp), words(&filter.udp)), (vec!["22"], vec!["5353", "546"]));
}

/// NixOS's chain with a rule more.
fn with_rule(rule: &str) -> Filter {
    let last = "-A nixos-fw -j nixos-fw-log-refuse";
    assert_eq!(IPTABLES.matches(last).count(), 1);
    iptables::read("iptables", &IPTABLES.replace(last, &format!("{rule}\n{last}")))
}

#[test]
fn rules_of_iptables_that_let_in_more() {
    for (rule, what) in [
        ("-A nixos-fw -i wg0 -j nixos-fw-accept", "trusted interface wg0"),
        ("-A nixos-fw -i lo+ -j nixos-fw-accept", "trusted interface lo+"),
        ("-A INPUT -i tailscale0 -j ACCEPT", "trusted interface tailscale0"),
        ("-A nixos-fw -j ACCEPT", "everything"),
        ("-A nixos-fw -j nixos-fw-accept", "everything"),
        ("-A nixos-fw -m comment --comment \"-j \\\"DROP\\\"\" -j ACCEPT", "everything"),
        ("-A nixos-fw ! -i lo -j ACCEPT", "any port"),
        ("-A nixos-fw -s 10.0.0.0/8 -j nixos-fw-accept", "any port"),
        ("-A nixos-fw -p tcp -j nixos-fw-accept", "any port"),
        ("-A nixos-fw -p tcp -m tcp ! --dport 22 -j nixos-fw-accept", "any port"),
        ("-A nixos-fw -p tcp -m tcp --sport 22 -j nixos-fw-accept", "any port"),
        ("-A nixos-fw ! -p icmp -j nixos-fw-accept", "any port"),
        ("-A nixos-fw -m conntrack --ctstate NEW,ESTABLISHED -j nixos-fw-accept", "everything"),
        ("-A nixos-fw -m conntrack ! --ctstate RELATED -j nixos-fw-accept", "any port"),
        ("-A nixos-fw -m conntrack --ctstate DNAT -j nixos-fw-accept", "everything"),
        ("-A nixos-fw -m socket -j nixos-fw-accept", "any port"),
        ("-A nixos-fw -j NFQUEUE --queue-num 1", "everything"),
        ("-A nixos-fw -g nixos-fw-accept", "everything"),
        ("-A nixos-fw -p udp -m udp --dport 22 -j nixos-fw-accept", "UDP 22"),
        ("-A nixos-fw -p udp -m udp --dport 546 -j nixos-fw-accept", "UDP 546"),
        ("-A nixos-fw -i eth0 -p udp -m udp --dport 67 -j nixos-fw-accept", "UDP 67"),
        ("-A nixos-fw -i wg0 -p tcp -m tcp --dport 80 -j nixos-fw-accept", "TCP 80"),
        ("-A nixos-fw -p udp -m udp --dport 60000:61000 -j nixos-fw-accept", "UDP 60000-61000"),
        ("-A nixos-fw -p tcp -m multiport --dports 22,80 -j nixos-fw-accept", "TCP 80"),
        ("-A nixos-fw -p sctp -m sctp --dport 22 -j nixos-fw-accept", "SCTP 22"),
        ("-A nixos-fw -p tcp -m tcp --dport 1:1024 -j nixos-fw-accept", "TCP 1-1024"),
        ("-A nixos-fw -i eth0 -j SOMEWHERE", "trusted interface eth0"),
    ] {
        let filter = match rule.starts_with("-A INPUT") {
            true => iptables::read(
                "iptables",
                &IPTABLES.replace("-A INPUT", &format!("{rule}\n-A INPUT")),
            ),
            false => with_rule(rule),
        };
        assert!(filter.drops, "{rule}");
        assert_eq!(words(&filter.more), [format!("{what} (iptables {rule})")], "{rule}");
    }
}

#[test]
fn rules_of_iptables_that_don_t() {
    let nixos = iptables::read("iptables", IPTABLES);
    for rule in [
        "-A nixos-fw -i wg0 -p tcp -m tcp --dport 22 -j nixos-fw-accept",
        "-A nixos-fw -p tcp -m tcp --dport 22 -m limit --limit 3/min -j ACCEPT",
        "-A nixos-fw -m state --state RELATED,ESTABLISHED -j ACCEPT",
        "-A nixos-fw -m conntrack --ctstate NEW -m tcp -p tcp --dport 22 -j ACCEPT",
        "-A nixos-fw -d fe80::/64 -i eth0 -p udp -m udp --dport 67 -j DROP",
        "-A nixos-fw -p tcp -m tcp --dport 25 -j DROP",
        "-A nixos-fw -p tcp -m tcp --dport 25 -j LOG --log-prefix \"-j ACCEPT\"",
        "-A nixos-fw -p tcp -m tcp --dport 25",
        "-A nixos-fw -m set --match-set banned src -j nixos-fw-refuse",
        // Nobody calls it.
        "-A elsewhere -j ACCEPT",
        // Comes after everything was dropped.
        "-A nixos-fw -j DROP\n-A nixos-fw -j ACCEPT",
        "-A nixos-fw -j nixos-fw-refuse\n-A nixos-fw -p tcp -m tcp --dport 80 -j ACCEPT",
    ] {
        assert_eq!(with_rule(rule), nixos, "{rule}");
    }
}

#[test]
fn what_iptables_does_not_drop() {
    let drops = |text: &str| iptables::read("iptables", text).drops;
    for (rule, instead) in [
        ("-A INPUT -j nixos-fw\n", ""),
        ("-A INPUT -j nixos-fw\n", "-A INPUT -i eth0 -j nixos-fw\n"),
        ("-A nixos-fw -j nixos-fw-log-refuse\n", ""),
        ("-A nixos-fw-refuse -j DROP\n", "-A nixos-fw-refuse -p tcp -j DROP\n"),
        ("-A nixos-fw-refuse -j DROP\n", "-A nixos-fw-refuse -m conntrack --ctstate NEW -j DROP\n"),
        ("-A nixos-fw -i lo", "-A nixos-fw -i wg0 -j RETURN\n-A nixos-fw -i lo"),
        ("-A nixos-fw -i lo", "-A nixos-fw -j RETURN\n-A nixos-fw -i lo"),
    ] {
        assert!(IPTABLES.contains(rule));
        assert!(!drops(&IPTABLES.replace(rule, instead)), "{rule} -> {instead}");
    }
    // What comes back is dropped by the policy.
    let policy = IPTABLES.replace(":INPUT ACCEPT", ":INPUT DROP");
    assert!(drops(&policy.replace("-A nixos-fw -j nixos-fw-log-refuse\n", "")));
    // Another table's chain of that name does not count.
    assert!(!drops("*mangle\n:INPUT DROP [0:0]\n-A INPUT -j DROP\nCOMMIT\n"));
    assert!(!drops(""));
}

#[test]
fn chains_that_call_each_other_end() {
    let text = "*filter\n-A INPUT -j a\n-A a -j b\n-A a -j b\n-A b -j a\n-A b -j a\nCOMMIT\n";
    let filter = iptables::read("iptables", text);
    assert!(!filter.drops && !filter.more.is_empty());
}

/// NixOS's table with a rule more, as `nft -j` has it, and with `more` items.
fn with_nft(chain: &str, expressions: &str, more: &str) -> Filter {
    let rule = format!(
        r#"{{"rule": {{"family": "inet", "table": "nixos-fw", "chain": "{chain}", "expr": [{expressions}]}}}}"#
    );
    // Before the others.
    let first = NFT.find(r#"{"rule""#).unwrap();
    let text = format!("{}{more}{rule},\n{}", &NFT[..first], &NFT[first..]);
    nft::read(&text).unwrap().remove(0)
}

fn of(left: &str, op: &str, right: &str) -> String {
    format!(r#"{{"match": {{"op": "{op}", "left": {left}, "right": {right}}}}}"#)
}

const IIFNAME: &str = r#"{"meta": {"key": "iifname"}}"#;
const STATE: &str = r#"{"ct": {"key": "state"}}"#;
const L4PROTO: &str = r#"{"meta": {"key": "l4proto"}}"#;

fn payload(protocol: &str, field: &str) -> String {
    format!(r#"{{"payload": {{"protocol": "{protocol}", "field": "{field}"}}}}"#)
}

const SETS: &str = r#"{"set": {"family": "inet", "table": "nixos-fw", "name": "ports", "type": "inet_service",
    "elem": [22, {"elem": {"val": 443, "timeout": 3600}}, {"range": [8000, 8010]}]}},
    {"set": {"family": "inet", "table": "nixos-fw", "name": "pairs", "type": ["inet_proto", "inet_service"],
    "elem": [{"concat": ["udp", 5353]}, {"concat": ["tcp", 22]}, {"concat": ["udp", {"range": [9000, 9010]}]}]}},
    {"map": {"family": "inet", "table": "nixos-fw", "name": "verdicts", "type": "inet_service", "map": "verdict",
    "elem": [[25, {"accept": null}], [26, {"drop": null}], [22, {"accept": null}]]}},
"#;

#[test]
fn rules_of_nftables_that_let_in_more() {
    let dport = |protocol: &str| payload(protocol, "dport");
    let pair = format!(r#"{{"concat": [{L4PROTO}, {}]}}"#, dport("th"));
    let vmap = |data: &str| format!(r#"{{"vmap": {{"key": {}, "data": {data}}}}}"#, dport("tcp"));
    let cases: Vec<(String, &[&str])> = vec![
        (of(IIFNAME, "==", r#""wg0""#), &["trusted interface wg0 (iifname wg0 accept)"]),
        (
            of(IIFNAME, "==", r#"{"set": ["lo", "wg0"]}"#),
            &["trusted interface wg0 (iifname { lo, wg0 } accept)"],
        ),
        (of(IIFNAME, "!=", r#""lo""#), &["any port (iifname !=lo accept)"]),
        (of(IIFNAME, "==", r#""@unknown""#), &["any port (iifname @unknown accept)"]),
        (String::new(), &["everything (accept)"]),
        (r#"{"counter": {"packets": 0, "bytes": 0}}"#.to_owned(), &["everything (accept)"]),
        (r#"{"limit": {"rate": 2}}"#.to_owned(), &["any port (limit accept)"]),
        (r#"{"xt": {"type": "match", "name": "x"}}"#.to_owned(), &["any port (xt accept)"]),
        (of(L4PROTO, "==", r#""tcp""#), &["any port (l4proto tcp accept)"]),
        (
            of(L4PROTO, "==", r#"{"set": ["icmp", "tcp"]}"#),
            &["any port (l4proto { icmp, tcp } accept)"],
        ),
        (
            of(&payload("ip", "saddr"), "==", r#"{"prefix": {"addr": "10.0.0.0", "len": 8}}"#),
            &["any port (ip saddr 10.0.0.0/8 accept)"],
        ),
        (of(STATE, "!=", r#""invalid""#), &["any port (ct state !=invalid accept)"]),
        (
            of(STATE, "in", r#"["established", "new"]"#),
            &["everything (ct state established,new accept)"],
        ),
        (of(&dport("tcp"), "==", "80"), &["TCP 80 (tcp dport 80 accept)"]),
        (of(&dport("udp"), "==", "546"), &["UDP 546 (udp dport 546 accept)"]),
        (of(&dport("tcp"), "!=", "22"), &["any port (tcp dport !=22 accept)"]),
        (of(&dport("th"), "==", "22"), &["UDP 22 (th dport 22 accept)"]),
        (
            of(&dport("tcp"), "==", r#"{"set": [22, 80, {"range": [8000, 8010]}]}"#),
            &[
                "TCP 80 (tcp dport { 22, 80, 8000-8010 } accept)",
                "TCP 8000-8010 (tcp dport { 22, 80, 8000-8010 } accept)",
            ],
        ),
        (
            of(&dport("tcp"), "==", r#""@ports""#),
            &["TCP 443 (tcp dport @ports accept)", "TCP 8000-8010 (tcp dport @ports accept)"],
        ),
        (of(&pair, "==", r#""@pairs""#), &["UDP 9000-9010 (l4proto . th dport @pairs accept)"]),
        (of(&pair, "==", r#""@unknown""#), &["any port (l4proto . th dport @unknown accept)"]),
        (
            of(&pair, "==", r#"{"set": [{"concat": ["tcp", 81]}]}"#),
            &["TCP 81 (l4proto . th dport { tcp . 81 } accept)"],
        ),
        (vmap(r#""@verdicts""#), &["TCP 25 (tcp dport 25 accept)"]),
        (vmap(r#""@unknown""#), &["any port (tcp dport vmap @unknown)"]),
        (vmap(r#"{"set": [[30, {"accept": null}]]}"#), &["TCP 30 (tcp dport 30 accept)"]),
        (r#"{"queue": {"num": 1}}"#.to_owned(), &["everything (queue)"]),
    ];
    for (matches, wanted) in cases {
        let accept = r#"{"accept": null}"#;
        let expressions =
            if matches.is_empty() { accept.to_owned() } else { format!("{matches}, {accept}") };
        for chain in ["input", "input-allow"] {
            let filter = with_nft(chain, &expressions, SETS);
            assert!(filter.drops, "{expressions}");
            let place = format!("nft inet nixos-fw {chain}: ");
            let more: BTreeSet<String> =
                filter.more.iter().map(|rule| rule.replace(&place, "")).collect();
            let wanted: BTreeSet<String> = wanted.iter().map(|rule| (*rule).to_owned()).collect();
            assert_eq!(more, wanted, "{chain}: {expressions}");
        }
    }
}

#[test]
fn rules_of_nftables_that_don_t() {
    let nixos = nft::read(NFT).unwrap().remove(0);
    let (daddr, dport) = (payload("ip6", "daddr"), payload("udp", "dport"));
    let local = r#"{"prefix": {"addr": "fe80::", "len": 64}}"#;
    let client = format!("{}, {}", of(&daddr, "==", local), of(&dport, "==", "546"));
    let from = format!("{}, {client}", of(&payload("udp", "sport"), "==", "547"));
    for matches in [
        of(IIFNAME, "==", r#""lo""#),
        of(r#"{"meta": {"key": "iif"}}"#, "==", r#""lo""#),
        of(STATE, "in", r#"["established", "related"]"#),
        of(STATE, "in", r#""established""#),
        of(STATE, "==", r#"{"set": ["established", "related"]}"#),
        of(L4PROTO, "==", r#"{"set": ["icmp", "ipv6-icmp"]}"#),
        of(&payload("ip", "protocol"), "==", r#""icmp""#),
        of(&payload("icmp", "type"), "==", r#""echo-request""#),
        of(&payload("icmpv6", "type"), "!=", "139"),
        of(&payload("tcp", "dport"), "==", "22"),
        format!("{}, {}", of(STATE, "in", r#""new""#), of(&payload("tcp", "dport"), "==", "22")),
        // The set is empty.
        of(&payload("tcp", "dport"), "==", r#""@temp-ports""#),
        client,
        from,
    ] {
        let filter = with_nft("input-allow", &format!(r#"{matches}, {{"accept": null}}"#), "");
        assert_eq!(filter, nixos, "{matches}");
    }
    let guests = format!("{}, {}", of(IIFNAME, "==", r#""ve-*""#), of(&dport, "==", "67"));
    let filter = with_nft("input", &format!(r#"{guests}, {{"accept": null}}"#), "");
    assert_eq!((words(&filter.more), filter.udp.contains("67")), (vec![], true));
    // What is dropped, what is not called, and what another hook accepts.
    let web = of(&payload("tcp", "dport"), "==", "80");
    assert_eq!(with_nft("input", &format!(r#"{web}, {{"drop": null}}"#), ""), nixos);
    assert_eq!(with_nft("elsewhere", &format!(r#"{web}, {{"accept": null}}"#), ""), nixos);
    assert_eq!(with_nft("rpfilter", &format!(r#"{web}, {{"accept": null}}"#), ""), nixos);
}

#[test]
fn what_nftables_does_not_drop() {
    let open = NFT.replace(r#""prio": 0, "policy": "drop""#, r#""prio": 0, "policy": "accept""#);
    // The module's last rule rejects, with `rejectPackets`.
    assert!(nft::read(&open).unwrap()[0].drops);
    let open = open.replace(r#"{"reject": {"type": "icmpx", "expr": "port-unreachable"}}"#, "");
    assert!(!nft::read(&open).unwrap()[0].drops);
    assert_eq!(nft::read(r#"{"nftables": []}"#), Ok(vec![]));
    let hook = r#"{"nftables": [{"chain": {"family": "bridge", "table": "t", "name": "c", "type": "filter",
        "hook": "input", "policy": "drop"}}]}"#;
    assert_eq!(nft::read(hook), Ok(vec![]));
    assert!(nft::read("nonsense").is_err());
    assert!(nft::read("").is_err());
    assert!(nft::read("{}").is_err());
    // Warnings are not the answer.
    let noise = format!("# Warning: table ip filter is managed by iptables-nft\n{NFT}\nmore");
    assert_eq!(nft::read(&noise), nft::read(NFT));
}
