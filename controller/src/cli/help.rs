//! What stands below the options in `--help`: examples, and exit codes.

use crate::install::Kind;
use std::fmt::Write;

/// Examples of the whole.
const ALL: &str = "\
Examples:
  Look at a machine that was booted from an installer ISO:
    keystone inventory root@10.0.0.5

  See what would be done; nothing is written:
    keystone plan root@10.0.0.5 --flake .#nas

  Install a configuration of a flake, asking for everything:
    keystone install root@10.0.0.5 --flake .#nas

  Ask the running machine whether it is what was installed:
    keystone verify root@10.0.0.5 --expect report.json

  The examples and options of a command:
    keystone install --help";

pub(super) const INSTALL: &str = "\
Examples:
  Install a configuration of a flake, asking for everything:
    keystone install --flake .#nas root@10.0.0.5

  The same, built by the machine, whose installer has Nix:
    keystone install --flake .#nas root@10.0.0.5 --build-on remote

  Install a system that was built before:
    keystone install root@10.0.0.5 --store-path ./result --layout layout.json

  Install from a binary cache, or from one file that has everything:
    keystone install root@10.0.0.5 --from https://cache.example.org --store-path /nix/store/… \\
      --require-signatures cache.example.org-1:… --layout layout.json
    keystone bundle ./result -o nas.ksb
    keystone install root@10.0.0.5 --from nas.ksb --layout layout.json

  Install on a machine that runs another Linux, from an installer that is booted by kexec:
    keystone install --flake .#nas root@10.0.0.5 --kexec nixos-kexec-installer.tar.gz

  Install unattended, agreeing to the plan that was looked at:
    keystone install root@10.0.0.5 --store-path ./result --layout layout.json \\
      --host-key SHA256:… --yes --plan-hash … --recovery-key-file nas.key --json

The store path is config.system.build.toplevel; the layout is disko.devices as JSON, which keystone
layout writes. With --flake both are built and evaluated.";

pub(super) const PLAN: &str = "\
Examples:
  What an installation would do:
    keystone plan root@10.0.0.5 --store-path ./result --layout layout.json

  What would be done with the disks alone, as keystone disko would:
    keystone plan root@10.0.0.5 --layout layout.json

  For a machine that was looked at before, without any connection:
    keystone inventory root@10.0.0.5 --json > machine.json
    keystone plan --inventory machine.json --layout layout.json";

pub(super) const INVENTORY: &str = "\
Examples:
  keystone inventory root@10.0.0.5
  keystone inventory root@10.0.0.5 --json > machine.json";

pub(super) const LAYOUT: &str = "\
Examples:
  keystone layout --flake .#nas > layout.json
  keystone layout --flake github:me/fleet#nas --option accept-flake-config true";

pub(super) const COPY: &str = "\
Examples:
  keystone copy root@10.0.0.5 --store-path ./result --root /mnt

  From a binary cache, to which the machine has the better line:
    keystone copy root@10.0.0.5 --from https://cache.example.org --store-path /nix/store/… \\
      --fetch on-target";

pub(super) const BUNDLE: &str = "\
Examples:
  keystone bundle ./result -o nas.ksb --sign-with cache.secret
  keystone bundle verify nas.ksb --require-signatures cache.example.org-1:…
  keystone bundle list nas.ksb
  keystone install root@10.0.0.5 --from nas.ksb --layout layout.json";

pub(super) const DISKO: &str = "\
Examples:
  See what would be done; nothing is written:
    keystone disko --disko-mode disko root@10.0.0.5 --layout layout.json --dry-run

  Make what is missing and mount everything below /mnt:
    keystone disko --disko-mode format,mount root@10.0.0.5 --layout layout.json

  Close everything again:
    keystone disko --disko-mode unmount root@10.0.0.5 --layout layout.json";

pub(super) const RESCUE: &str = "\
Examples:
  A shell in the system:
    keystone rescue root@10.0.0.5 --flake .#nas

  One command, with the recovery key from a file:
    keystone rescue root@10.0.0.5 --layout layout.json --unlock-key-file nas.key \\
      -- journalctl -n 100";

pub(super) const VERIFY: &str = "\
Examples:
  keystone verify root@10.0.0.5
  keystone verify root@10.0.0.5 --expect report.json --json";

pub(super) const VERSION: &str = "Example:\n  keystone version";

pub(super) const COMPLETIONS: &str = "\
Examples:
  keystone completions bash > /etc/bash_completion.d/keystone
  keystone completions zsh > ~/.zfunc/_keystone";

pub(super) const MANUAL: &str = "\
Example:
  keystone manual /usr/local/share/man/man1";

/// Below the options of the whole.
pub(super) fn all() -> String {
    with_codes(ALL)
}

/// Examples, and exit codes by kind.
pub(super) fn with_codes(examples: &str) -> String {
    let mut text = format!("{examples}\n\nExit codes:\n    0  done\n");
    for kind in Kind::ALL {
        let _ = writeln!(text, "  {:>3}  {}", kind.code(), kind.meaning());
    }
    text
}
