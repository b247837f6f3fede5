//! Facts and expectations → checks.

use super::facts::Facts;
use super::firewall::Filter;
use super::{Check, Expected, Outcome, iptables, nft};
use crate::ssh::PublicKey;
use crate::ssh::host_key::fingerprint;
use keystone_protocol::report::ContainerReport;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The machine boots, and answers SSH, within this, in microseconds since its kernel's start.
const BOOT_BOUND: u64 = 120_000_000;

/// What a check says: passed or failed with this evidence, or skipped for this reason.
enum Say {
    Pass(String),
    Fail(String),
    Skip(String),
}

use Say::{Fail, Pass, Skip};

impl Say {
    fn of(good: bool, evidence: String) -> Say {
        if good { Pass(evidence) } else { Fail(evidence) }
    }
}

/// A reason is a skip: so `?` ends a check whose question has no answer.
type Said = Result<Say, String>;

/// All checks, in the order they are shown.
pub fn all(facts: &Facts, host_key: &PublicKey, expected: &Expected) -> Vec<Check> {
    let required = true;
    let checks: [(&'static str, bool, Said); 15] = [
        ("ssh", required, ssh(host_key, expected)),
        ("hostname", required, hostname(facts, expected)),
        ("system", required, system(facts, expected)),
        ("firewall", required, open_ports(facts)),
        ("root-login", required, root_login(facts)),
        ("pool", required, pool(facts, expected)),
        ("encryption", required, encryption(facts)),
        ("credstore", required, credstore(facts)),
        ("keyslots", required, keyslots(facts, expected)),
        ("swap", required, swap(facts)),
        ("services", required, services(facts)),
        ("failed-units", required, failed_units(facts)),
        ("boot-time", required, boot_time(facts)),
        ("ssh-time", required, ssh_time(facts)),
        ("mdns", !required, mdns(facts)),
    ];
    checks
        .into_iter()
        .map(|(check, required, said)| {
            let (outcome, evidence) = match said.unwrap_or_else(Skip) {
                Pass(evidence) => (Outcome::Pass, evidence),
                Fail(evidence) => (Outcome::Fail, evidence),
                Skip(evidence) => (Outcome::Skip, evidence),
            };
            Check { check, outcome, required, evidence }
        })
        .collect()
}

/// It answered; with the key it was installed with.
fn ssh(host_key: &PublicKey, expected: &Expected) -> Said {
    let print = fingerprint(host_key);
    let wanted = expected.report.as_ref().and_then(|report| report.ssh_host_key.as_deref());
    let Some(wanted) = wanted else { return Ok(Pass(format!("answers, host key {print}"))) };
    let same = PublicKey::from_openssh(wanted)
        .is_ok_and(|wanted| wanted.key_data() == host_key.key_data());
    Ok(match same {
        true => Pass(format!("answers with the host key it was installed with, {print}")),
        false => Fail(format!("answers with {print}, and was installed with {wanted}")),
    })
}

fn hostname(facts: &Facts, expected: &Expected) -> Said {
    let name = facts.get("hostname")?;
    let wanted = match &expected.hostname {
        Some(wanted) => wanted.as_str(),
        None => facts.get("etc-hostname")?,
    };
    Ok(Say::of(
        name == wanted,
        match name == wanted {
            true => name.to_owned(),
            false => format!("{name}, not {wanted}"),
        },
    ))
}

fn system(facts: &Facts, expected: &Expected) -> Said {
    if facts.get("variant") == Ok("installer") {
        return Ok(Fail("this is the installer".to_owned()));
    }
    let runs = match facts.get("current-system") {
        Ok(runs) => runs,
        Err(why) => return Ok(Fail(format!("no /run/current-system: {why}"))),
    };
    let Some(report) = &expected.report else {
        return Err(format!("nothing to compare with (--expect); {runs} runs"));
    };
    Ok(match runs == report.toplevel {
        true => Pass(runs.to_owned()),
        false => Fail(format!("{runs} runs, and {} was installed", report.toplevel)),
    })
}

/// What the firewall lets in by one family of addresses.
enum LetIn {
    /// What may be.
    Only(Filter),
    /// This too, each with its rule.
    More(BTreeSet<String>),
    /// Nothing drops the rest.
    Everything,
    /// It can't be told.
    Unknown(String),
}

/// Only SSH is let in, by IPv4 and by IPv6.
fn open_ports(facts: &Facts) -> Said {
    let nft = facts.get("nft").and_then(nft::read);
    let ipv4 = facts.get("iptables").map(|text| iptables::read("iptables", text));
    let ipv6 = facts.get("ip6tables").map(|text| iptables::read("ip6tables", text));
    // Why there may be chains that were not read.
    let unread = |program: &str, own: Option<&String>| {
        let said = [(program, own), ("nft", nft.as_ref().err())];
        let said: Vec<_> = said.into_iter().filter_map(|(name, why)| Some((name, why?))).collect();
        let lacks = |(name, _): &(&str, &String)| facts.lacks(name);
        match said.iter().find(|said| !lacks(said)) {
            Some((name, why)) => Some(format!("{name}: {why}")),
            // One of them is enough: but one there has to be.
            None if said.len() > 1 => Some(said[0].1.clone()),
            None => None,
        }
    };
    let let_in = |program: &str, own: &Result<Filter, String>, sees: fn(&Filter) -> bool| {
        // A chain that both programs show is read once.
        let shown = own.as_ref().is_ok_and(|own| own.drops);
        let nft = nft.iter().flatten().filter(|filter| sees(filter));
        let nft = nft.filter(|filter| !(shown && filter.of_iptables));
        let_in(nft.chain(own), unread(program, own.as_ref().err()))
    };
    let mut families = vec![("IPv4", let_in("iptables", &ipv4, |filter| filter.ipv4))];
    let is_off = |text: &str| !text.is_empty() && text.lines().all(|disabled| disabled == "1");
    let no_ipv6 = facts.get("ipv6").is_ok_and(is_off);
    if !no_ipv6 {
        families.push(("IPv6", let_in("ip6tables", &ipv6, |filter| filter.ipv6)));
    }
    let (mut tcp, mut udp, mut more) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut everything, mut unknown) = (Vec::new(), Vec::new());
    for (family, let_in) in families {
        match let_in {
            LetIn::Only(filter) => {
                tcp.extend(filter.tcp);
                udp.extend(filter.udp);
            }
            LetIn::More(rules) => more.extend(rules),
            LetIn::Everything => everything.push(family),
            LetIn::Unknown(why) => unknown.push((family, why)),
        }
    }
    let list = |list: BTreeSet<String>, by: &str| list.into_iter().collect::<Vec<_>>().join(by);
    let mut bad = Vec::new();
    if !everything.is_empty() {
        let families = everything.join(" and ");
        bad.push(format!("what is not let in expressly is not dropped, by {families}"));
    }
    if !more.is_empty() {
        bad.push(format!("more than SSH is let in: {}", list(more, ", ")));
    }
    if !bad.is_empty() {
        return Ok(Fail(bad.join("; ")));
    }
    match &unknown[..] {
        [] => {}
        [(_, one), (_, other)] if one == other => return Err(one.clone()),
        all => {
            let all: Vec<_> = all.iter().map(|(family, why)| format!("{family}: {why}")).collect();
            return Err(all.join("; "));
        }
    }
    let off = if no_ipv6 { "; IPv6 is off" } else { "" };
    let (tcp, udp) = (list(tcp, " "), list(udp, " "));
    let (tcp, udp) = (or_none(&tcp), or_none(&udp));
    Ok(Pass(format!("everything is dropped but TCP {tcp}, UDP {udp}{off}")))
}

/// What comes in was let in by every chain at the input hook: so it is enough that one of them, of
/// whichever program, drops all the rest. `unread` is why there may be others.
fn let_in<'a>(filters: impl Iterator<Item = &'a Filter>, unread: Option<String>) -> LetIn {
    let dropping: Vec<&Filter> = filters.filter(|filter| filter.drops).collect();
    match (dropping.iter().find(|filter| filter.more.is_empty()), unread) {
        (Some(filter), _) => LetIn::Only((*filter).clone()),
        (None, _) if !dropping.is_empty() => {
            LetIn::More(dropping.iter().flat_map(|filter| filter.more.iter().cloned()).collect())
        }
        (None, Some(why)) => LetIn::Unknown(why),
        (None, None) => LetIn::Everything,
    }
}

fn or_none(list: &str) -> &str {
    if list.is_empty() { "none" } else { list }
}

/// Root logs in by public key only. Keywords: sshd_config(5); sshd -T prints them in lower case.
fn root_login(facts: &Facts) -> Said {
    let text = facts.get("sshd")?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or("not said")
    };
    let root = value("permitrootlogin");
    let password = value("passwordauthentication");
    let interactive = value("kbdinteractiveauthentication");
    let keys_only =
        matches!(root, "prohibit-password" | "without-password" | "forced-commands-only" | "no");
    let nobody_types = password == "no" && interactive == "no";
    let evidence = format!(
        "PermitRootLogin {root}, PasswordAuthentication {password}, KbdInteractiveAuthentication {interactive}"
    );
    Ok(Say::of(keys_only || nobody_types, evidence))
}

fn pool(facts: &Facts, expected: &Expected) -> Said {
    let text = facts.get("pools")?;
    if text.is_empty() {
        return Err("no pool".to_owned());
    }
    let mut said = Vec::new();
    let mut good = true;
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, health, guid] = fields[..] else {
            return Err(format!("not understood: {line}"));
        };
        good &= health == "ONLINE";
        said.push(format!("{name} is {health}"));
        let report = expected.report.as_ref().and_then(|report| report.pools.get(name));
        if let Some(wanted) = report.filter(|report| report.guid != guid) {
            good = false;
            said.push(format!("its GUID is {guid}, and {} was installed", wanted.guid));
        }
    }
    let errors = facts.get("pool-errors")?;
    // zpool(8): what -x says where there is nothing to say.
    good &= errors == "all pools are healthy";
    said.push(in_short(errors));
    Ok(Say::of(good, said.join(", ")))
}

/// Of what `zpool status -x` says: what is wrong, and which devices it is about.
fn in_short(status: &str) -> String {
    let mut status_of = Vec::new();
    let (mut devices, mut errors) = (Vec::new(), None);
    let mut key = "";
    for line in status.lines() {
        let (begins, rest) = match line.trim().split_once(": ") {
            Some((word, rest)) if word.bytes().all(|b| b.is_ascii_lowercase()) => (word, rest),
            _ if line.trim() == "config:" => ("config", ""),
            _ => (key, line.trim()),
        };
        key = begins;
        match (key, &rest.split_whitespace().collect::<Vec<_>>()[..]) {
            ("status", _) => status_of.push(rest),
            ("errors", _) if rest != "No known data errors" => errors = Some(rest),
            ("config", ["NAME", ..]) => {}
            ("config", [name, state, counts @ ..]) => {
                let counted = counts.iter().take(3).any(|count| *count != "0");
                let counts =
                    if counted { format!(" ({})", counts.join(" ")) } else { String::new() };
                if *state != "ONLINE" || counted {
                    devices.push(format!("{name} {state}{counts}"));
                }
            }
            _ => {}
        }
    }
    let said: Vec<String> = [status_of.join(" ").trim_end_matches('.').to_owned()]
        .into_iter()
        .filter(|text| !text.is_empty())
        .chain(devices)
        .chain(errors.map(str::to_owned))
        .collect();
    match said.is_empty() {
        true => status.split_whitespace().collect::<Vec<_>>().join(" "),
        false => said.join("; "),
    }
}

/// Every mounted dataset is encrypted; or the root file system lies in a LUKS container.
fn encryption(facts: &Facts) -> Said {
    let mounts = facts.get("mounts")?;
    // The last mount over a directory is the one that is seen.
    let root = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (source, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (target == "/").then_some((source, kind))
    });
    let (source, kind) = root.last().ok_or("nothing is mounted at /")?;
    if kind != "zfs" {
        let mappers = mappers(facts)?;
        let name = source.strip_prefix("/dev/mapper/").unwrap_or(source);
        return Ok(match mappers.get(name) {
            Some(uuid) if uuid.starts_with("CRYPT-LUKS") => Pass(format!("{source} is {uuid}")),
            _ => Fail(format!(
                "the root file system lies on {source} ({kind}), which is no LUKS container"
            )),
        });
    }
    let mut datasets: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for line in facts.get("datasets")?.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        if let [name, property, value] = fields[..] {
            datasets.entry(name).or_default().insert(property, value);
        }
    }
    let of = |name: &str, property: &str| {
        datasets.get(name).and_then(|values| values.get(property)).copied().unwrap_or("-")
    };
    let mounted: Vec<&str> =
        datasets.keys().copied().filter(|name| of(name, "mounted") == "yes").collect();
    let open: Vec<&str> = mounted
        .iter()
        .copied()
        .filter(|name| of(name, "encryption") == "off" || of(name, "keystatus") != "available")
        .collect();
    if !mounted.contains(&source) {
        return Err(format!("ZFS does not say that {source} is mounted"));
    }
    // The credstore has one key: a dataset with a key of its own is opened by something else.
    let others: Vec<String> = match facts.get("credstores") {
        Ok(_) => mounted
            .iter()
            .filter(|name| of(name, "encryptionroot") != of(source, "encryptionroot"))
            .map(|name| format!("{name} under {}", of(name, "encryptionroot")))
            .collect(),
        Err(_) => Vec::new(),
    };
    Ok(match open.is_empty() {
        true if !others.is_empty() => Fail(format!(
            "not encrypted under {}, whose key the credstore has: {}",
            of(source, "encryptionroot"),
            others.join(", ")
        )),
        true => Pass(format!(
            "{} mounted datasets, {}, encryption root of / is {}",
            mounted.len(),
            of(source, "encryption"),
            of(source, "encryptionroot")
        )),
        false => Fail(format!("not encrypted: {}", open.join(", "))),
    })
}

/// Open containers and swap devices: name → UUID.
fn mappers(facts: &Facts) -> Result<BTreeMap<&str, &str>, String> {
    let lines = facts.get("mappers")?.lines();
    Ok(lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            let _kernel_name = words.next()?;
            Some((words.next()?, words.next().unwrap_or_default()))
        })
        .collect())
}

fn credstore(facts: &Facts) -> Said {
    let volumes = facts.get("credstores").map_err(|_| "the machine has no credstore".to_owned())?;
    Ok(match mappers(facts)?.contains_key("credstore") {
        true => Fail("it is open: whoever is root reads the pool's key".to_owned()),
        false => Pass(format!("{volumes} is closed")),
    })
}

/// Of a credstore: exactly one recovery slot. Of it, and where there is none of the containers that are open:
/// no slot that the report does not have.
fn keyslots(facts: &Facts, expected: &Expected) -> Said {
    if facts.get("credstores").is_err() {
        return open_containers(facts, expected);
    }
    let (by, recovery) = slots(facts.get("luks")?)?;
    let mut evidence = listed(&by);
    let mut good = recovery == 1;
    let report = expected.report.as_ref().and_then(|report| report.containers.get("credstore"));
    if let Some(report) = report
        && let Some(other) = differs(report, &by, facts.get("luks-uuid")?)
    {
        good = false;
        evidence = format!("{evidence}; {other}");
    }
    Ok(Say::of(good, evidence))
}

/// What lies in containers that are open: `cryptroot`, say.
fn open_containers(facts: &Facts, expected: &Expected) -> Said {
    let mut said = Vec::new();
    let mut good = true;
    let mut compared = false;
    for line in facts.get("containers")?.lines() {
        let fields: Vec<&str> = line.splitn(3, '\t').collect();
        let [name, uuid, header] = fields[..] else {
            return Err(format!("not understood: {line}"));
        };
        let (by, _) = slots(header)?;
        said.push(format!("{name}: {}", listed(&by)));
        let report = expected.report.as_ref().and_then(|report| report.containers.get(name));
        compared |= report.is_some();
        if let Some(other) = report.and_then(|report| differs(report, &by, uuid)) {
            good = false;
            said.push(other);
        }
    }
    let evidence = said.join("; ");
    match (evidence.is_empty(), compared) {
        (true, _) => Err("the machine has no credstore, and no other container is open".to_owned()),
        (_, false) => Err(format!("nothing to compare with (--expect); {evidence}")),
        (_, true) => Ok(Say::of(good, evidence)),
    }
}

/// How a container differs from what was installed.
fn differs(report: &ContainerReport, by: &BTreeMap<String, String>, uuid: &str) -> Option<String> {
    if uuid != report.uuid {
        return Some(format!("its UUID is {uuid}, and {} was installed", report.uuid));
    }
    let unknown: Vec<&String> =
        by.keys().filter(|slot| !report.keyslots.contains_key(*slot)).collect();
    if !unknown.is_empty() {
        return Some(format!("not there at the installation: {unknown:?}"));
    }
    // A slot whose token is gone opens nothing by itself any more.
    let token = |what: &str| match what {
        "tpm2" => Some("systemd-tpm2"),
        "recovery" => Some("systemd-recovery"),
        _ => None,
    };
    report.keyslots.iter().find_map(|(slot, what)| {
        let token = token(what)?;
        let now = by.get(slot).map_or("nothing", String::as_str);
        (now != token).then(|| format!("slot {slot} was opened by {token}, and is by {now}"))
    })
}

fn listed(by: &BTreeMap<String, String>) -> String {
    by.iter().map(|(slot, by)| format!("{slot}: {by}")).collect::<Vec<_>>().join(", ")
}

/// What opens each keyslot, by the header's tokens; and how many tokens are of recovery keys.
fn slots(header: &str) -> Result<(BTreeMap<String, String>, usize), String> {
    let header: Value = serde_json::from_str(header).map_err(|error| error.to_string())?;
    let slots = header["keyslots"].as_object().ok_or("no keyslots")?;
    let mut by: BTreeMap<String, String> =
        slots.keys().map(|slot| (slot.clone(), "a passphrase".to_owned())).collect();
    let mut recovery = 0;
    for token in header["tokens"].as_object().into_iter().flat_map(|tokens| tokens.values()) {
        let kind = token["type"].as_str().unwrap_or_default();
        recovery += usize::from(kind == "systemd-recovery");
        for slot in token["keyslots"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            by.insert(slot.to_owned(), kind.to_owned());
        }
    }
    Ok((by, recovery))
}

fn swap(facts: &Facts) -> Said {
    let devices: Vec<&str> = facts
        .get("swaps")?
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|device| !device.starts_with("/dev/zram"))
        .collect();
    if devices.is_empty() {
        return Err("no swap on a disk".to_owned());
    }
    let lines: Vec<Vec<&str>> =
        facts.get("mappers")?.lines().map(|line| line.split(' ').collect()).collect();
    // /proc/swaps names the kernel's device, or the link it was given.
    let encrypted = |device: &str| {
        lines.iter().any(|words| {
            let named = words.iter().take(2).any(|word| device.rsplit('/').next() == Some(word));
            named && words.last().is_some_and(|uuid| uuid.starts_with("CRYPT-"))
        })
    };
    let plain: Vec<&str> = devices.iter().copied().filter(|device| !encrypted(device)).collect();
    Ok(match plain.is_empty() {
        true => Pass(format!("{} is encrypted", devices.join(", "))),
        false => Fail(format!("not encrypted: {}", plain.join(", "))),
    })
}

/// Blocks of `systemctl show`, one for each unit.
fn units(text: &str) -> Vec<BTreeMap<&str, &str>> {
    text.split("\n\n")
        .map(|block| block.lines().filter_map(|line| line.split_once('=')).collect())
        .collect()
}

fn services(facts: &Facts) -> Said {
    let mut active = Vec::new();
    let mut wrong = Vec::new();
    for unit in units(facts.get("services")?) {
        let get = |key: &str| unit.get(key).copied().unwrap_or_default();
        match (get("LoadState"), get("ActiveState")) {
            ("not-found", _) => {}
            (_, "active") => active.push(get("Id")),
            (_, state) => wrong.push(format!("{} is {state}", get("Id"))),
        }
    }
    if active.is_empty() && wrong.is_empty() {
        return Err("none of these services is installed".to_owned());
    }
    Ok(match wrong.is_empty() {
        true => Pass(format!("active: {}", active.join(", "))),
        false => Fail(wrong.join(", ")),
    })
}

fn failed_units(facts: &Facts) -> Said {
    let failed: Vec<&str> =
        facts.get("failed")?.lines().filter_map(|line| line.split_whitespace().next()).collect();
    Ok(match failed.is_empty() {
        true => Pass("no unit failed".to_owned()),
        false => Fail(failed.join(", ")),
    })
}

/// From the kernel's start to the end of the start-up.
fn boot_time(facts: &Facts) -> Said {
    let blocks = units(facts.get("manager")?);
    let get =
        |key: &str| blocks.iter().find_map(|block| block.get(key)).copied().unwrap_or_default();
    match get("FinishTimestampMonotonic").parse::<u64>() {
        Ok(0) | Err(_) => Ok(Fail(format!("not done: the system is {}", get("SystemState")))),
        Ok(at) => Ok(within(at)),
    }
}

/// From the kernel's start to the SSH server's.
fn ssh_time(facts: &Facts) -> Said {
    let starts = units(facts.get("sshd-start")?);
    let at = starts
        .iter()
        .filter_map(|unit| unit.get("ActiveEnterTimestampMonotonic")?.parse::<u64>().ok())
        .filter(|at| *at > 0)
        .min();
    Ok(within(at.ok_or("systemd started no sshd")?))
}

fn within(at: u64) -> Say {
    Say::of(at <= BOOT_BOUND, format!("after {:.1} s", at as f64 / 1e6))
}

fn mdns(facts: &Facts) -> Said {
    Ok(match facts.get("mdns") {
        Ok(answer) => Pass(answer.replace('\t', " is ")),
        Err(why) if why.contains("no program") => return Err(why),
        Err(why) => Fail(why),
    })
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
