//! A link that can be stopped: a TCP forwarder before a worker's ring.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

const OPEN: u8 = 0;
const STALLED: u8 = 1;
const CUT: u8 = 2;

/// Lets everything through, holds everything up, or lets nobody in.
#[derive(Debug, Default)]
pub(crate) struct Valve {
    state: AtomicU8,
}

impl Valve {
    /// Everything goes through.
    pub(crate) fn open(&self) {
        self.state.store(OPEN, Ordering::Release);
    }

    /// Connections stay, and nothing moves.
    pub(crate) fn stall(&self) {
        self.state.store(STALLED, Ordering::Release);
    }

    /// Connections end, and no new one is made.
    pub(crate) fn cut(&self) {
        self.state.store(CUT, Ordering::Release);
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Acquire) == state
    }

    /// Where `target` can be reached through this.
    pub(super) fn lead_to(self: Arc<Self>, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for inward in listener.incoming() {
                let Ok(inward) = inward else { return };
                if self.is(CUT) {
                    continue;
                }
                let Ok(onward) = TcpStream::connect(target) else { continue };
                for stream in [&inward, &onward] {
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                }
                let (back, forth) = (inward.try_clone().unwrap(), onward.try_clone().unwrap());
                for (from, to) in [(inward, onward), (forth, back)] {
                    let valve = Arc::clone(&self);
                    thread::spawn(move || valve.pass_on(from, to));
                }
            }
        });
        address
    }

    fn pass_on(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if self.is(CUT) {
                // Gone already, perhaps.
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
            if self.is(STALLED) {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            match from.read(&mut buffer) {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(bytes) => {
                    if to.write_all(&buffer[..bytes]).is_err() {
                        return;
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
        }
    }
}
