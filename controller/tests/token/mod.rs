//! A security key in an SSH agent, made of software: what a FIDO key signs, and an agent that asks it.
//!
//! The key and its signatures are those of OpenSSH's `PROTOCOL.u2f`, the messages those of
//! draft-ietf-sshm-ssh-agent. Whether they are right, the real sshd says.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const KIND: &str = "sk-ssh-ed25519@openssh.com";
const APPLICATION: &str = "ssh:";

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const FAILURE: u8 = 5;

/// What a token says of its user, in a signature.
#[derive(Clone, Copy)]
pub enum User {
    /// Has touched it.
    Present = 1,
    /// Was not asked.
    Unasked = 0,
}

/// The agent's socket, and the line that lets its key in.
pub struct Token {
    pub socket: PathBuf,
    pub authorized: String,
}

/// Starts the agent, which ends with the test. Its key signs with what it says of its user.
pub fn start(socket: &Path, seed: [u8; 32], user: User) -> Token {
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let blob = [
        string(KIND.as_bytes()),
        string(key.public_key().as_ref()),
        string(APPLICATION.as_bytes()),
    ]
    .concat();
    let authorized = format!("{KIND} {}", STANDARD.encode(&blob));
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that goes away in the middle is no concern of the others.
            let _ = serve(stream.unwrap(), &key, &blob, user);
        }
    });
    Token { socket: socket.to_owned(), authorized }
}

fn serve(
    mut stream: UnixStream,
    key: &Ed25519KeyPair,
    blob: &[u8],
    user: User,
) -> std::io::Result<()> {
    let mut counter = 0_u32;
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request)?;
        let answer = match request.split_first() {
            Some((&REQUEST_IDENTITIES, _)) => {
                [&[IDENTITIES_ANSWER, 0, 0, 0, 1][..], &string(blob), &string(b"token")].concat()
            }
            Some((&SIGN_REQUEST, mut rest)) => match take(&mut rest) {
                asked if asked == blob => {
                    counter += 1;
                    let signature = sign(key, take(&mut rest), user, counter);
                    [&[SIGN_RESPONSE][..], &string(&signature)].concat()
                }
                _ => vec![FAILURE],
            },
            _ => vec![FAILURE],
        };
        stream.write_all(&string(&answer))?;
    }
}

fn sign(key: &Ed25519KeyPair, data: &[u8], user: User, counter: u32) -> Vec<u8> {
    let said = [&[user as u8][..], &counter.to_be_bytes()].concat();
    let signed = [&Sha256::digest(APPLICATION)[..], &said, &Sha256::digest(data)[..]].concat();
    [string(KIND.as_bytes()), string(key.sign(&signed).as_ref()), said].concat()
}

/// RFC 4251, section 5: a length of four bytes, and so many bytes.
fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (length, after) = rest.split_first_chunk().unwrap();
    let (found, after) = after.split_at(u32::from_be_bytes(*length) as usize);
    *rest = after;
    found
}
