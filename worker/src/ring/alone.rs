//! A ring of one rank, which needs no wires.

use tokio::sync::mpsc;

use super::engine::Command;
use super::numbers;
use super::operation::deliver;

/// A ring of one: every sum is its only term.
pub(super) async fn run(commands: &mut mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::AllReduce { mut data, wire, reply } => {
                numbers::round(wire, &mut data);
                deliver(reply, data);
            }
            Command::Sum { terms, reply } => deliver(reply, terms.into_sum()),
            Command::AllGather { block, reply } => deliver(reply, vec![block]),
            Command::Shutdown { reply } => return deliver(reply, ()),
        }
    }
}
