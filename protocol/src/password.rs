//! What a password must be to unlock a machine at boot.
//!
//! Both ends ask the same function: the controller before anything else happens, the agent again
//! before it writes. The rules are few, so that they can be said in one sentence: they keep out
//! what is guessed at once, and leave the rest to argon2id and the operator.

use crate::secret::Secret;

/// Fewest characters.
pub const MIN_CHARACTERS: usize = 12;

/// Fewest different characters.
pub const MIN_DIFFERENT: usize = 6;

/// Most bytes: what `systemd-ask-password` and `cryptsetup` read at a prompt.
pub const MAX_BYTES: usize = 511;

/// The rules, a sentence to show where a password is asked for.
pub const RULES: &str =
    "at least 12 characters, at least 6 of them different, no control characters";

/// Why a password is not taken. Says nothing about its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// Not text.
    #[error("the password is not UTF-8, so it can't be typed at the boot prompt")]
    NotText,
    /// Can't be typed.
    #[error(
        "the password has a control character (a line break, say), which can't be typed at the \
         boot prompt"
    )]
    ControlCharacter,
    /// Too short.
    #[error("the password has {0} characters; it needs at least {MIN_CHARACTERS}")]
    TooShort(usize),
    /// Too long.
    #[error("the password has {0} bytes; at most {MAX_BYTES} can be typed at the boot prompt")]
    TooLong(usize),
    /// Too uniform.
    #[error("the password has {0} different characters; it needs at least {MIN_DIFFERENT}")]
    TooUniform(usize),
    /// A short piece again and again.
    #[error("the password repeats one short piece")]
    Repetition,
}

/// Whether a password is taken.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_password(password: &Secret) -> Result<(), WeakPassword> {
    let text = std::str::from_utf8(password.expose()).map_err(|_| WeakPassword::NotText)?;
    if text.chars().any(char::is_control) {
        return Err(WeakPassword::ControlCharacter);
    }
    if text.len() > MAX_BYTES {
        return Err(WeakPassword::TooLong(text.len()));
    }
    let characters = text.chars().count();
    if characters < MIN_CHARACTERS {
        return Err(WeakPassword::TooShort(characters));
    }
    let different =
        text.char_indices().filter(|(at, character)| !text[..*at].contains(*character)).count();
    if different < MIN_DIFFERENT {
        return Err(WeakPassword::TooUniform(different));
    }
    let bytes = text.as_bytes();
    let repeats = |piece: usize| bytes.iter().zip(&bytes[piece..]).all(|(a, b)| a == b);
    if (1..MIN_CHARACTERS).take_while(|piece| piece * 2 <= bytes.len()).any(repeats) {
        return Err(WeakPassword::Repetition);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(password: &[u8]) -> Result<(), WeakPassword> {
        check_password(&Secret::new(password.to_vec()))
    }

    #[test]
    fn rules() {
        assert_eq!(check(b"keystone"), Err(WeakPassword::TooShort(8)));
        assert_eq!(check("größer sein".as_bytes()), Err(WeakPassword::TooShort(11)));
        assert_eq!(check(b"aaaaaaaaaaabcde"), Err(WeakPassword::TooUniform(5)));
        assert_eq!(check(b"keystonekeystone"), Err(WeakPassword::Repetition));
        assert_eq!(check(b"correct horse\n"), Err(WeakPassword::ControlCharacter));
        assert_eq!(check(b"\xff\xfecorrect horse"), Err(WeakPassword::NotText));
        assert_eq!(check("a1b2c3d4".repeat(64).as_bytes()), Err(WeakPassword::TooLong(512)));
        assert_eq!(check(b"correct horse"), Ok(()));
        assert_eq!(check("zwölf Zeichen!".as_bytes()), Ok(()));
    }

    #[test]
    fn the_sentence_names_the_numbers() {
        assert!(RULES.contains(&format!("{MIN_CHARACTERS} characters")));
        assert!(RULES.contains(&format!("{MIN_DIFFERENT} of them")));
    }
}
