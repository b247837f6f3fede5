use super::*;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

/// A machine on which all is well.
fn good() -> Facts {
    let nft = r#"{"nftables": [{"chain": {"family": "inet", "table": "t", "name": "in", "type": "filter",
        "hook": "input", "policy": "drop"}},
        {"rule": {"family": "inet", "table": "t", "chain": "in", "expr": [
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}},
        "right": 22}}, {"accept": null}]}}]}"#;
    let luks = r#"{"keyslots": {"0": {}, "1": {}}, "tokens": {"0": {"type": "systemd-tpm2", "keyslots": ["0"]},
        "1": {"type": "systemd-recovery", "keyslots": ["1"]}}}"#;
    let datasets = "rpool\tencryption\toff\nrpool\tmounted\tno\n\
        rpool/crypt/system\tencryption\taes-256-gcm\nrpool/crypt/system\tmounted\tyes\n\
        rpool/crypt/system\tkeystatus\tavailable\nrpool/crypt/system\tencryptionroot\trpool/crypt";
    Facts::default()
        .with("hostname", "nas")
        .with("etc-hostname", "nas")
        .with("variant", "")
        .with("current-system", "/nix/store/x-nixos-system-nas")
        .without("iptables")
        .without("ip6tables")
        .with("ipv6", "0\n0")
        .with("nft", nft)
        .with("sshd", "permitrootlogin prohibit-password\npasswordauthentication no\nkbdinteractiveauthentication no")
        .with("mounts", "rootfs / rootfs rw 0 0\nrpool/crypt/system / zfs rw 0 0")
        .with("pools", "rpool\tONLINE\t77")
        .with("pool-errors", "all pools are healthy")
        .with("datasets", datasets)
        .with("mappers", "dm-0 dev-disk-swap CRYPT-PLAIN-dev-disk-swap")
        .with("credstores", "/dev/zvol/rpool/credstore")
        .with("luks", luks)
        .with("luks-uuid", "u-1")
        .with("swaps", "Filename Type Size Used Priority\n/dev/dm-0 partition 8388604 0 -2")
        .with("services", "Id=sshd.service\nLoadState=loaded\nActiveState=active\n\nId=avahi-daemon.service\nLoadState=not-found\nActiveState=inactive")
        .with("failed", "")
        .with("manager", "FinishTimestampMonotonic=45000000\nSystemState=running")
        .with("sshd-start", "ActiveEnterTimestampMonotonic=40000000\n\nActiveEnterTimestampMonotonic=0")
        .with("mdns", "nas.local\t10.0.2.15")
}

fn checks(facts: &Facts, expected: &Expected) -> Vec<Check> {
    all(facts, &PublicKey::from_openssh(KEY).unwrap(), expected)
}

fn outcome(facts: &Facts, check: &str) -> (Outcome, String) {
    let checks = checks(facts, &Expected::default());
    let found = checks.into_iter().find(|c| c.check == check).unwrap();
    (found.outcome, found.evidence)
}

#[test]
fn all_is_well() {
    for check in checks(&good(), &Expected::default()) {
        let wanted = if check.check == "system" { Outcome::Skip } else { Outcome::Pass };
        assert_eq!(check.outcome, wanted, "{check:?}");
    }
}

/// As OpenZFS 2.3 says it.
const OFFLINE: &str = "  pool: rpool
 state: DEGRADED
status: One or more devices has been taken offline by the administrator.
\tSufficient replicas exist for the pool to continue functioning in a
\tdegraded state.
action: Online the device using 'zpool online' or replace the device with
\t'zpool replace'.
config:

\tNAME                   STATE     READ WRITE CKSUM
\trpool                  DEGRADED     0     0     0
\t  virtio-target-part2  ONLINE       0     0     0
\tlogs
\t  mirror-1             DEGRADED     0     0     0
\t    /run/log-a         OFFLINE      0     0     0
\t    /run/log-b         ONLINE       0     0     7

errors: 3 data errors, use '-v' for a list
";
const OFFLINE_SAID: &str = "One or more devices has been taken offline by the administrator. Sufficient replicas \
     exist for the pool to continue functioning in a degraded state; rpool DEGRADED; mirror-1 DEGRADED; \
     /run/log-a OFFLINE; /run/log-b ONLINE (0 0 7); 3 data errors, use '-v' for a list";

#[test]
fn each_check_fails_by_its_cause() {
    let two = r#"{"keyslots": {"0": {}}, "tokens": {}}"#;
    let other_port = good().get("nft").unwrap().replace("22", "80");
    let cases: &[(&str, &str, &str, &str)] = &[
        ("hostname", "hostname", "other", "not nas"),
        ("system", "variant", "installer", "this is the installer"),
        ("firewall", "nft", r#"{"nftables": []}"#, "not dropped"),
        ("firewall", "nft", &other_port, "TCP 80"),
        (
            "root-login",
            "sshd",
            "permitrootlogin yes\npasswordauthentication yes",
            "PermitRootLogin yes",
        ),
        ("pool", "pools", "rpool\tDEGRADED\t77", "DEGRADED"),
        ("pool", "pool-errors", "  pool: rpool\n state: DEGRADED", "state: DEGRADED"),
        ("pool", "pool-errors", OFFLINE, OFFLINE_SAID),
        (
            "encryption",
            "datasets",
            "rpool/crypt/system\tencryption\toff\nrpool/crypt/system\tmounted\tyes",
            "not encrypted: rpool/crypt/system",
        ),
        ("encryption", "mounts", "/dev/vda2 / ext4 rw 0 0", "no LUKS container"),
        ("credstore", "mappers", "dm-1 credstore CRYPT-LUKS2-1-credstore", "it is open"),
        ("keyslots", "luks", two, "0: a passphrase"),
        ("swap", "swaps", "Filename\n/dev/vda3 partition 1 0 -2", "not encrypted: /dev/vda3"),
        (
            "services",
            "services",
            "Id=sshd.service\nLoadState=loaded\nActiveState=failed",
            "sshd.service is failed",
        ),
        ("failed-units", "failed", "x.service loaded failed failed X", "x.service"),
        ("boot-time", "manager", "FinishTimestampMonotonic=0\nSystemState=starting", "starting"),
        ("boot-time", "manager", "FinishTimestampMonotonic=120000001", "after 120.0 s"),
        ("ssh-time", "sshd-start", "ActiveEnterTimestampMonotonic=300000000", "after 300.0 s"),
    ];
    for (check, fact, text, words) in cases {
        let (outcome, evidence) = outcome(&good().with(fact, text), check);
        assert_eq!(outcome, Outcome::Fail, "{check} with {fact} = {text:?}: {evidence}");
        assert!(evidence.contains(words), "{check}: {evidence}");
    }
}

/// What NixOS's firewall of iptables says: see `firewall_tests.rs`.
const IPTABLES: &str = include_str!("fixtures/nixos-iptables.txt");
const IP6TABLES: &str = include_str!("fixtures/nixos-ip6tables.txt");

#[test]
fn the_firewall_is_asked_of_both_families() {
    let firewall = |facts: &Facts| outcome(facts, "firewall");
    let nixos = good().without("nft").with("iptables", IPTABLES).with("ip6tables", IP6TABLES);
    let (said, evidence) = firewall(&nixos);
    assert_eq!(said, Outcome::Pass, "{evidence}");
    assert_eq!(evidence, "everything is dropped but TCP 22, UDP 5353 546 67");

    // Only one of the two is filtered.
    let none = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT";
    for (family, program) in [("IPv4", "iptables"), ("IPv6", "ip6tables")] {
        for text in ["", none] {
            let (said, evidence) = firewall(&nixos.clone().with(program, text));
            assert_eq!(said, Outcome::Fail, "{evidence}");
            assert!(evidence.ends_with(&format!("not dropped, by {family}")), "{evidence}");
        }
        // Or can't be asked.
        let (said, evidence) = firewall(&nixos.clone().without(program));
        assert_eq!(said, Outcome::Skip, "{evidence}");
        assert_eq!(evidence, format!("{family}: the machine has no program to ask"));
    }
    let neither = nixos.clone().with("iptables", none).with("ip6tables", none);
    assert!(firewall(&neither).1.ends_with("not dropped, by IPv4 and IPv6"));

    // Without IPv6 there is nothing to filter.
    let (said, evidence) = firewall(&nixos.clone().with("ip6tables", none).with("ipv6", "1\n1"));
    assert_eq!(said, Outcome::Pass, "{evidence}");
    assert!(evidence.ends_with("; IPv6 is off"), "{evidence}");
    let one = nixos.clone().with("ip6tables", none).with("ipv6", "1\n0");
    assert_eq!(firewall(&one).0, Outcome::Fail);

    // The other family is named by its program.
    let web = "-A nixos-fw -p tcp -m tcp --dport 80 -j nixos-fw-accept";
    let open = IP6TABLES.replace("-A nixos-fw -i lo", &format!("{web}\n-A nixos-fw -i lo"));
    let (said, evidence) = firewall(&nixos.clone().with("ip6tables", &open));
    assert_eq!(said, Outcome::Fail);
    assert_eq!(evidence, format!("more than SSH is let in: TCP 80 (ip6tables {web})"));
}

#[test]
fn a_chain_that_drops_all_the_rest_is_enough() {
    let firewall = |facts: &Facts| outcome(facts, "firewall");
    let nft = good().get("nft").unwrap().to_owned();
    // That of nftables beside one of iptables that lets in more, and the other way round.
    let open = IPTABLES.replace("--dport 22", "--dport 80");
    assert_eq!(firewall(&good().with("iptables", &open)).0, Outcome::Pass);
    let web = nft.replace("22", "80");
    let nixos = good().with("iptables", IPTABLES).with("ip6tables", IP6TABLES);
    assert_eq!(firewall(&nixos.clone().with("nft", &web)).0, Outcome::Pass);
    // What iptables keeps in nftables is named by its own program.
    let kept =
        nft.replace("inet", "ip").replace("\"t\"", "\"filter\"").replace("\"in\"", "\"INPUT\"");
    let facts = nixos.clone().with("iptables", &open).with("nft", &kept.replace("22", "81"));
    let (said, evidence) = firewall(&facts);
    assert_eq!(said, Outcome::Fail);
    assert!(evidence.contains("TCP 80 (iptables") && !evidence.contains("81"), "{evidence}");
    assert!(firewall(&facts.without("iptables")).1.contains("TCP 81 (nft ip filter INPUT"));
    // A table of nftables for one family leaves the other one open.
    let (said, evidence) = firewall(&good().with("nft", &nft.replace("inet", "ip")));
    assert_eq!(said, Outcome::Fail);
    assert!(evidence.ends_with("not dropped, by IPv6"), "{evidence}");
    // Which the other program's chains may drop.
    let facts = good().with("nft", &nft.replace("inet", "ip")).with("ip6tables", IP6TABLES);
    assert_eq!(firewall(&facts).0, Outcome::Pass);
}

#[test]
fn a_firewall_that_did_not_answer_is_skipped() {
    let nixos = good().without("nft").with("iptables", IPTABLES).with("ip6tables", IP6TABLES);
    let (said, evidence) = outcome(&nixos.with("nft", "nonsense").without("ip6tables"), "firewall");
    assert_eq!(said, Outcome::Skip);
    assert!(evidence.starts_with("IPv6: nft: "), "{evidence}");
    // As Facts::parse has a program that fails.
    let failed =
        Facts::parse("\x1enft\nno\n\x1f1\n\x1eiptables\n\x1f127\n\x1eip6tables\n\x1f127\n");
    let (said, evidence) = outcome(&failed, "firewall");
    assert_eq!((said, evidence.as_str()), (Outcome::Skip, "nft: exit status 1: no"));
    let open = format!("\x1eiptables\n{}\x1f0\n", IPTABLES.replace("--dport 22", "--dport 80"));
    let facts = Facts::parse(&format!("{open}\x1enft\n\x1f127\n\x1eip6tables\nno\n\x1f1\n"));
    let (said, evidence) = outcome(&facts, "firewall");
    assert!(said == Outcome::Fail && evidence.contains("TCP 80 (iptables -A"), "{evidence}");
}

#[test]
fn a_dataset_with_a_key_of_its_own_is_found() {
    let datasets = format!(
        "{}\nrpool/other\tencryption\taes-256-gcm\nrpool/other\tmounted\tyes\n\
         rpool/other\tkeystatus\tavailable\nrpool/other\tencryptionroot\trpool/other",
        good().get("datasets").unwrap()
    );
    let facts = good().with("datasets", &datasets);
    let (said, evidence) = outcome(&facts, "encryption");
    assert_eq!(said, Outcome::Fail, "{evidence}");
    assert!(evidence.contains("rpool/other under rpool/other"), "{evidence}");
    // Without a credstore the layout may have as many keys as it likes.
    assert_eq!(outcome(&facts.without("credstores"), "encryption").0, Outcome::Pass);
}

#[test]
fn containers_that_are_open_have_the_slots_of_the_report() {
    let header = good().get("luks").unwrap().replace(['\n', '\t'], "");
    let facts =
        good().without("credstores").with("containers", &format!("cryptroot\tu-2\t{header}"));
    let (said, evidence) = outcome(&facts, "keyslots");
    assert_eq!(said, Outcome::Skip);
    assert!(evidence.contains("cryptroot: 0: systemd-tpm2, 1: systemd-recovery"), "{evidence}");
    let with = |uuid: &str, slots: serde_json::Value| {
        let report = serde_json::json!({
            "version": 1, "agent_version": "1", "plan": "hash", "toplevel": "/nix/store/x", "disks": {},
            "pools": {}, "containers": {"cryptroot": {"uuid": uuid, "keyslots": slots}},
            "ssh_host_key": null, "steps": [], "warnings": [], "ends_at": "sealed", "started_at": 1
        });
        let report = Some(serde_json::from_value(report).unwrap());
        let checks = checks(&facts, &Expected { report, hostname: None });
        let found = checks.into_iter().find(|check| check.check == "keyslots").unwrap();
        (found.outcome, found.evidence)
    };
    let both = || serde_json::json!({"0": "tpm2", "1": "recovery"});
    assert_eq!(with("u-2", both()).0, Outcome::Pass);
    assert!(with("u-3", both()).1.contains("u-3 was installed"));
    let (said, evidence) = with("u-2", serde_json::json!({"0": "tpm2"}));
    assert!(said == Outcome::Fail && evidence.contains(r#"["1"]"#), "{evidence}");
    // A token that was swapped for another kind, or is gone with its slot.
    for (slots, now) in [
        (
            serde_json::json!({"0": "recovery", "1": "recovery"}),
            "slot 0 was opened by systemd-recovery",
        ),
        (
            serde_json::json!({"0": "tpm2", "1": "recovery", "2": "tpm2"}),
            "slot 2 was opened by systemd-tpm2, and is by nothing",
        ),
    ] {
        let (said, evidence) = with("u-2", slots);
        assert!(said == Outcome::Fail && evidence.contains(now), "{evidence}");
    }
    assert_eq!(with("u-2", serde_json::json!({"0": "password", "1": "recovery"})).0, Outcome::Pass);
    let none = facts.clone().with("containers", "");
    assert_eq!(outcome(&none, "keyslots").0, Outcome::Skip);
}

#[test]
fn what_cant_be_asked_is_skipped_with_the_reason() {
    for (check, fact) in
        [("firewall", "nft"), ("pool", "pools"), ("mdns", "mdns"), ("root-login", "sshd")]
    {
        let (outcome, evidence) = outcome(&good().without(fact), check);
        assert_eq!(
            (outcome, evidence.as_str()),
            (Outcome::Skip, "the machine has no program to ask"),
            "{check}"
        );
    }
}

#[test]
fn checks_as_people_read_them() {
    let facts = good().with("swaps", "Filename\n/dev/vda3 partition 1 0 -2").without("mdns");
    let verified = super::super::Verified { checks: checks(&facts, &Expected::default()) };
    insta::assert_snapshot!(super::super::show::text(&verified, crate::ui::style::Style::PLAIN));
}

#[test]
fn only_what_is_required_fails_the_verification() {
    let mut verified = super::super::Verified { checks: checks(&good(), &Expected::default()) };
    assert_eq!(verified.exit_code(), 0);
    verified.checks.iter_mut().find(|c| c.check == "mdns").unwrap().outcome = Outcome::Fail;
    assert_eq!(verified.exit_code(), 0);
    verified.checks.iter_mut().find(|c| c.check == "swap").unwrap().outcome = Outcome::Fail;
    assert_eq!(verified.exit_code(), 1);
}
