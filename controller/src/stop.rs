//! Asking to stop: once to stop cleanly, twice to leave at once.

use tokio::sync::watch;

/// How often stopping was asked for. Clones share it.
#[derive(Debug, Clone)]
pub struct Stop {
    asked: watch::Receiver<u32>,
}

/// The other end: asks.
#[derive(Debug)]
pub struct Stopper {
    asked: watch::Sender<u32>,
}

/// Both ends.
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(0);
    (Stopper { asked: sender }, Stop { asked: receiver })
}

impl Stopper {
    /// Asks once more.
    pub fn ask(&self) {
        self.asked.send_modify(|n| *n += 1);
    }
}

impl Stop {
    /// Never asked.
    pub fn never() -> Self {
        channel().1
    }

    /// Whether stopping was asked for.
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow() > 0
    }

    /// Returns once stopping was asked for `times` times; never if nobody can ask any more.
    pub async fn asked(&self, times: u32) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|n| *n >= times).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
