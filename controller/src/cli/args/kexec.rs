//! How a machine that runs another system gets into an installer.

use crate::kexec::{Source, tarball};
use crate::ssh::Address;
use crate::ssh::destination::DestinationError;
use clap::Args;

/// How a machine that runs another system gets into an installer.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "An installer by kexec")]
pub struct KexecArgs {
    /// Boot this image on a machine that is in no installer: a kexec tarball as nixos-images makes
    /// them (.tar, .tar.gz, .tar.xz, .tar.zst), a file or an http(s):// or file:// address; it is
    /// fetched here, and sent. What runs on the machine ends, and its disks keep what is on them. Without
    /// --phases, kexec is the first phase then
    #[arg(long, value_name = "FILE|URL")]
    pub kexec: Option<Source>,
    /// The SHA-256 that the image must have (64 hexadecimal digits); one from an http:// address needs it
    #[arg(long, value_name = "SHA256", requires = "kexec", value_parser = tarball::sha256)]
    pub kexec_sha256: Option<[u8; 32]>,
    /// Words for the image's kexec, as one: '--no-sync'
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true)]
    pub kexec_extra_flags: Option<String>,
    /// Boot the image also on a machine that is in an installer
    #[arg(long)]
    pub force_kexec: bool,
    /// TCP port of the SSH server of the image
    #[arg(long, value_name = "PORT", default_value_t = 22,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub post_kexec_ssh_port: u16,
    /// Where the image answers, if not at HOST
    #[arg(long, value_name = "HOST", value_parser = host)]
    pub post_kexec_ssh_host: Option<String>,
    /// Agree without being asked that what runs on the machine ends, by the name that it calls
    /// itself (hostname)
    #[arg(long, value_name = "NAME", requires = "yes", group = "what-is-agreed-to")]
    pub end_system: Option<String>,
}

/// A host alone: the image lets root in, and its port has its own option.
fn host(text: &str) -> Result<String, String> {
    let Address { user, host, port } = text.parse().map_err(|e: DestinationError| e.to_string())?;
    match (user, port) {
        (None, None) => Ok(host),
        (Some(_), _) => Err("the image lets root in: give the host alone".into()),
        (None, Some(port)) => {
            Err(format!("give the host alone, and the port as --post-kexec-ssh-port {port}"))
        }
    }
}

impl KexecArgs {
    /// Whether kexec is asked for by its own options.
    pub fn wanted(&self) -> bool {
        self.kexec.is_some() || self.force_kexec
    }

    /// What is given in vain where the phase is not run, a sentence.
    pub fn in_vain(&self) -> Option<String> {
        let given = [
            ("--kexec", self.kexec.is_some()),
            ("--kexec-sha256", self.kexec_sha256.is_some()),
            ("--force-kexec", self.force_kexec),
            ("--kexec-extra-flags", self.kexec_extra_flags.is_some()),
            ("--post-kexec-ssh-port", self.post_kexec_ssh_port != 22),
            ("--post-kexec-ssh-host", self.post_kexec_ssh_host.is_some()),
            ("--end-system", self.end_system.is_some()),
        ];
        let given: Vec<&str> =
            given.into_iter().filter_map(|(n, given)| given.then_some(n)).collect();
        let change = if given.len() == 1 { "changes" } else { "change" };
        (!given.is_empty())
            .then(|| format!("{} {change} nothing: the phase kexec is not run", given.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn where_the_image_answers_is_a_host_alone() {
        for (text, wanted) in [("10.0.0.5", "10.0.0.5"), ("[fd00::1]", "fd00::1"), ("nas", "nas")] {
            assert_eq!(host(text).as_deref(), Ok(wanted));
        }
        for (text, words) in
            [("", "empty"), ("root@nas", "alone"), ("nas:2222", "--post-kexec-ssh-port 2222")]
        {
            assert!(host(text).unwrap_err().contains(words), "{text}");
        }
    }
}
