// What the frame decoder must hold to, whatever it reads. Included by the fuzz target and by a
// test.

use keystone_protocol::frame::{
    Frame, HEADER, Kind, encode_block_header, encode_control, parse_header, parse_payload,
    set_number,
};
use keystone_protocol::message::{ToAgent, ToController, decode};

/// Reads `data` as a frame; and, as a sender that is not to be trusted could send them, with the
/// checks that belong to them. What is accepted is what one would send. Returns whether something
/// was.
pub(crate) fn run(data: &[u8]) -> bool {
    let mut accepted = read(data);
    for (kind, number) in [(0, 0), (0, 1), (1, 0), (1, u64::MAX / 3), (2, 0), (3, 0)] {
        accepted |= read(&checked(kind, number, data));
    }
    accepted
}

/// A frame of that kind and number around `payload`: length, kind, check, number, blake3.
pub(crate) fn checked(kind: u8, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[4] = kind;
    header[8..16].copy_from_slice(&number.to_le_bytes());
    header[16..].copy_from_slice(blake3::hash(payload).as_bytes());
    let mut check = blake3::Hasher::new();
    check.update(&header[..5]).update(&header[8..]);
    header[5..8].copy_from_slice(&check.finalize().as_bytes()[..3]);
    [&header[..], payload].concat()
}

fn read(bytes: &[u8]) -> bool {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER>() else { return false };
    let Ok(parsed) = parse_header(*header) else { return false };
    let Ok(frame) = parse_payload(&parsed, payload.to_vec()) else { return false };
    // Messages are anything or an error.
    let _ = decode::<ToAgent>(&frame);
    let _ = decode::<ToController>(&frame);
    match frame {
        Frame::Control(json) => assert_eq!(encode_control(&json.0).unwrap().0, bytes),
        Frame::Block(block, data) => {
            let Kind::Block { number } = parsed.kind else { panic!("a block of another kind") };
            let mut again = encode_block_header(&block, &data).unwrap();
            set_number(&mut again, number);
            assert_eq!([&again[..], &data].concat(), bytes);
        }
    }
    true
}
