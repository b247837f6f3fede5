//! Nix's base 32, and the ways in which Nix writes hashes.
//!
//! Source: Nix, src/libutil/base-nix-32.cc and hash.cc. The alphabet lacks e, o, u and t; the
//! last five bits of the bytes, taken as a little-endian number, are the first character.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// The text of some bytes: 32 characters for 20 bytes, 52 for 32.
pub fn encode(bytes: &[u8]) -> String {
    let length = (bytes.len() * 8).div_ceil(5);
    let digit = |n: usize| {
        let (byte, bit) = (n * 5 / 8, n * 5 % 8);
        let low = u32::from(bytes[byte]) >> bit;
        let high = bytes.get(byte + 1).map_or(0, |&b| u32::from(b) << (8 - bit));
        ALPHABET[((low | high) & 31) as usize] as char
    };
    (0..length).rev().map(digit).collect()
}

/// The `length` bytes of a text; `None` if it is not exactly their text.
pub fn decode(text: &str, length: usize) -> Option<Vec<u8>> {
    if text.len() != (length * 8).div_ceil(5) {
        return None;
    }
    let mut bytes = vec![0u8; length];
    for (n, character) in text.bytes().rev().enumerate() {
        let digit = ALPHABET.iter().position(|&c| c == character)? as u32;
        let (byte, bit) = (n * 5 / 8, n * 5 % 8);
        let shifted = digit << bit;
        bytes[byte] |= shifted as u8;
        match (bytes.get_mut(byte + 1), (shifted >> 8) as u8) {
            (Some(next), high) => *next |= high,
            (None, 0) => {}
            // Bits that no byte has.
            (None, _) => return None,
        }
    }
    Some(bytes)
}

/// A hash of `length` bytes in any of Nix's writings: nix32, hexadecimal or base 64.
pub fn decode_any(text: &str, length: usize) -> Option<Vec<u8>> {
    let decoded = if text.len() == length * 2 {
        hex::decode(text).ok()?
    } else if text.len() == (length * 8).div_ceil(5) {
        decode(text, length)?
    } else {
        STANDARD.decode(text).ok()?
    };
    (decoded.len() == length).then_some(decoded)
}

/// A SHA-256 with its name before it: `sha256:<nix32, hexadecimal or base 64>` or
/// `sha256-<base 64>`.
pub fn sha256(text: &str) -> Option<[u8; 32]> {
    let bytes = match text.strip_prefix("sha256:") {
        Some(digits) => decode_any(digits, 32)?,
        None => STANDARD.decode(text.strip_prefix("sha256-")?).ok()?,
    };
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_nix_writes_it() {
        // `nix-hash --type sha256 --flat --base32` of an empty file.
        let empty = hex::decode("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let text = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert_eq!(encode(&empty.clone().unwrap()), text);
        assert_eq!(sha256(&format!("sha256:{text}")).unwrap().to_vec(), empty.unwrap());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 16..70)) {
            let text = encode(&bytes);
            prop_assert_eq!(decode(&text, bytes.len()), Some(bytes.clone()));
            prop_assert_eq!(decode_any(&text, bytes.len()), Some(bytes.clone()));
            prop_assert_eq!(decode_any(&hex::encode(&bytes), bytes.len()), Some(bytes));
        }

        #[test]
        fn every_text_is_refused_or_written_the_same(text in "[0-9a-z]{32}|[0-9a-z]{52}", length in prop_oneof![Just(20usize), Just(32)]) {
            if let Some(bytes) = decode(&text, length) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}", length in 0usize..70) {
            let _ = decode(&text, length);
            let _ = decode_any(&text, length);
            let _ = sha256(&text);
        }
    }
}
