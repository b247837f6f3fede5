//! What is measured, as command lines.
//!
//! Every command copies the closure of one path from the store below `/bench/source` to the one
//! below `/bench/target` of the host `target`, and registers it there.

use super::Regime;
use super::closure::Part;

/// What is done of a copy's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All: hashes are compared, times and owners are a store's.
    Verified,
    /// Nothing is compared; what arrives is a store all the same.
    Unverified,
    /// A part of it: no copy can be faster on this machine. No store arrives.
    Limit,
}

/// One way to copy.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its name in the table.
    pub name: &'static str,
    /// What it does of a copy's work.
    pub kind: Kind,
    script: String,
}

impl Peer {
    /// The command line for one closure.
    pub fn command(&self, part: &Part) -> String {
        self.script.replace("@TOP@", &part.toplevel).replace("@LIST@", &part.list)
    }

    /// Whether it does the same whatever is copied: it sends what was made before.
    pub fn is_fixed(&self) -> bool {
        !self.script.contains("@TOP@") && !self.script.contains("@LIST@")
    }
}

const GCM: &str = "-c aes128-gcm@openssh.com";
const SOURCE: &str = "local?root=/bench/source";
const TARGET: &str = "local?root=/bench/target";

/// How the closure's files are packed into one file for a limit: by zstd's words for that line, into that
/// file; none where nothing is compressed.
pub fn packed(regime: Regime) -> Option<(&'static str, &'static str)> {
    match regime {
        Regime::Unshaped => None,
        Regime::Gigabit => Some(("-1", "/bench/cache/packed-1.tar.zst")),
        Regime::Fast | Regime::Far => Some(("-9 --long=27", "/bench/cache/packed.tar.zst")),
    }
}

/// All of them that make sense on such a line; Keystone first.
pub fn all(regime: Regime) -> Vec<Peer> {
    let nix = |options: &str, to: &str| {
        format!(
            "NIX_SSHOPTS='{options}' nix copy --no-check-sigs --from '{SOURCE}' \
             --to '{to}remote-store=local%3Froot%3D/bench/target' @TOP@"
        )
    };
    let register = format!(
        "nix-store --store '{SOURCE}' --dump-db $(cat @LIST@) | \
         ssh target nix-store --store \"'{TARGET}'\" --load-db"
    );
    // Modes, times and owners as they are.
    let tar = |pack: &str, unpack: &str, options: &str| {
        format!(
            "sed s,^/,, @LIST@ | tar -C /bench/source -cf - -T - {pack} | \
             ssh {options} target 'mkdir -p /bench/target/nix/store; {unpack} tar -C /bench/target -xpf -'; {register}"
        )
    };
    let rsync = |options: &str| {
        format!(
            "ssh target mkdir -p /bench/target/nix/store; sed s,^/nix/store/,, @LIST@ | \
             rsync -a -r {options} --files-from=- /bench/source/nix/store/ \
             target:/bench/target/nix/store/; {register}"
        )
    };
    let http = |name: &str| {
        format!(
            "ssh target \"nix copy --no-check-sigs --from http://10.77.0.1:8080/{name} \
             --to '{TARGET}' @TOP@\""
        )
    };
    use Kind::{Limit, Unverified, Verified};
    let peer = |name, kind, script| Peer { name, kind, script };
    let keystone = |options: &str| {
        format!(
            "keystone copy root@10.77.0.2 -i /bench/ssh/id --known-hosts /bench/ssh/known_hosts \
             --agent /bench/bin/keystone-agent --root /bench/target --store /bench/source --store-path @TOP@ {options}"
        )
    };
    let mut all = vec![
        peer("keystone", Verified, keystone("")),
        peer("nix copy ssh-ng://", Verified, nix("", "ssh-ng://target?")),
        peer("nix copy ssh-ng:// gcm", Verified, nix(GCM, "ssh-ng://target?")),
        peer("nix copy ssh://", Verified, nix("", "ssh://target?")),
        peer("nix copy ssh:// gcm", Verified, nix(GCM, "ssh://target?")),
        peer(
            "nixos-anywhere (ssh://?compress=true)",
            Verified,
            nix("", "ssh://target?compress=true&"),
        ),
        peer(
            "nix-store --export | --import",
            Verified,
            format!(
                "nix-store --store '{SOURCE}' --export $(cat @LIST@) | \
             ssh target nix-store --store \"'{TARGET}'\" --import >/dev/null"
            ),
        ),
        peer("tar gcm", Unverified, tar("", "", GCM)),
        peer("tar zstd -1 gcm", Unverified, tar("| zstd -1 -T0", "zstd -d |", GCM)),
        peer("tar zstd -3 gcm", Unverified, tar("| zstd -3 -T0", "zstd -d |", GCM)),
        peer("tar zstd -3", Unverified, tar("| zstd -3 -T0", "zstd -d |", "")),
        peer(
            "rsync zstd -3 gcm",
            Unverified,
            rsync("--compress --zc=zstd --zl=3 --whole-file -e 'ssh -c aes128-gcm@openssh.com'"),
        ),
        peer("rsync gcm", Unverified, rsync("--whole-file -e 'ssh -c aes128-gcm@openssh.com'")),
        peer("http cache, raw", Verified, http("none")),
        peer("http cache, zstd", Verified, http("zstd")),
    ];
    if regime == Regime::Unshaped {
        let list = "sed s,^/,, @LIST@ | tr '\\n' '\\0'";
        // Made before: two that make the same directory at once are in each other's way.
        let made = "mkdir -p /bench/target/nix/store; cd /bench/source";
        let copy = "cp -a --parents -t /bench/target";
        all.extend([
            peer("limit: cp -a", Limit, format!("{made}; {list} | xargs -0 {copy}")),
            peer("limit: cp -a, two at once", Limit, format!("{made}; {list} | xargs -0 -n 8 -P 2 {copy}")),
            peer("limit: read, ssh gcm, nothing written", Limit, format!(
                "cd /bench/source; {list} | tar --null -T - -cf - | ssh {GCM} target 'cat > /dev/null'"
            )),
        ]);
    }
    if regime.is_slow() {
        // Minutes each, and known to lose there.
        all.retain(|p| {
            !matches!(
                p.name,
                "nix copy ssh://"
                    | "nix copy ssh:// gcm"
                    | "nix copy ssh-ng:// gcm"
                    | "nix-store --export | --import"
                    | "tar gcm"
                    | "rsync gcm"
                    | "http cache, raw"
            )
        });
        all.push(peer("keystone, one connection", Verified, keystone("--connections 1")));
        all.push(peer(
            "tar zstd -9 --long=27 gcm",
            Unverified,
            tar("| zstd -9 -T0 --long=27", "zstd -d --long=27 |", GCM),
        ));
    }
    if let Some((_, file)) = packed(regime) {
        let name = match regime {
            Regime::Gigabit => "limit: packed before (zstd -1), ssh gcm, nothing written",
            _ => "limit: packed before (zstd -9 --long=27), ssh gcm, nothing written",
        };
        all.push(peer(name, Limit, format!("ssh {GCM} target 'cat > /dev/null' < {file}")));
    }
    if regime == Regime::Gigabit {
        let read = "sed s,^/,, @LIST@ | tar -C /bench/source -cf - -T -";
        let pack = format!("{read} | zstd -1 -T0 > /dev/null");
        all.push(peer("limit: read, zstd -1, nothing sent", Limit, pack));
    }
    all
}
