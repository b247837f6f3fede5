//! How the program ends: well after a goodbye, and not where its stream merely ends. Whoever started
//! it keeps it for the next connection by that.

use keystone_protocol::message::{ToAgent, encode};
use keystone_protocol::version::PROTOCOL_VERSION;
use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn goodbye_is_told_from_a_stream_that_ends() {
    let hello = || ToAgent::Hello { protocol: PROTOCOL_VERSION, version: "0.0.0".to_owned() };
    for (said, status) in [(vec![hello(), ToAgent::Goodbye], 0), (vec![hello()], 1)] {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_keystone-agent"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = agent.stdin.take().unwrap();
        for message in &said {
            input.write_all(&encode(message).unwrap().0).unwrap();
        }
        // After a goodbye it does not wait for the end of its input.
        let open = (status == 0).then_some(input);
        let ended = agent.wait_with_output().unwrap();
        drop(open);
        let log = String::from_utf8(ended.stderr).unwrap();
        assert_eq!((ended.status.code(), log.as_str()), (Some(status), ""), "{said:?}");
    }
}
