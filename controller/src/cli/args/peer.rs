//! Options of nixos-anywhere that keystone takes otherwise, or not at all.
//!
//! None is ignored: each is obeyed, said to be of no effect, or refused with what to do instead.
//! The table is `docs/nixos-anywhere.md`.

use super::PAIR;
use clap::Args;

/// Those options.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "As nixos-anywhere has them")]
pub struct PeerArgs {
    /// Show everything: what builders and the agent say, and traces. Never a secret
    #[arg(long)]
    pub debug: bool,
    /// The machine fetches nothing without --fetch on-target, so this changes nothing
    #[arg(long)]
    pub no_substitute_on_destination: bool,
    /// The machine fetches nothing without --fetch on-target, so this changes nothing
    #[arg(long)]
    pub no_use_machine_substituters: bool,
    /// The machine needs no program of disko's, so this changes nothing
    #[arg(long)]
    pub no_disko_deps: bool,
    /// Terminals are found out about, so this changes nothing
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Refused, but for compress: no Nix store is spoken to, and what is sent is compressed
    #[arg(long, num_args = 2, value_names = ["KEY", "VALUE"], action = PAIR)]
    pub ssh_store_setting: Vec<String>,
}

impl PeerArgs {
    /// What has no effect, a sentence each.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let mut said = Vec::new();
        let mut say = |given: bool, sentence| said.extend(given.then_some(sentence));
        say(
            self.no_substitute_on_destination,
            "--no-substitute-on-destination is always so without --fetch on-target",
        );
        say(
            self.no_use_machine_substituters,
            "--no-use-machine-substituters is always so without --fetch on-target",
        );
        say(
            self.no_disko_deps,
            "--no-disko-deps changes nothing: the machine needs no program of disko's",
        );
        say(self.tty, "--tty changes nothing: terminals are found out about");
        let compress = self.ssh_store_setting.chunks(2).any(|pair| pair[0] == "compress");
        say(
            compress,
            "--ssh-store-setting compress changes nothing: what shrinks is sent compressed",
        );
        said
    }

    /// Why the options can't be taken, a sentence.
    pub fn refused(&self) -> Option<String> {
        let other = self.ssh_store_setting.chunks(2).find(|pair| pair[0] != "compress");
        if let Some(pair) = other {
            return Some(format!(
                "--ssh-store-setting {}: keystone speaks to no Nix store on the machine, so there \
                 is nothing to set; leave it out",
                pair[0]
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::install;
    use clap::CommandFactory;

    #[test]
    fn nothing_is_ignored() {
        let args = install(&["-t", "--no-disko-deps", "--ssh-store-setting", "compress", "false"]);
        let args = args.unwrap().peer;
        assert_eq!(args.without_effect().len(), 3);
        assert_eq!(args.refused(), None);
        let refused = |more: &[&str]| install(more).unwrap().peer.refused().unwrap();
        assert!(refused(&["--ssh-store-setting", "max-connections", "4"]).contains("max-conn"));
    }

    /// Everything that nixos-anywhere's `--help` has is taken, and stands in the table.
    #[test]
    fn the_documentation_has_every_option() {
        let text = include_str!("../../../../docs/nixos-anywhere.md");
        let command = super::super::Cli::command();
        let install = command.find_subcommand("install").unwrap();
        for option in [
            "--build-on",
            "--build-on-remote",
            "--chown",
            "--copy-host-keys",
            "--debug",
            "--disk-encryption-keys",
            "--disko-mode",
            "--env-password",
            "--extra-files",
            "--flake",
            "--force-kexec",
            "--from",
            "--generate-hardware-config",
            "--kexec",
            "--kexec-extra-flags",
            "--no-disko-deps",
            "--no-reboot",
            "--no-substitute-on-destination",
            "--no-use-machine-substituters",
            "--option",
            "--phases",
            "--post-kexec-ssh-port",
            "--print-build-logs",
            "--show-trace",
            "--ssh-option",
            "--ssh-port",
            "--ssh-store-setting",
            "--stop-after-disko",
            "--store-paths",
            "--target-host",
            "--tty",
            "--vm-test",
        ] {
            let long = option.trim_start_matches('-');
            let known = install.get_arguments().any(|arg| {
                arg.get_long() == Some(long)
                    || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&long))
            });
            assert!(known, "{option} is not taken");
            assert!(text.contains(&format!("`{option}")), "{option} is not in the table");
        }
    }

    /// What nixos-anywhere takes for a host, and what it swallows.
    #[test]
    fn unknown_options_are_errors_with_a_suggestion() {
        let error = install(&["--extra-file", "x"]).unwrap_err().to_string();
        assert!(error.contains("--extra-files"), "{error}");
        assert!(install(&["--bogus"]).is_err());
        let args = install(&["--force-kexec", "--no-reboot"]).unwrap();
        assert!(args.phases.no_reboot && args.kexec.force_kexec);
    }
}
