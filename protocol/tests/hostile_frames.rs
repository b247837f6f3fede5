//! Frames that nobody would send, in a bounded number.

#[path = "../../fuzz/src/frame.rs"]
mod frame;

use keystone_protocol::chunks::{Part, write_parts};
use keystone_protocol::frame::{BlockHeader, Encoding, encode_block_header, encode_control};
use keystone_protocol::message::ToAgent;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..120)) {
        frame::run(&data);
    }

    #[test]
    fn what_was_a_frame(
        block: bool, path: u32, offset: u64, encoding in 0..5u8, last: bool,
        data in proptest::collection::vec(any::<u8>(), 0..60),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut: Option<proptest::sample::Index>,
    ) {
        let encoding = match encoding {
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            4 => Encoding::Chunks,
            other => Encoding::Stream { end: other == 3 },
        };
        let raw_len = data.len() as u32 + 1;
        let (data, raw_len) = match encoding {
            Encoding::Chunks => {
                (write_parts(&[Part::Chunk(path >> 1), Part::Bytes(raw_len - 1)], &data), raw_len + 1)
            }
            _ => (data, raw_len - 1),
        };
        let header = BlockHeader { path, offset, raw_len, encoding, last };
        let whole = match block {
            true => [&encode_block_header(&header, &data).unwrap()[..], &data].concat(),
            false => {
                let message = serde_json::to_vec(&ToAgent::Inventory).unwrap();
                encode_control(&message).unwrap().0.clone()
            }
        };
        prop_assert!(frame::run(&whole));
        let mut changed = whole.clone();
        for (at, to) in changes {
            let at = at.index(changed.len());
            changed[at] = to;
        }
        if let Some(cut) = cut {
            changed.truncate(cut.index(changed.len()));
        }
        frame::run(&changed);
        // A payload with any bytes, but the right checks.
        frame::run(changed.get(keystone_protocol::frame::HEADER..).unwrap_or_default());
    }
}
