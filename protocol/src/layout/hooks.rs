//! disko's hooks: shell text around every device.

use super::error::LayoutError;
use super::read::Object;
use crate::plan::{HookKind, HookPlan, HookValue};
use std::collections::BTreeMap;

/// The hooks of a part of the layout.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    path: String,
    variables: BTreeMap<String, HookValue>,
    scripts: BTreeMap<HookKind, String>,
}

impl Hooks {
    /// Reads all hooks of `object`.
    pub(super) fn read(object: &mut Object<'_>) -> Result<Self, LayoutError> {
        Hooks::read_except(object, &[])
    }

    /// Reads the hooks of `object`, those in `elsewhere` left out.
    pub(super) fn read_except(
        object: &mut Object<'_>,
        elsewhere: &[HookKind],
    ) -> Result<Self, LayoutError> {
        let mut scripts = BTreeMap::new();
        for kind in HookKind::ALL {
            if elsewhere.contains(&kind) {
                continue;
            }
            let script = object.string_opt(kind.attribute())?.unwrap_or_default();
            if !script.trim().is_empty() {
                scripts.insert(kind, script);
            }
        }
        let mut hooks = Hooks { path: object.path().to_owned(), scripts, ..Hooks::default() };
        if !hooks.scripts.is_empty() {
            hooks.variables = object.hook_variables();
        }
        Ok(hooks)
    }

    /// Adds a hook that was read by other means.
    pub(super) fn add(&mut self, object: &Object<'_>, kind: HookKind, script: String) {
        if !script.trim().is_empty() {
            self.scripts.insert(kind, script);
            self.variables = object.hook_variables();
        }
    }

    /// The hook of that kind, if there is one.
    pub fn hook(&self, kind: HookKind) -> Option<HookPlan> {
        let script = self.scripts.get(&kind)?.clone();
        let path = super::path::child(&self.path, kind.attribute());
        Some(HookPlan { path, hook: kind, variables: self.variables.clone(), script })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.scripts.is_empty()
    }
}

/// The snapshots that a `postCreateHook` makes, if that is all it does. Recognised is what disko's
/// own examples have, with the same name in both places:
///
/// ```sh
/// zfs list -t snapshot -H -o name | grep -E '^POOL@NAME$' || zfs snapshot POOL@NAME
/// ```
///
/// and the plain `zfs snapshot POOL@NAME`. They are made natively, once.
pub(super) fn snapshots(script: &str) -> Option<Vec<String>> {
    let lines: Vec<&str> = script.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.into_iter().map(snapshot).collect::<Option<Vec<_>>>().filter(|found| !found.is_empty())
}

fn snapshot(line: &str) -> Option<String> {
    let (guard, make) = match line.split_once("||") {
        Some((guard, make)) => (Some(guard), make),
        None => (None, line),
    };
    let words: Vec<&str> = make.split_whitespace().collect();
    let ["zfs", "snapshot", name] = words.as_slice() else { return None };
    let name = unquoted(name);
    let (dataset, snapshot) = name.split_once('@')?;
    let plain = |part: &str, more: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if !plain(dataset, "-_.:/") || !plain(snapshot, "-_.:") {
        return None;
    }
    if let Some(guard) = guard {
        let words: Vec<&str> = guard.split_whitespace().collect();
        let [
            "zfs",
            "list",
            "-t",
            "snapshot",
            "-H",
            "-o",
            "name",
            "|",
            "grep",
            "-E" | "-q" | "-qE" | "-Eq",
            pattern,
        ] = words.as_slice()
        else {
            return None;
        };
        if unquoted(pattern) != format!("^{name}$") {
            return None;
        }
    }
    Some(name.to_owned())
}

fn unquoted(word: &str) -> &str {
    ['\'', '"']
        .into_iter()
        .find_map(|quote| word.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_recognised_and_nothing_else() {
        let example =
            "zfs list -t snapshot -H -o name | grep -E '^zroot@blank$' || zfs snapshot zroot@blank";
        assert_eq!(snapshots(example), Some(vec!["zroot@blank".into()]));
        assert_eq!(
            snapshots("\n zfs snapshot rpool/a@b\n zfs snapshot \"rpool@c\"\n"),
            Some(vec!["rpool/a@b".into(), "rpool@c".into()])
        );
        for other in [
            "",
            "zfs snapshot -r zroot@blank",
            "zfs snapshot $name@blank",
            "zfs snapshot zroot@blank; reboot",
            "zfs snapshot zroot",
            &example.replace("^zroot@blank$", "^other@blank$"),
            &format!("{example}\necho x"),
        ] {
            assert_eq!(snapshots(other), None, "{other}");
        }
    }
}
