//! Further connections, which carry blocks alone.
//!
//! ```text
//! controller ═ SSH ═▶ keystone-agent            (messages and blocks)
//!            ═ SSH ═▶ keystone-agent lane ─ socket ─▶ the same agent
//! ```
//!
//! On a line with losses, or with a long delay, one TCP connection carries less than there is room
//! for. Blocks have numbers, so it does not matter over which connection one comes.

use super::wire::{Intake, WireError};
use keystone_protocol::message::LANE_IS_OPEN;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// How many there may be.
const MOST: usize = 7;
/// How long a lane looks for the agent, which may not have read yet that it is to listen.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// Listens at `socket`; what comes goes to `intake`.
///
/// # Errors
/// Nothing can be made there.
pub(super) fn listen(socket: &Path, intake: Intake) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let each = move || {
        // An error is one of a connection that is gone already.
        for stream in listener.incoming().flatten().take(MOST) {
            let intake = intake.clone();
            let read = move || match intake.take_blocks(stream) {
                Ok(()) | Err(WireError::Ended) => tracing::debug!("a lane has ended"),
                Err(error) => tracing::warn!("a lane is closed: {error}"),
            };
            if let Err(error) = thread::Builder::new().name("lane".to_owned()).spawn(read) {
                tracing::warn!("a lane can't be read: {error}");
            }
        }
    };
    thread::Builder::new().name("lanes".to_owned()).spawn(each).map(drop)
}

/// A lane: passes standard input on to the agent that listens at the socket in `arguments`, until either
/// ends.
pub fn lane_main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(socket), None) = (arguments.next(), arguments.next()) else {
        eprintln!("keystone-agent: a lane takes the agent's socket");
        return ExitCode::from(64);
    };
    let pass = |agent: UnixStream| {
        let mut from_agent = agent.try_clone()?;
        io::stdout().write_all(&[LANE_IS_OPEN])?;
        io::stdout().flush()?;
        let passing = thread::spawn(move || {
            let mut to_agent = &agent;
            io::copy(&mut io::stdin().lock(), &mut to_agent)?;
            to_agent.shutdown(Shutdown::Write)
        });
        // It says nothing; it closes its end when it was given all, or can't take any more.
        io::copy(&mut from_agent, &mut io::sink())?;
        match passing.is_finished() {
            true => passing.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())),
            false => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the agent closed it")),
        }
    };
    match connect(Path::new(&socket)).and_then(pass) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keystone-agent: the lane to {} broke: {error}", socket.display());
            ExitCode::FAILURE
        }
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Err(_) if began.elapsed() < PATIENCE => thread::sleep(PAUSE),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Incoming, Wire};
    use super::*;
    use crate::execute::cancel::Cancel;
    use keystone_protocol::frame::{BlockHeader, Encoding, encode_block_header, set_number};
    use keystone_protocol::message::{ToAgent, encode};
    use std::io::pipe;

    const BOUND: Duration = Duration::from_secs(10);

    fn block(number: u64) -> Vec<u8> {
        let header =
            BlockHeader { path: 0, offset: 0, raw_len: 3, encoding: Encoding::Raw, last: false };
        let mut encoded = encode_block_header(&header, b"abc").unwrap();
        set_number(&mut encoded, number);
        [&encoded[..], b"abc"].concat()
    }

    fn number(wire: &mut Wire) -> u64 {
        match wire.next_within(BOUND, "a block") {
            Ok(Incoming::Block(block)) => block.number,
            Ok(_) => panic!("no block"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn blocks_come_over_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("lanes");
        let (input, mut to) = pipe().unwrap();
        let mut wire = Wire::start(input, io::sink(), Cancel::default());
        let said = ToAgent::OpenLanes { socket: socket.to_str().unwrap().to_owned() };
        to.write_all(&encode(&said).unwrap().0).unwrap();
        let (mut one, mut other) = (connect(&socket).unwrap(), connect(&socket).unwrap());
        one.write_all(&block(1)).unwrap();
        assert_eq!(number(&mut wire), 1);
        to.write_all(&block(0)).unwrap();
        assert_eq!(number(&mut wire), 0);
        other.write_all(&block(2)).unwrap();
        assert_eq!(number(&mut wire), 2);
        // One that ends, or says what has no place there, ends alone.
        drop(one);
        other.write_all(&encode(&ToAgent::Abort).unwrap().0).unwrap();
        other.set_read_timeout(Some(BOUND)).unwrap();
        assert_eq!(io::Read::read(&mut other, &mut [0]).unwrap(), 0, "it is closed");
        to.write_all(&block(3)).unwrap();
        assert_eq!(number(&mut wire), 3);
    }
}
