//! What `nix` says in its own JSON log (`--log-format internal-json`).
//!
//! Source: Nix, `src/libutil/logging.hh`: activity and result types, verbosity levels.

use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;

const ACTIVITY_COPY_PATHS: u64 = 103;
const ACTIVITY_BUILDS: u64 = 104;
const RESULT_BUILD_LOG_LINE: u64 = 101;
const RESULT_PROGRESS: u64 = 105;
/// Errors and warnings.
const LEVEL_WARNING: u64 = 1;

#[derive(Deserialize)]
struct Line {
    action: String,
    #[serde(default)]
    id: u64,
    #[serde(default)]
    level: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    text: String,
    #[serde(default, rename = "type")]
    kind: u64,
    #[serde(default)]
    fields: Vec<Value>,
}

/// Something to show.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// What goes on now.
    Now(String),
    /// A line that a builder printed.
    Log(String),
    /// An error or a warning, perhaps of several lines.
    Message(String),
}

/// What goes on.
#[derive(Debug, Default)]
pub struct Progress {
    kinds: HashMap<u64, u64>,
    /// Done and expected.
    builds: (u64, u64),
    copies: (u64, u64),
    last: String,
}

impl Progress {
    /// Takes a line of standard error in; a line that is not of the log is a message.
    pub fn take(&mut self, line: &str) -> Option<Said> {
        let Some(json) = line.strip_prefix("@nix ") else {
            return (!line.trim().is_empty()).then(|| Said::Message(line.to_owned()));
        };
        let line: Line = serde_json::from_str(json).ok()?;
        match line.action.as_str() {
            "msg" if line.level <= LEVEL_WARNING => Some(Said::Message(plain(&line.msg))),
            "start" => {
                self.kinds.insert(line.id, line.kind);
                if line.text.is_empty() {
                    return None;
                }
                self.last = plain(&line.text);
                Some(Said::Now(self.words()))
            }
            "stop" => {
                self.kinds.remove(&line.id);
                None
            }
            "result" if line.kind == RESULT_BUILD_LOG_LINE => {
                let text = line.fields.first()?.as_str()?;
                // The first lines of a builder's log are Nix's own protocol.
                (!text.starts_with(|c: char| c.is_control())).then(|| Said::Log(plain(text)))
            }
            "result" if line.kind == RESULT_PROGRESS => {
                let number = |n: usize| line.fields.get(n)?.as_u64();
                let progress = (number(0)?, number(1)?);
                match self.kinds.get(&line.id) {
                    Some(&ACTIVITY_BUILDS) => self.builds = progress,
                    Some(&ACTIVITY_COPY_PATHS) => self.copies = progress,
                    _ => return None,
                }
                (!self.last.is_empty()).then(|| Said::Now(self.words()))
            }
            _ => None,
        }
    }

    fn words(&self) -> String {
        let mut counts = Vec::new();
        for ((done, expected), what) in [(self.builds, "built"), (self.copies, "copied")] {
            if expected > 0 {
                counts.push(format!("{done}/{expected} {what}"));
            }
        }
        match counts.is_empty() {
            true => self.last.clone(),
            false => format!("[{}] {}", counts.join(", "), self.last),
        }
    }
}

/// Without escape sequences, which Nix puts into its messages, and other control characters.
fn plain(text: &str) -> String {
    let text = console::strip_ansi_codes(text).replace('\t', " ");
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as Nix 2.8 writes them.
    #[test]
    fn builds_are_counted_and_errors_kept() {
        let mut progress = Progress::default();
        let mut take = |line: &str| progress.take(line);
        assert_eq!(take(r#"@nix {"action":"start","id":2,"level":0,"text":"","type":104}"#), None);
        let building = r#"@nix {"action":"start","fields":["/nix/store/x.drv","",1,1],"id":3,"level":3,"text":"building '\u001b[35;1m/nix/store/x.drv\u001b[0m'","type":105}"#;
        assert_eq!(take(building), Some(Said::Now("building '/nix/store/x.drv'".into())));
        let counted = r#"@nix {"action":"result","fields":[1,4,1,0],"id":2,"type":105}"#;
        assert_eq!(
            take(counted),
            Some(Said::Now("[1/4 built] building '/nix/store/x.drv'".into()))
        );
        let log = r#"@nix {"action":"result","fields":["gcc -O2"],"id":3,"type":101}"#;
        assert_eq!(take(log), Some(Said::Log("gcc -O2".into())));
        let own = r#"@nix {"action":"result","fields":["\u0001"],"id":3,"type":101}"#;
        assert_eq!(take(own), None);
        let error = r#"@nix {"action":"msg","column":null,"file":null,"level":0,"line":null,"msg":"\u001b[31;1merror:\u001b[0m builder failed"}"#;
        assert_eq!(take(error), Some(Said::Message("error: builder failed".into())));
        let chatter = r#"@nix {"action":"msg","level":3,"msg":"copying"}"#;
        assert_eq!(take(chatter), None);
        assert_eq!(
            take("error: unrecognised flag"),
            Some(Said::Message("error: unrecognised flag".into()))
        );
    }
}
