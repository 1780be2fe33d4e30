//! Puts a peer's state together as its pieces come in.
//!
//! It comes from outside, so every slice is checked against this net's own layout and against its hash
//! before it is written, and the whole against the digest that the peer sends last.

use std::sync::Arc;

use convoy_common::checkpoint::{SharedState, StateLayout, slice_hash, state_digest};
use convoy_common::ids::Reached;
use convoy_common::pb;
use pb::state_piece::Kind;
use prost::Message as _;

use crate::model::{ModelError, Net};
use crate::train::Remains;

/// Why a state is not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// What came is not what was asked for.
    Bad(String),
    /// It cannot be written into the net.
    Model(ModelError),
}

/// A state that is on its way.
pub(super) struct Intake {
    /// Of the same shape; of no use after an error.
    net: Net,
    layout: Arc<StateLayout>,
    head: Option<(SharedState, Option<pb::Boundary>)>,
    /// Of the slices that have come.
    hashes: Vec<String>,
    /// As the peer has it.
    digest: Option<String>,
}

impl Intake {
    pub(super) fn new(net: Net, layout: Arc<StateLayout>) -> Self {
        Self { net, layout, head: None, hashes: Vec::new(), digest: None }
    }

    /// Takes the next piece: the head, then all slices in their order, then the digest.
    pub(super) fn add(&mut self, piece: pb::StatePiece) -> Result<(), Refused> {
        let bad = |detail: &str| Err(Refused::Bad(detail.to_owned()));
        match (piece.kind, &self.head) {
            _ if self.digest.is_some() => bad("more after its end"),
            (Some(Kind::Head(head)), None) => self.begin(head),
            (Some(Kind::Head(_)), Some(_)) => bad("a second head"),
            (_, None) => bad("slices before what they are of"),
            (Some(Kind::Rows(rows)), _) => self.write(&rows),
            (Some(Kind::End(end)), _) => {
                self.digest = Some(end.digest);
                Ok(())
            }
            (None, _) => bad("a piece of no kind"),
        }
    }

    fn begin(&mut self, mut head: pb::StateHead) -> Result<(), Refused> {
        if std::mem::take(&mut head.hash) != slice_hash(&head.encode_to_vec()) {
            return Err(Refused::Bad("its head arrived altered".to_owned()));
        }
        let shared = serde_json::from_str(&head.shared_json)
            .map_err(|error| Refused::Bad(format!("the shared state: {error}")))?;
        self.head = Some((shared, head.boundary));
        Ok(())
    }

    fn write(&mut self, rows: &pb::StateRows) -> Result<(), Refused> {
        let number = self.hashes.len();
        let slice = self.layout.slices().get(number).filter(|_| rows.slice as usize == number);
        let slice = slice.ok_or_else(|| Refused::Bad(format!("slice {} of none", rows.slice)))?;
        if rows.data.len() != self.layout.slice_bytes(slice) {
            return Err(Refused::Bad(format!("slice {number} of {} bytes", rows.data.len())));
        }
        let hash = slice_hash(&rows.data);
        if hash != rows.hash {
            return Err(Refused::Bad(format!("slice {number} arrived altered")));
        }
        let net = &mut self.net;
        net.write_rows(slice.tensor, slice.rows.clone(), &rows.data).map_err(Refused::Model)?;
        self.hashes.push(hash);
        Ok(())
    }

    /// The state, which is that at `at`, with its digest.
    pub(super) fn finish(self, at: Reached) -> Result<(Remains, String), Refused> {
        let missing = self.layout.slices().len() - self.hashes.len();
        let (Some(theirs), 0) = (self.digest, missing) else {
            let end = format!("the end is missing, and {missing} slices");
            return Err(Refused::Bad(end));
        };
        let ours = state_digest(&self.layout, &self.hashes);
        if theirs != ours {
            let text = format!("a state of digest {ours} that should be {theirs}");
            return Err(Refused::Bad(text));
        }
        let Some((shared, boundary)) = self.head else {
            return Err(Refused::Bad("slices without what they are of".to_owned()));
        };
        let boundary = boundary.map(Into::into);
        let remains = Remains { boundary, ..Remains::fresh(self.net, shared) };
        if remains.reached() != at {
            return Err(Refused::Bad(format!("the state at {}", remains.reached())));
        }
        Ok((remains, ours))
    }
}

/// The head of a state, with its hash.
pub(super) fn head(shared_json: String, boundary: Option<pb::Boundary>) -> pb::StateHead {
    let mut head = pb::StateHead { shared_json, boundary, hash: String::new() };
    head.hash = slice_hash(&head.encode_to_vec());
    head
}
