//! OpenSSH's patterns: ssh_config(5), "PATTERNS".

/// `*` is any text, `?` any one byte. Linear in the text per star: no backtracking over stars.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((star_p, star_t)) => {
                    p = star_p + 1;
                    t = star_t + 1;
                    star = Some((star_p, star_t + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// Whether one of the patterns matches and none that begins with `!` does.
pub(super) fn any<'p>(patterns: impl IntoIterator<Item = &'p str>, text: &str) -> bool {
    let mut found = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(pattern) if glob(pattern.as_bytes(), text.as_bytes()) => return false,
            Some(_) => {}
            None => found |= glob(pattern.as_bytes(), text.as_bytes()),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{any, glob};
    use proptest::prelude::*;

    #[test]
    fn a_negated_pattern_wins() {
        assert!(any(["*.lab", "!dmz.lab"], "a.lab"));
        assert!(!any(["*.lab", "!dmz.lab"], "dmz.lab"));
        assert!(!any(["!dmz.lab"], "a.lab"));
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_and_star(text in "[a-z.]{0,20}") {
            prop_assert!(glob(text.as_bytes(), text.as_bytes()));
            prop_assert!(glob(b"*", text.as_bytes()));
            let prefixed = format!("*{text}");
            prop_assert!(glob(prefixed.as_bytes(), text.as_bytes()));
            let longer = format!("{text}?");
            prop_assert!(!glob(longer.as_bytes(), text.as_bytes()));
        }
    }
}
