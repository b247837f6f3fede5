//! A support bundle: what is needed to understand a failure, without secrets.
//!
//! Everything in it was shown or could have been: notices, of which none carries a secret. As a
//! second line of defence, secrets that the operator gave, private keys and recovery keys are
//! looked for in what is written, and taken out.

use crate::kexec::Progress;
use crate::operator::Notice;
use crate::ui::json::value;
use keystone_protocol::event::EventKind;
use keystone_protocol::secret::Secret;
use serde_json::Value;
use std::io::{self, Write};
use std::path::Path;
use tar::{Builder, Header};
use tempfile::NamedTempFile;

/// What stands in a secret's place.
const REDACTED: &str = "[redacted]";
/// Shorter secrets are not looked for: they would be found in everything.
const SHORTEST: usize = 4;

/// Keeps what happens.
#[derive(Debug, Default)]
pub struct Recorder {
    events: Vec<Value>,
    plan: Option<Value>,
    inventory: Option<Value>,
    secrets: Vec<Secret>,
}

impl Recorder {
    /// Keeps a notice; steps' progress is left out.
    pub fn notice(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::Kexec(Progress::Sending { .. }) => return,
            Notice::Event(event) if matches!(event.kind, EventKind::Progress { .. }) => return,
            Notice::Plan(plan) => self.plan = serde_json::to_value(plan).ok(),
            Notice::Inventory(inventory) => self.inventory = serde_json::to_value(inventory).ok(),
            other => self.events.extend(value(other)),
        }
    }

    /// Never writes this.
    pub fn hide(&mut self, secret: &Secret) {
        self.secrets.push(secret.clone());
    }

    /// Writes the bundle: readable by its owner only, whole or not at all. `closing` is what was
    /// said at the end, for people and for programs.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path, closing: (&str, &Value)) -> io::Result<()> {
        let lines =
            |values: &[Value]| values.iter().map(|value| format!("{value}\n")).collect::<String>();
        let pretty = |value: &Value| format!("{value:#}\n");
        let about = serde_json::json!({
            "keystone": env!("CARGO_PKG_VERSION"),
            "arguments": shown(std::env::args()),
            "closing": closing.1,
        });
        let mut files = vec![
            ("about.json", pretty(&about)),
            ("closing.txt", closing.0.to_owned()),
            ("events.jsonl", lines(&self.events)),
        ];
        files.extend(self.plan.as_ref().map(|plan| ("plan.json", pretty(plan))));
        files.extend(self.inventory.as_ref().map(|found| ("inventory.json", pretty(found))));

        // Only its owner can read it.
        let file = NamedTempFile::new_in(crate::parent(path))?;
        let mut builder = Builder::new(zstd::Encoder::new(file, 3)?);
        for (name, text) in files {
            let text = self.redacted(&text);
            let mut header = Header::new_gnu();
            header.set_mode(0o600);
            header.set_size(text.len() as u64);
            let name = format!("keystone-support/{name}");
            builder.append_data(&mut header, name, text.as_bytes())?;
        }
        let mut file = builder.into_inner()?.finish()?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// Without secrets.
    fn redacted(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            let Ok(secret) = std::str::from_utf8(secret.expose()) else { continue };
            for form in [secret, secret.trim_end(), &json_escaped(secret.trim_end())] {
                if form.len() >= SHORTEST {
                    text = text.replace(form, REDACTED);
                }
            }
        }
        text = without_between(&text, "-----BEGIN ", "-----END ");
        without_recovery_keys(&text)
    }
}

/// Arguments without what may be secret in them: what stands in an address before the host and after a question
/// mark, and the values of Nix's options (`access-tokens`).
fn shown(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut shown = Vec::new();
    // How many arguments until such a value.
    let mut value_in: Option<u32> = None;
    for argument in arguments {
        let is_value = value_in == Some(0);
        value_in = match argument.as_str() {
            "--option" => Some(1),
            text if text.starts_with("--option=") => Some(0),
            _ => value_in.and_then(|left| left.checked_sub(1)),
        };
        shown.push(match (is_value, argument.contains("://")) {
            (true, _) => REDACTED.to_owned(),
            (_, true) => keystone_fetch::address::shown(&argument),
            _ => argument,
        });
    }
    shown
}

/// As it stands in a JSON string.
fn json_escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// Takes out what begins with `begin` up to the end of the line or string in which `end` is.
fn without_between(text: &str, begin: &str, end: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(begin) {
        out.push_str(before);
        out.push_str(REDACTED);
        rest = match after.split_once(end) {
            Some((_, after)) => after.split_once("-----").map_or("", |(_, after)| after),
            // Cut off: nothing after it can be told from the key.
            None => "",
        };
    }
    out.push_str(rest);
    out
}

/// Takes out what has a recovery key's shape: eight groups of eight modhex letters, as
/// systemd-cryptenroll(1) makes them.
fn without_recovery_keys(text: &str) -> String {
    const LENGTH: usize = 8 * 8 + 7;
    const MODHEX: &[u8] = b"cbdefghijklnrtuv";
    let bytes = text.as_bytes();
    let is_key = |piece: &[u8]| {
        piece.len() == LENGTH
            && piece.iter().enumerate().all(|(at, byte)| match at % 9 {
                8 => *byte == b'-',
                _ => MODHEX.contains(byte),
            })
    };
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let mut copied = 0;
    while at + LENGTH <= bytes.len() {
        if is_key(&bytes[at..at + LENGTH]) {
            out.push_str(&text[copied..at]);
            out.push_str(REDACTED);
            at += LENGTH;
            copied = at;
        } else {
            at += 1;
        }
    }
    out.push_str(&text[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confirm::tests::{inventory, plan, tpm2};
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    /// All files of a bundle in one text.
    fn contents(path: &Path) -> String {
        let file = std::fs::File::open(path).unwrap();
        let mut archive = tar::Archive::new(zstd::Decoder::new(file).unwrap());
        let mut all = String::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            all.push_str(&format!("== {}\n", entry.path().unwrap().display()));
            entry.read_to_string(&mut all).unwrap();
        }
        all
    }

    #[test]
    fn arguments_have_no_secrets_of_addresses_and_options() {
        let given = [
            "keystone",
            "install",
            "--from",
            "https://me:secret@cache/x?token=secret",
            "--kexec=https://me:secret@h/i.tar",
            "--option",
            "access-tokens",
            "github.com=secret",
            "root@nas",
        ];
        let wanted = [
            "keystone",
            "install",
            "--from",
            "https://cache/x",
            "--kexec=https://h/i.tar",
            "--option",
            "access-tokens",
            REDACTED,
            "root@nas",
        ];
        assert_eq!(shown(given.into_iter().map(str::to_owned)), wanted);
    }

    #[test]
    fn everything_that_was_said_is_in_it_and_no_secret() {
        let mut recorder = Recorder::default();
        recorder.hide(&Secret::new(b"correct \"horse\" battery\n".to_vec()));
        recorder.notice(&Notice::Plan(&plan(tpm2())));
        recorder.notice(&Notice::Inventory(&inventory()));
        let key = ["cbdefghi"; 8].join("-");
        for line in [
            "the password is correct \"horse\" battery, he said",
            &format!("recovery key {key}!"),
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\nafter",
            "exported rpool",
        ] {
            recorder.notice(&Notice::AgentLog { line });
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.tar.zst");
        let closing = serde_json::json!({"kind": "storage"});
        recorder.write(&path, ("step 3/30 failed\n", &closing)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = contents(&path);
        for word in [
            "step 3/30 failed",
            "\"storage\"",
            "exported rpool",
            "after",
            "plan.json",
            "inventory.json",
            plan(tpm2()).hash.as_str(),
        ] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        for secret in ["horse", &key, "AAAA"] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
        assert_eq!(text.matches(REDACTED).count(), 3, "{text}");
    }
}
