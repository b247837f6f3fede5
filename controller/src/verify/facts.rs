//! What the machine says of itself.
//!
//! The script prints for each fact RS, its name, a newline, the output, US, the exit status and a
//! newline. (ASCII's record and unit separators: no program asked here prints them.)

use std::collections::BTreeMap;

/// Asks everything. POSIX sh; every program has 20 seconds.
pub const SCRIPT: &str = r#"PATH=$PATH:/run/current-system/sw/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
bounded() { if command -v timeout > /dev/null 2>&1; then timeout 20 "$@"; else "$@"; fi; }
fact() { name=$1; shift; printf '\036%s\n' "$name"; bounded "$@" < /dev/null 2>&1; printf '\037%s\n' "$?"; }
fact hostname cat /proc/sys/kernel/hostname
fact etc-hostname cat /etc/hostname
fact current-system readlink -e /run/current-system
fact variant sh -c '. /etc/os-release; echo "$VARIANT_ID"'
fact iptables iptables-save
fact ip6tables ip6tables-save
fact ipv6 sh -c '[ -e /proc/sys/net/ipv6 ] || exec echo 1; cat /proc/sys/net/ipv6/conf/*/disable_ipv6'
fact nft nft -j list ruleset
fact sshd sshd -T
fact mounts cat /proc/self/mounts
fact pools zpool list -Hpo name,health,guid
fact pool-errors zpool status -x
fact datasets zfs get -Hpo name,property,value -t filesystem encryption,encryptionroot,keystatus,mounted
fact mappers sh -c 'for d in /sys/block/dm-*; do [ -e "$d/dm/name" ] && printf "%s %s %s\n" "${d##*/}" "$(cat "$d/dm/name")" "$(cat "$d/dm/uuid")"; done; true'
fact credstores sh -c 'ls -d /dev/zvol/*/credstore'
fact luks sh -c 'for d in /dev/zvol/*/credstore; do cryptsetup luksDump --dump-json-metadata "$d" || exit; done'
fact luks-uuid sh -c 'for d in /dev/zvol/*/credstore; do cryptsetup luksUUID "$d" || exit; done'
fact containers sh -c 'for d in /sys/block/dm-*; do u=$(cat "$d/dm/uuid" 2> /dev/null); case $u in CRYPT-LUKS2-*) s=$(set -- "$d"/slaves/*; echo "/dev/${1##*/}"); printf "%s\t%s\t%s\n" "$(cat "$d/dm/name")" "$(cryptsetup luksUUID "$s")" "$(cryptsetup luksDump --dump-json-metadata "$s" | tr -d "\n\t")";; esac; done'
fact swaps cat /proc/swaps
fact services systemctl show -p Id,LoadState,ActiveState sshd.service avahi-daemon.service systemd-resolved.service
fact failed systemctl --failed --no-legend --plain
fact manager systemctl show -p FinishTimestampMonotonic,SystemState
fact sshd-start systemctl show -p ActiveEnterTimestampMonotonic sshd.service sshd.socket
fact mdns sh -c 'avahi-resolve -4n "$(cat /proc/sys/kernel/hostname).local"'
"#;

/// What one question brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fact {
    /// Exit status; 127 where there is no such program.
    pub status: i32,
    /// Output and errors, trimmed.
    pub text: String,
}

/// All answers, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts(BTreeMap<String, Fact>);

impl Facts {
    /// Reads what [`SCRIPT`] printed. What was cut off is left out.
    pub fn parse(text: &str) -> Facts {
        let facts = text.split('\x1e').skip(1).filter_map(|record| {
            let (name, rest) = record.split_once('\n')?;
            let (text, status) = rest.rsplit_once('\x1f')?;
            let fact = Fact { status: status.trim().parse().ok()?, text: text.trim().to_owned() };
            Some((name.to_owned(), fact))
        });
        Facts(facts.collect())
    }

    /// The output of a question that was answered; else why it was not.
    pub fn get(&self, name: &str) -> Result<&str, String> {
        match self.0.get(name) {
            Some(Fact { status: 0, text }) => Ok(text),
            Some(Fact { status: 127, .. }) => Err("the machine has no program to ask".to_owned()),
            Some(Fact { status: 124, .. }) => Err("no answer in 20 s".to_owned()),
            Some(Fact { text, status }) => {
                let line = text.lines().last().unwrap_or_default();
                Err(format!("exit status {status}: {line}"))
            }
            None => Err("not asked: the machine's answer was cut off".to_owned()),
        }
    }

    /// Whether the machine has no program for this question.
    pub fn lacks(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|fact| fact.status == 127)
    }

    /// For tests: with one answer more.
    #[cfg(test)]
    pub fn with(mut self, name: &str, text: &str) -> Facts {
        self.0.insert(name.to_owned(), Fact { status: 0, text: text.trim().to_owned() });
        self
    }

    /// For tests: with one answer less.
    #[cfg(test)]
    pub fn without(mut self, name: &str) -> Facts {
        self.0.insert(name.to_owned(), Fact { status: 127, text: String::new() });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let text = "noise\n\x1ea\none\ntwo\n\x1f0\n\x1eb\nsh: b: not found\n\x1f127\n\x1ec\nx\x1f3\n\x1ed\ncut";
        let facts = Facts::parse(text);
        assert_eq!(facts.get("a"), Ok("one\ntwo"));
        assert_eq!(facts.get("b"), Err("the machine has no program to ask".to_owned()));
        assert_eq!(facts.get("c"), Err("exit status 3: x".to_owned()));
        assert!(facts.get("d").unwrap_err().contains("cut off"));
    }

    #[test]
    fn the_script_is_one_that_a_shell_understands() {
        let output = std::process::Command::new("sh").args(["-c", SCRIPT]).output().unwrap();
        let facts = Facts::parse(&String::from_utf8_lossy(&output.stdout));
        assert!(!facts.get("hostname").unwrap().is_empty());
        assert_eq!(facts.0.len(), SCRIPT.lines().filter(|line| line.starts_with("fact ")).count());
    }
}
