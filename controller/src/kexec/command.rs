//! What is typed on the machine: POSIX sh, whose words from outside are quoted.

use super::tarball::Contents;

/// The image's program, below its directory.
pub const RUN: &str = "kexec/run";
/// Directories that are tried for the image, in order: those of disks first, since memory is what
/// the image needs most.
pub const PARENTS: &[&str] = &["/var/tmp", "/tmp", "/root", "/run"];

/// One word of a shell's, whatever is in it.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Prints the lines with keys that the image takes over, of root and of `user`: those that
/// nixos-images' `run` takes, of the files that it reads.
pub fn authorized_keys(user: &str, home: &str) -> String {
    let mut files = Vec::new();
    for home in ["/root", home] {
        files.extend(["authorized_keys", "authorized_keys2"].map(|f| format!("{home}/.ssh/{f}")));
    }
    files.extend(["root", user].map(|name| format!("/etc/ssh/authorized_keys.d/{name}")));
    let files: Vec<String> = files.iter().map(|file| quote(file)).collect();
    format!(
        "for f in {}; do\n  grep -E '^[^#]*(ssh|ecdsa|sk)-[^ ]* .' \"$f\" 2>/dev/null\ndone\nexit 0",
        files.join(" ")
    )
}

/// Prints the public halves of the host keys that the image takes over, both halves of which are
/// there.
pub const HOST_KEYS: &str = "for f in /etc/ssh/ssh_host_*_key.pub; do\n  \
    [ -e \"${f%.pub}\" ] && cat \"$f\" && echo\ndone 2>/dev/null\nexit 0";

/// Makes the directory `name` where `room` bytes fit and programs run; says `yes DIRECTORY`, and
/// before that `no PARENT WHY` for each that won't do. One that is memory has to leave `memory` bytes
/// of that free before the image is in it.
pub fn place(name: &str, room: u64, memory: u64) -> String {
    let parents = PARENTS.join(" ");
    let kib = room.div_ceil(1024);
    let memory = memory.div_ceil(1024);
    format!(
        r#"umask 077
for p in {parents}; do
  d=$p/{name}
  mkdir "$d" 2>/dev/null || {{ echo "no $p no directory can be made"; continue; }}
  set -- $(df -Pk "$d" 2>/dev/null | tail -n 1)
  case ${{4:-}} in ''|*[!0-9]*)
    rmdir "$d"; echo "no $p df does not say what is free"; continue
  esac
  if [ "$4" -lt {kib} ]; then
    rmdir "$d"; echo "no $p $4 KiB are free"; continue
  fi
  # A live system's root is an overlay of memory.
  case ${{1:-}} in tmpfs|ramfs|rootfs|overlay*|aufs|airootfs|none|/dev/ram*|/dev/zram*)
    m=$(while read -r k v _; do [ "$k" != MemAvailable: ] || echo "$v"; done </proc/meminfo)
    if [ "${{m:-0}}" -lt {memory} ]; then
      rmdir "$d"; echo "no $p it is memory ($1), of which ${{m:-0}} KiB are free"; continue
    fi
  esac
  printf '#!/bin/sh\nexit 0\n' > "$d/try" && chmod 700 "$d/try"
  if ! "$d/try" 2>/dev/null; then
    rm -rf "$d"; echo "no $p mounted noexec"; continue
  fi
  rm -f "$d/try"
  echo "yes $d"
  exit 0
done
exit 0"#
    )
}

/// Unpacks a tar stream into `dir`, everything as root's.
pub fn unpack(dir: &str) -> String {
    format!("/bin/sh -c 'umask 077; cd {dir} && exec tar -x -o -f -'")
}

/// Compares the files in `dir`; says which differ.
pub fn verify(dir: &str, contents: &Contents) -> String {
    let sums: String = contents
        .files
        .iter()
        .map(|(name, sum)| format!("{}  {name}\n", hex::encode(sum)))
        .collect();
    let count = contents.files.len();
    format!(
        "LC_ALL=C; export LC_ALL\ncd {dir} || exit 2\nsaid=$(sha256sum -c - 2>&1 <<'END-OF-SUMS'\n\
         {sums}END-OF-SUMS\n)\nprintf '%s\\n' \"$said\" | grep -v ': OK$'\n\
         [ \"$(printf '%s\\n' \"$said\" | grep -c ': OK$')\" -eq {count} ]"
    )
}

/// Runs the image's program, in a session of its own if `setsid` can wait for that: what it leaves
/// running must outlive ours.
pub fn run(dir: &str, flags: Option<&str>, setsid: bool) -> String {
    let session = if setsid { "setsid --wait " } else { "" };
    let flags =
        flags.map_or(String::new(), |flags| format!(" --kexec-extra-flags {}", quote(flags)));
    // In braces, so that all of it is read first.
    format!("{{\ncd {dir} && TMPDIR={dir} exec {session}./{RUN}{flags} </dev/null 2>&1\n}}\n")
}

/// Takes the image away, and out of the kernel if it was loaded: a restart would boot it. What was
/// waiting to jump has no program any more to do it with. Ends with 0 only if all of it is gone.
pub fn clear(dir: &str) -> String {
    format!(
        "[ -x {dir}/kexec/kexec ] && {dir}/kexec/kexec --unload >/dev/null 2>&1\nrm -rf {dir}\n\
         [ ! -e {dir} ] && [ \"$(cat /sys/kernel/kexec_loaded 2>/dev/null)\" != 1 ]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    fn sh(script: &str) -> Output {
        Command::new("/bin/sh").args(["-c", script]).output().unwrap()
    }

    fn said(script: &str) -> String {
        String::from_utf8(sh(script).stdout).unwrap()
    }

    #[test]
    fn any_word_stays_one_word() {
        for word in
            ["", "--no-sync", "a b", "it's", "$(id)", "`id`", "\\", "'\"'\n*", "--append=x 'y z'"]
        {
            assert_eq!(said(&format!("printf %s {}", quote(word))), word);
        }
    }

    #[test]
    fn the_image_gets_its_flags_as_one_word() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        std::fs::create_dir(dir.path().join("kexec")).unwrap();
        let program = dir.path().join(RUN);
        std::fs::write(&program, "#!/bin/sh\nfor w; do echo \"<$w>\"; done; pwd; echo \"$TMPDIR\"; echo no >&2\nexit 3\n").unwrap();
        Command::new("chmod").arg("755").arg(&program).status().unwrap();
        for setsid in [true, false] {
            let out = sh(&run(&at, Some("--no-sync --append='a b'"), setsid));
            let text = String::from_utf8(out.stdout).unwrap();
            let wanted =
                format!("<--kexec-extra-flags>\n<--no-sync --append='a b'>\n{at}\n{at}\nno\n");
            assert_eq!((text, out.status.code()), (wanted, Some(3)));
        }
        assert_eq!(said(&run(&at, None, true)), format!("{at}\n{at}\nno\n"));
    }

    #[test]
    fn a_changed_file_is_seen_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        std::fs::create_dir(dir.path().join("kexec")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("kexec/run", "run");
        write("kexec/initrd", "initrd");
        use sha2::{Digest, Sha256};
        let sum = |text: &str| (format!("kexec/{text}"), Sha256::digest(text).into());
        let contents = Contents { bytes: 0, room: 0, files: vec![sum("run"), sum("initrd")] };
        let script = verify(&at, &contents);
        let out = sh(&script);
        assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
        write("kexec/initrd", "initrD");
        let out = sh(&script);
        assert!(!out.status.success(), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stdout).contains("kexec/initrd: FAILED"), "{out:?}");
        std::fs::remove_file(dir.path().join("kexec/initrd")).unwrap();
        assert!(!sh(&script).status.success());
        assert!(!sh(&verify("/nonexistent", &contents)).status.success());
    }

    #[test]
    fn what_is_cleared_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("image");
        std::fs::create_dir_all(at.join("kexec")).unwrap();
        let program = at.join("kexec/kexec");
        let noted = dir.path().join("noted");
        std::fs::write(&program, format!("#!/bin/sh\necho $1 > {}\n", noted.display())).unwrap();
        Command::new("chmod").arg("755").arg(&program).status().unwrap();
        let script = clear(&at.display().to_string());
        assert!(sh(&script).status.success() && !at.exists());
        assert_eq!(std::fs::read_to_string(noted).unwrap(), "--unload\n");
        // What can't be removed is not called removed.
        assert!(!sh(&clear("/proc/self")).status.success());
    }

    #[test]
    fn keys_are_looked_for_where_the_image_does() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().display().to_string();
        let of_home =
            || said(&authorized_keys("nobody-of-this-name", &at)).contains("AAAA-of-this-test me");
        assert!(!of_home());
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let file = home.path().join(".ssh/authorized_keys");
        std::fs::write(&file, "# a comment with words\n\n   \n").unwrap();
        assert!(!of_home());
        std::fs::write(&file, "# a comment\nssh-ed25519 AAAA-of-this-test me\n").unwrap();
        assert!(of_home());
    }
}
