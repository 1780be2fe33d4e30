//! The seam between the ring and what carries it: two bounded queues and the receipts.
//!
//! ```text
//!  left neighbour ──> inbox ──> engine ──> out ──> right neighbour
//!                                  ^───── receipts ─────┘
//! ```
//!
//! Queues are bounded both ways, so a slow neighbour slows the ring and fills no memory. The engine
//! sees queues only; [`super::grpc`] and [`super::service`] fill them from the network, `memory`
//! fills them within a process and can break them on purpose.

use std::sync::{Arc, OnceLock};

use futures::stream::BoxStream;
use tokio::sync::mpsc;

use super::parcel::{Arrival, Farewell, Outgoing, Receipt};

/// Chunks that wait to be written.
pub(crate) const OUT_QUEUE: usize = 4;
/// Chunks that have been read and wait for the engine.
pub(crate) const IN_QUEUE: usize = 8;

/// One rank's two ends.
pub(crate) struct Link {
    /// To the right; dropping it ends the stream in order.
    pub out: mpsc::Sender<Outgoing>,
    /// What the right neighbour says; its end without a word is a loss.
    pub receipts: BoxStream<'static, Receipt>,
    pub inbox: Inbox,
}

/// The end at which a rank's left neighbour arrives.
pub struct Inbox {
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
    pub(crate) farewell: Arc<OnceLock<Farewell>>,
}

/// The other end of an [`Inbox`].
#[derive(Clone)]
pub(crate) struct Door {
    pub arrivals: mpsc::Sender<Arrival>,
    /// Why the inbox was given up, if it was not in order; written before the inbox is dropped.
    pub farewell: Arc<OnceLock<Farewell>>,
}

/// An inbox and its door.
pub(crate) fn inbox() -> (Door, Inbox) {
    let (sender, arrivals) = mpsc::channel(IN_QUEUE);
    let farewell = Arc::new(OnceLock::new());
    (Door { arrivals: sender, farewell: farewell.clone() }, Inbox { arrivals, farewell })
}

impl Inbox {
    /// Gives the generation up: the left neighbour is told why.
    pub(crate) fn give_up(&mut self, farewell: Farewell) {
        // Said once; a later reason does not replace the first.
        let _ = self.farewell.set(farewell);
        self.arrivals.close();
    }
}

/// Passes what the left neighbour sends through the door until one side ends; returns what the left
/// neighbour is to be told.
///
/// `next` must not lose a frame when it is dropped before it is ready.
pub(crate) async fn pump<S>(mut frames: S, door: Door) -> Option<Receipt>
where
    S: futures::Stream<Item = Arrival> + Unpin,
{
    use futures::StreamExt as _;
    loop {
        let arrival = tokio::select! {
            arrival = frames.next() => arrival.unwrap_or(Arrival::Ended),
            () = door.arrivals.closed() => break,
        };
        let ended = matches!(arrival, Arrival::Ended);
        let lost = matches!(arrival, Arrival::Lost { .. });
        if door.arrivals.send(arrival).await.is_err() {
            if ended {
                return Some(Receipt::Delivered);
            }
            break;
        }
        if ended {
            return Some(Receipt::Delivered);
        }
        if lost {
            return None;
        }
    }
    if let Some(farewell) = door.farewell.get() {
        return Some(Receipt::Abort(farewell.clone()));
    }
    // This rank has all it needs: the left neighbour may end in order, and start nothing more.
    while let Some(arrival) = frames.next().await {
        match arrival {
            Arrival::Parcel(_) | Arrival::Bad(_) => {
                let reason = "it has left the ring".to_owned();
                return Some(Receipt::Abort(Farewell { blame: None, reason }));
            }
            Arrival::Lost { .. } => return None,
            Arrival::Ended => break,
            _ => {}
        }
    }
    Some(Receipt::Delivered)
}
