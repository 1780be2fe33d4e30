//! Links within one process, which can be broken on purpose.

use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::link::{Link, OUT_QUEUE, inbox, pump};
use super::parcel::{Arrival, Outgoing, Receipt};

/// What a wire does with a frame.
pub(crate) enum Fate {
    Pass(Outgoing),
    /// The wire breaks.
    Cut,
    /// Nothing passes from now on, and nothing is said.
    Hang,
}

/// A wire's way with its frames.
pub(crate) type Wire = Box<dyn FnMut(Outgoing) -> Fate + Send>;

/// The links of a ring of `world` ranks whose wires are sound.
pub(crate) fn ring(world: u32, chunk_bytes: usize) -> Vec<Link> {
    wired((0..world).map(|_| -> Wire { Box::new(Fate::Pass) }).collect(), chunk_bytes)
}

/// The links of a ring; wire r leads from rank r to its right neighbour.
pub(crate) fn wired(wires: Vec<Wire>, chunk_bytes: usize) -> Vec<Link> {
    let (mut doors, inboxes): (Vec<_>, Vec<_>) = wires.iter().map(|_| inbox()).unzip();
    // The wire of rank r ends at the door of rank r + 1.
    doors.rotate_left(1);
    wires
        .into_iter()
        .zip(doors)
        .zip(inboxes)
        .map(|((mut wire, door), inbox)| {
            let (out, frames) = mpsc::channel(OUT_QUEUE);
            let (receipt, receipts) = oneshot::channel();
            let frames = ReceiverStream::new(frames).then(move |frame| {
                let fate = wire(frame);
                async move {
                    match fate {
                        Fate::Pass(Outgoing::Parcel(it)) => Arrival::checked(it),
                        Fate::Pass(Outgoing::Stalled { operation }) => {
                            Arrival::Stalled { operation }
                        }
                        Fate::Pass(Outgoing::Abort(it)) => Arrival::Abort(it),
                        Fate::Cut => Arrival::Lost { detail: "the wire was cut".to_owned() },
                        Fate::Hang => std::future::pending().await,
                    }
                }
            });
            let opened = stream::iter([Arrival::Opened { chunk_bytes }]);
            tokio::spawn(async move {
                let last = pump(Box::pin(opened.chain(frames)), door).await;
                let lost = Receipt::Lost { detail: "the wire was cut".to_owned() };
                let _ = receipt.send(last.unwrap_or(lost));
            });
            let receipts = receipts.into_stream().filter_map(async |it| it.ok()).boxed();
            Link { out, receipts, inbox }
        })
        .collect()
}
