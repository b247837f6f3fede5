//! A directory with room for the image.

use super::look::KEPT_FREE;
use super::{BOUND, KexecError, command};
use crate::ssh::Session;
use crate::ui::format::bytes;
use rand::Rng;

/// A share of the image's size that file systems take for themselves: one part in so many.
const OVERHEAD: u64 = 16;

/// Makes a fresh directory, root's alone, where an image of `room` bytes fits and programs run.
///
/// # Errors
/// There is none: [`KexecError::NoPlace`]; or the connection broke.
pub async fn find(session: &Session, room: u64) -> Result<String, KexecError> {
    let random: [u8; 8] = rand::rng().random();
    let name = format!("keystone-kexec.{}", hex::encode(random));
    let needed = room + room / OVERHEAD;
    // There, and loaded into the kernel.
    let script = command::place(&name, needed, needed + room + KEPT_FREE);
    let out = session.script("looking for room for the image", &script, BOUND).await?;
    chosen(&String::from_utf8_lossy(&out), &name)
        .map_err(|tried| KexecError::NoPlace { needed: bytes(needed), tried })
}

/// The directory that was made, or what is wrong with each that was tried.
fn chosen(said: &str, name: &str) -> Result<String, String> {
    let mut tried = Vec::new();
    for line in said.lines() {
        if let Some(dir) = line.strip_prefix("yes ") {
            // Nothing else is ever put into a command line.
            let known = command::PARENTS.iter().any(|parent| dir == format!("{parent}/{name}"));
            if known {
                return Ok(dir.to_owned());
            }
        } else if let Some((parent, why)) = line.strip_prefix("no ").and_then(|l| l.split_once(' '))
        {
            tried.push(format!("{parent}: {why}"));
        }
    }
    Err(tried.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_a_directory_that_was_asked_for_is_taken() {
        let said = "no /var/tmp 12 KiB are free\nyes /tmp/k.1\n";
        assert_eq!(chosen(said, "k.1").as_deref(), Ok("/tmp/k.1"));
        for bad in ["yes /tmp/k.2", "yes /tmp/k.1; reboot", "yes ", ""] {
            assert_eq!(chosen(bad, "k.1"), Err(String::new()), "{bad}");
        }
        let said = "no /var/tmp 12 KiB are free\nno /tmp mounted noexec\n";
        assert_eq!(
            chosen(said, "k").unwrap_err(),
            "/var/tmp: 12 KiB are free, /tmp: mounted noexec"
        );
    }

    /// On this very computer: one that fits, and one that fits nowhere.
    #[test]
    fn room_is_looked_for() {
        let said = |room| {
            let script = command::place("keystone-kexec.test", room, 0);
            let out = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            String::from_utf8(out.stdout).unwrap()
        };
        let dir = chosen(&said(1 << 20), "keystone-kexec.test").unwrap();
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::remove_dir(&dir).unwrap();
        let tried = chosen(&said(1 << 60), "keystone-kexec.test").unwrap_err();
        assert!(tried.contains("/var/tmp: ") && tried.contains("KiB are free"), "{tried}");
        assert!(!std::path::Path::new(&dir).exists());
    }

    /// Where /tmp and /var/tmp are memory, that has to do for the image twice; a `df` that says nothing
    /// is not taken for room.
    #[test]
    fn memory_and_silence_are_no_room() {
        let tools = tempfile::tempdir().unwrap();
        let tool = |name: &str, says: &str| {
            let path = tools.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
            Command::new("chmod").arg("755").arg(path).status().unwrap();
        };
        let said = |memory| {
            let script = command::place("keystone-kexec.memory", 1 << 20, memory);
            let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").unwrap());
            let out =
                Command::new("/bin/sh").args(["-c", &script]).env("PATH", path).output().unwrap();
            String::from_utf8(out.stdout).unwrap()
        };
        for memory in ["tmpfs", "overlay"] {
            tool("df", &format!("{memory} 99999999 9 99999999 1% /"));
            let tried = chosen(&said(1 << 60), "keystone-kexec.memory").unwrap_err();
            let wanted = format!("/var/tmp: it is memory ({memory}), of which ");
            assert!(tried.contains(&wanted), "{tried}");
            let dir = chosen(&said(1 << 10), "keystone-kexec.memory").unwrap();
            std::fs::remove_dir(dir).unwrap();
        }
        for disk in ["/dev/vda1", "rpool/ROOT/ubuntu"] {
            tool("df", &format!("{disk} 99999999 9 99999999 1% /"));
            std::fs::remove_dir(chosen(&said(1 << 60), "keystone-kexec.memory").unwrap()).unwrap();
        }
        tool("df", "none - - -");
        let tried = chosen(&said(0), "keystone-kexec.memory").unwrap_err();
        assert!(tried.contains("/var/tmp: df does not say what is free"), "{tried}");
    }
}
