//! The program itself, spoken to by a `keystone` of another protocol version.

use keystone_protocol::frame::{self, ControlBytes, Frame};
use keystone_protocol::message::{ToController, decode};
use keystone_protocol::version::PROTOCOL_VERSION;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

#[test]
fn which_end_to_update_is_said() {
    for (theirs, update) in
        [(PROTOCOL_VERSION - 1, "update keystone"), (PROTOCOL_VERSION + 1, "update keystone-agent")]
    {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_keystone-agent"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let hello = format!(r#"{{"say":"hello","what":{{"protocol":{theirs},"language":"fr"}}}}"#);
        let mut input = agent.stdin.take().unwrap();
        input.write_all(&frame::encode_control(hello.as_bytes()).unwrap().0).unwrap();
        // Its input stays open: it ends by itself.
        let output = agent.wait_with_output().unwrap();
        drop(input);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.trim_end().ends_with(update), "{log}");
        let mut from = output.stdout.as_slice();
        let mut answers = Vec::new();
        let mut header = [0; frame::HEADER];
        while from.read_exact(&mut header).is_ok() {
            let mut payload = vec![0; frame::parse_header(header).unwrap().length];
            from.read_exact(&mut payload).unwrap();
            answers.push(decode(&Frame::Control(ControlBytes(payload))).unwrap());
        }
        match answers.as_slice() {
            [ToController::Hello { .. }, ToController::Refused(refusal)] => {
                assert!(refusal.message.ends_with(update), "{refusal}");
            }
            other => panic!("{other:?}"),
        }
    }
}
