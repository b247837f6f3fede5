//! Names of store paths.
//!
//! Source: Nix's manual, "Store path", and `src/libstore/path.cc`.

/// Where the store is, logically.
pub const STORE_DIR: &str = "/nix/store";

const HASH_LENGTH: usize = 32;
const MAX_NAME: usize = 211;

/// The base name of a full logical path (`/nix/store/<hash>-<name>`), if that is what it is.
pub fn base_name(path: &str) -> Option<&str> {
    let base = path.strip_prefix(STORE_DIR)?.strip_prefix('/')?;
    parts(base).map(|_| base)
}

/// The hash and the name of a base name (`<hash>-<name>`), if that is what it is.
pub fn parts(base: &str) -> Option<(&str, &str)> {
    let (hash, rest) = base.split_at_checked(HASH_LENGTH)?;
    let name = rest.strip_prefix('-')?;
    let hash_ok = hash.bytes().all(|b| b"0123456789abcdfghijklmnpqrsvwxyz".contains(&b));
    let name_ok = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b));
    let dots = |dots: &str| {
        name.strip_prefix(dots).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    (hash_ok && name_ok && !dots(".") && !dots("..")).then_some((hash, name))
}

#[cfg(test)]
mod tests {
    use super::base_name;

    #[test]
    fn takes_store_paths_only() {
        let hash = "0c5xskb55q8xbl0qs0rvj1nh2qq0kvhw";
        let path = |name: &str| format!("/nix/store/{hash}-{name}");
        assert_eq!(base_name(&path("glibc-2.40")), Some(&*format!("{hash}-glibc-2.40")));
        assert!(base_name(&path(&"x".repeat(211))).is_some());
        assert!(base_name(&path(".hidden")).is_some());
        for name in ["", ".", "..", ".-a", "..-a", "a/b", "a b", "a\n", "ä", &"x".repeat(212)] {
            assert_eq!(base_name(&path(name)), None, "{name:?}");
        }
        for path in [
            "/nix/store",
            "/nix/store/",
            "/nix/store/../etc/passwd",
            "/nix/store/0c5xskb55q8xbl0qs0rvj1nh2qq0kvhe-name",
            "/nix/store/0c5xskb55q8xbl0qs0rvj1nh2qq0kvhw_name",
            "/mnt/nix/store/0c5xskb55q8xbl0qs0rvj1nh2qq0kvhw-name",
            "/nix/store/0c5xskb55q8xbl0qs0rvj1nh2qq0kvh\u{e9}-name",
        ] {
            assert_eq!(base_name(path), None, "{path:?}");
        }
    }
}
