//! A line of `ssh_config` as keyword and words.

/// The keyword in lower case and what follows it, or `None` for an empty line or a comment.
///
/// Keyword and arguments are parted by white space or one `=` with white space around it.
pub(super) fn keyword(line: &str) -> Option<(String, &str)> {
    let line = line.trim_matches(WHITE);
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (word, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
        None => {
            let end = line.find(|c| WHITE.contains(&c) || c == '=').unwrap_or(line.len());
            line.split_at(end)
        }
    };
    let rest = rest.trim_start_matches(WHITE);
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start_matches(WHITE);
    Some((word.to_ascii_lowercase(), rest))
}

/// White space, as OpenSSH sees it.
const WHITE: &[char] = &[' ', '\t', '\r', '\n', '\x0c'];

/// The words of `text`: quoted by `"` or `'`, a backslash before a quote, a backslash or (outside
/// of quotes) a space; a `#` where a word would begin ends the line.
///
/// # Errors
/// A quote that is not closed.
pub(super) fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
        match chars.peek() {
            None | Some('#') => return Ok(words),
            Some(_) => {}
        }
        let mut word = String::new();
        let mut quote = None;
        while let Some(c) = chars.next() {
            match (c, quote) {
                ('\\', _) => match chars.peek() {
                    Some(&next @ ('"' | '\'' | '\\')) => {
                        word.push(next);
                        chars.next();
                    }
                    Some(' ') if quote.is_none() => {
                        word.push(' ');
                        chars.next();
                    }
                    _ => word.push('\\'),
                },
                (' ' | '\t', None) => break,
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                (c, _) => word.push(c),
            }
        }
        if quote.is_some() {
            return Err("a quote is not closed");
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords() {
        for line in ["Port 22", "  port=22", "PORT = 22\r", "\tPort\t22", "\"Port\" 22"] {
            assert_eq!(keyword(line), Some(("port".into(), "22")), "{line}");
        }
        assert_eq!(keyword("  # Port 22"), None);
        assert_eq!(keyword("Port"), Some(("port".into(), "")));
    }

    #[test]
    fn words() {
        let split = |text| split(text).unwrap();
        assert_eq!(split(r#"a "b c" 'd "e' f\ g # h"#), ["a", "b c", "d \"e", "f g"]);
        assert_eq!(split(r#"a#b "" \\x"#), ["a#b", "", "\\x"]);
        assert!(super::split("\"open").is_err());
    }
}
