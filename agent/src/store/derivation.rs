//! The outputs a derivation file names, for the database's `DerivationOutputs`.
//!
//! A derivation is `Derive([("out","/nix/store/…","",""),…],…)`: a list of output id, path, hash
//! algorithm and hash comes first. A path is empty where it is known only after building. Source:
//! Nix's manual, "Derivation ATerm format".

use keystone_protocol::store_path::base_name;

/// The outputs with a known path, as (id, path), or `None` if `text` is no derivation.
pub fn outputs(text: &str) -> Option<Vec<(String, String)>> {
    let mut rest = text.strip_prefix("Derive([")?;
    let mut outputs = Vec::new();
    while !rest.starts_with(']') {
        if !outputs.is_empty() || rest.starts_with(',') {
            rest = rest.strip_prefix(',')?;
        }
        rest = rest.strip_prefix('(')?;
        let mut fields = [const { String::new() }; 4];
        for (i, field) in fields.iter_mut().enumerate() {
            if i > 0 {
                rest = rest.strip_prefix(',')?;
            }
            (*field, rest) = string(rest)?;
        }
        rest = rest.strip_prefix(')')?;
        let [id, path, ..] = fields;
        outputs.push((id, path));
    }
    outputs.retain(|(_, path)| !path.is_empty());
    outputs.iter().all(|(_, path)| base_name(path).is_some()).then_some(outputs)
}

/// A quoted string at the beginning of `text`, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            }),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::outputs;

    #[test]
    fn reads_outputs() {
        let path = |name: &str| format!("/nix/store/{}-{name}", "0".repeat(32));
        let text = format!(
            r#"Derive([("bin","{}","",""),("out","{}","sha256","ab"),("x\"y","","r:sha256","")],[],[],"x86_64-linux","sh",[],[])"#,
            path("a-bin"),
            path("a")
        );
        let expected = vec![("bin".into(), path("a-bin")), ("out".into(), path("a"))];
        assert_eq!(outputs(&text), Some(expected));
        assert_eq!(outputs("Derive([],[],[]"), Some(vec![]));
        for bad in ["", "Derive(", r#"Derive([("out","/etc","","")],"#, r#"Derive([("out"#] {
            assert_eq!(outputs(bad), None, "{bad}");
        }
    }
}
