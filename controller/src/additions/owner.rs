//! `USER:GROUP`.

use keystone_protocol::options::{Account, Chown};

/// Reads what `--chown PATH OWNER` was given.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn chown(path: &str, owner: &str) -> Result<Chown, String> {
    let absolute = path.starts_with('/') && !path.split('/').any(|name| name == "..");
    let fail = |why: &str| Err(format!("--chown '{path}' '{owner}': {why}"));
    if !absolute {
        return fail("the path has to be absolute in the installed system, without ..");
    }
    let normal: Vec<&str> = path.split('/').filter(|n| !n.is_empty() && *n != ".").collect();
    match normal.as_slice() {
        [] => return fail("the root directory is the system's"),
        ["nix"] | ["nix", "store" | "var", ..] => return fail("the Nix store is root's"),
        _ => {}
    }
    let (user, group) = match owner.split_once(':') {
        Some((_, "")) => return fail("name the group too, or leave the colon out"),
        Some((user, group)) => (user, Some(group)),
        None => (owner, None),
    };
    let chown = Chown {
        path: format!("/{}", normal.join("/")),
        user: (!user.is_empty()).then(|| account(user)),
        group: group.map(account),
    };
    match (&chown.user, &chown.group) {
        (None, None) => fail("the owner is empty"),
        _ if owner.contains(char::is_whitespace) => fail("an owner is USER, USER:GROUP or :GROUP"),
        _ => Ok(chown),
    }
}

fn account(text: &str) -> Account {
    match text.parse() {
        Ok(id) => Account::Id(id),
        Err(_) => Account::Name(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_as_chown_takes_them() {
        let long = "/home/averyveryverylonguser/.config/a directory with spaces";
        let owner = chown(long, "1000:100").unwrap();
        assert_eq!((owner.path.as_str(), owner.owner().as_str()), (long, "1000:100"));
        assert!(!owner.has_names());
        assert!(chown("/home/a", "alice:users").unwrap().has_names());
        assert_eq!(chown("//srv/./x/", ":100").unwrap().owner(), ":100");
        assert_eq!(chown("/srv/x", ":100").unwrap().path, "/srv/x");
        assert_eq!(chown("/srv", "alice").unwrap().owner(), "alice");
        for (path, owner) in [
            ("home", "1"),
            ("/a/../b", "1"),
            ("/", "1"),
            ("/nix/store/x", "1"),
            ("/a", ""),
            ("/a", "1:"),
            ("/a", "a b"),
        ] {
            assert!(chown(path, owner).is_err(), "{path} {owner}");
        }
    }
}
