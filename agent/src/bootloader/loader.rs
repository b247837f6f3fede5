//! systemd-boot's configuration: `loader/loader.conf` and `loader/entries/*.conf`.
//!
//! Source: UAPI group, "Boot Loader Specification", type #1 entries; systemd v257
//! `src/boot/boot.c` (`config_select_default_entry`, `config_entry_add_type1`) and
//! `loader.conf(5)`.

use glob::{MatchOptions, Pattern};

/// What an entry file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The file's name without boot counters: `nixos-generation-1.conf`.
    pub id: String,
    /// What the menu shows.
    pub title: Option<String>,
    /// `version`.
    pub version: Option<String>,
    /// The kernel, from the root of the file system that has the entries.
    pub linux: Option<String>,
    /// The initrds, likewise, in order.
    pub initrd: Vec<String>,
    /// The kernel's command line.
    pub options: String,
}

impl Entry {
    /// Reads the entry file `name`.
    pub fn parse(name: &str, text: &str) -> Entry {
        let mut entry = Entry { id: id(name), ..Entry::default() };
        for (key, value) in settings(text) {
            match key {
                "title" => entry.title = Some(value.to_owned()),
                "version" => entry.version = Some(value.to_owned()),
                "linux" => entry.linux = Some(value.to_owned()),
                "initrd" => entry.initrd.push(value.to_owned()),
                "options" => {
                    if !entry.options.is_empty() {
                        entry.options.push(' ');
                    }
                    entry.options.push_str(value);
                }
                _ => {}
            }
        }
        entry
    }

    /// The value of `init=` on the command line. Of several the last counts, as for the kernel.
    pub fn init(&self) -> Option<&str> {
        self.options
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix("init="))
            .next_back()
    }
}

/// The pattern of `default` in `loader.conf`.
pub fn default_pattern(text: &str) -> Option<&str> {
    settings(text).filter(|(key, _)| *key == "default").map(|(_, value)| value).last()
}

/// Which entry systemd-boot would choose.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// This one.
    Entry(&'a Entry),
    /// There are none.
    NoEntries,
    /// `default` names none that is there.
    NoMatch(String),
    /// Several may be meant, since `default` says nothing that can be known now.
    Unclear,
}

/// Chooses among `entries` by the variable `LoaderEntryDefault`, which is stronger if it names an
/// entry, and by `loader.conf`.
pub fn choose<'a>(entries: &'a [Entry], variable: Option<&str>, conf: &str) -> Choice<'a> {
    if let Some(entry) = variable.and_then(|pattern| find(entries, pattern)) {
        return Choice::Entry(entry);
    }
    match (default_pattern(conf), entries) {
        (_, []) => Choice::NoEntries,
        (Some(pattern), _) if pattern != "@saved" => match find(entries, pattern) {
            Some(entry) => Choice::Entry(entry),
            None => Choice::NoMatch(pattern.to_owned()),
        },
        (_, [only]) => Choice::Entry(only),
        _ => Choice::Unclear,
    }
}

/// The one entry that a pattern means.
fn find<'a>(entries: &'a [Entry], pattern: &str) -> Option<&'a Entry> {
    if let Some(entry) = entries.iter().find(|entry| entry.id.eq_ignore_ascii_case(pattern)) {
        return Some(entry);
    }
    let options = MatchOptions { case_sensitive: false, ..MatchOptions::new() };
    let pattern = Pattern::new(pattern).ok()?;
    let mut found = entries.iter().filter(|entry| pattern.matches_with(&entry.id, options));
    // Of several the firmware's order of names would decide; that is for nobody to rely on.
    found.next().filter(|_| found.next().is_none())
}

/// A file's name as an entry's id: without the counters of `name+left-done.conf`.
fn id(name: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let counted = name.strip_suffix(".conf").and_then(|stem| stem.rsplit_once('+'));
    match counted {
        Some((stem, counters)) if counters.splitn(2, '-').all(digits) => format!("{stem}.conf"),
        _ => name.to_owned(),
    }
}

/// The lines of a configuration: key, white space, value.
fn settings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().map(str::trim).filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (key, value) = line.split_once([' ', '\t'])?;
        let value = value.trim();
        // systemd takes quotes around a value away.
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        Some((key, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "title NixOS\nsort-key nixos\nversion Generation 1 NixOS 25.11 (Linux 6.12)\n\
        linux /EFI/nixos/k.efi\ninitrd\t/EFI/nixos/i.efi\n# comment\n\
        options init=/nix/store/x/init quiet\noptions  root=fstab \n";

    fn entries(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| Entry::parse(name, "")).collect()
    }

    #[test]
    fn reads_entries() {
        let entry = Entry::parse("nixos-generation-1.conf", ENTRY);
        assert_eq!(entry.linux.as_deref(), Some("/EFI/nixos/k.efi"));
        assert_eq!(entry.initrd, ["/EFI/nixos/i.efi"]);
        assert_eq!(entry.options, "init=/nix/store/x/init quiet root=fstab");
        assert_eq!(entry.init(), Some("/nix/store/x/init"));
        assert_eq!(entry.title.as_deref(), Some("NixOS"));
        for (name, id) in [
            ("a.conf", "a.conf"),
            ("a+3.conf", "a.conf"),
            ("a+3-1.conf", "a.conf"),
            ("a+b.conf", "a+b.conf"),
            ("c++.conf", "c++.conf"),
        ] {
            assert_eq!(Entry::parse(name, "").id, id);
        }
    }

    #[test]
    fn chooses_as_systemd_boot_does() {
        let two = entries(&["nixos-generation-1.conf", "nixos-generation-2.conf"]);
        let id = |choice| match choice {
            Choice::Entry(entry) => entry.id.clone(),
            other => format!("{other:?}"),
        };
        let default = |conf: &str| id(choose(&two, None, conf));
        assert_eq!(default("timeout 5\ndefault nixos-generation-2.conf\n"), two[1].id);
        assert_eq!(default("default NixOS-generation-1.conf"), two[0].id);
        assert_eq!(default("default *-1.conf"), two[0].id);
        assert_eq!(default("default a\ndefault *-2*"), two[1].id);
        assert_eq!(default("default windows.conf"), "NoMatch(\"windows.conf\")");
        assert_eq!(default("default nixos-*"), "NoMatch(\"nixos-*\")");
        assert_eq!(default("default @saved"), "Unclear");
        assert_eq!(default("#default nixos-generation-1.conf"), "Unclear");
        // What a system installed here before has set.
        let set = |variable| id(choose(&two, Some(variable), "default nixos-generation-2.conf"));
        assert_eq!(set("nixos-generation-1.conf"), two[0].id);
        assert_eq!(set("nixos-generation-57.conf"), two[1].id);
        assert_eq!(choose(&[], None, ""), Choice::NoEntries);
        assert_eq!(id(choose(&two[..1], None, "timeout 3")), two[0].id);
    }
}
