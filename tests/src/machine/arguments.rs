//! Secrets in a guest: among arguments and environments of all that runs, looked at again and
//! again, and in files.

use super::ssh::Ssh;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::process::{Child, Stdio};

/// Where what was seen is kept, in the guest's memory.
const SEEN: &str = "/run/lab-arguments";

/// One look.
const LOOK: &str = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null";

/// The same from outside, for a guest whose memory is gone at the end: what is seen is written to
/// `seen`, until the connection breaks or the result is dropped.
///
/// # Errors
/// `ssh` can't be run.
pub fn watch(ssh: &Ssh, seen: File) -> Result<Watch> {
    let mut command = ssh.command(&format!("while :; do {LOOK}; sleep 0.3; done"));
    let child = command.stdout(seen).stderr(Stdio::null()).spawn().context("running ssh")?;
    Ok(Watch(child))
}

/// Looks, until it is dropped.
#[derive(Debug)]
pub struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Begins to look, five times a second.
///
/// # Errors
/// SSH failed.
pub fn start(ssh: &Ssh) -> Result<()> {
    ssh.ok(&format!(
        "rm -f {SEEN}; touch {SEEN}.go; \
         nohup sh -c 'while [ -e {SEEN}.go ]; do {LOOK}; sleep 0.2; done' > {SEEN} 2> /dev/null < /dev/null &"
    ))
    .context("starting to look at arguments")?;
    Ok(())
}

/// Ends it. Fails if one of `secrets` was seen, or if `known`, which must have run, was not.
///
/// # Errors
/// So it is, or SSH failed.
pub fn stop(ssh: &Ssh, secrets: &[&str], known: &str) -> Result<()> {
    ssh.ok(&format!("rm {SEEN}.go; sleep 1"))?;
    let looked = search(ssh, &[known], &format!("-l {SEEN}"))?;
    ensure!(!looked.is_empty(), "{known} was not seen, so nothing was");
    let found = search(ssh, secrets, &format!("-l {SEEN}"))?;
    ensure!(found.is_empty(), "a secret was seen among arguments or environments");
    ssh.ok(&format!("rm {SEEN}"))?;
    Ok(())
}

/// What `grep` says of `patterns`, words that go over the connection and not into its arguments,
/// with these options and places.
///
/// # Errors
/// It failed, or SSH did.
pub fn search(ssh: &Ssh, patterns: &[&str], places: &str) -> Result<String> {
    let script = format!(
        "umask 077; cat > {SEEN}.words; grep -a -F -f {SEEN}.words {places}; s=$?; rm {SEEN}.words; [ $s -le 1 ]"
    );
    ssh.ok_given(&script, &(patterns.join("\n") + "\n")).context("searching for words")
}
