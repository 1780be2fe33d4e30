//! What travels between two neighbours, in the ring's own terms.
//!
//! Wire types stop here. A parcel that comes in is checked before anything is done with it: its
//! size, that it names a collective, and its checksum. Whether its hop and place are possible only
//! the operation that it belongs to can tell.

use bytes::Bytes;
use convoy_common::pb;

/// Largest chunk that a ring accepts, in bytes.
pub(crate) const MAX_CHUNK_BYTES: usize = 4 << 20;

/// Which collective operation a parcel belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collective {
    AllReduce,
    AllGather,
    /// The all-reduce in the order of microbatches.
    Fold,
}

/// A piece of one operation.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    /// The operation's number within the generation.
    pub operation: u64,
    pub collective: Collective,
    pub hop: u32,
    /// The chunk's place within its segment or block.
    pub index: u32,
    /// Bytes of the whole segment or block.
    pub total: u64,
    /// crc32c of `data`.
    pub checksum: u32,
    pub data: Bytes,
}

/// What goes to the right.
#[derive(Clone, Debug)]
pub(crate) enum Outgoing {
    Parcel(Parcel),
    /// Alive, but waiting for one's own left neighbour.
    Stalled {
        operation: u64,
    },
    Abort(Farewell),
}

/// What comes from the left, in the order in which it was sent.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// The left neighbour is there; always the first.
    Opened {
        chunk_bytes: usize,
    },
    Parcel(Parcel),
    Stalled {
        operation: u64,
    },
    /// It gave the generation up.
    Abort(Farewell),
    /// It has nothing more to send.
    Ended,
    /// The stream broke.
    Lost {
        detail: String,
    },
    /// It sent what no neighbour may.
    Bad(BadParcel),
}

/// What the right neighbour says at the end.
#[derive(Clone, Debug)]
pub(crate) enum Receipt {
    Delivered,
    Abort(Farewell),
    Lost { detail: String },
}

/// Why a rank gives its generation up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// The worker that it blames.
    pub blame: Option<String>,
    pub reason: String,
}

/// Why a chunk was refused at the door.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadParcel {
    #[error("a chunk of {bytes} bytes is above the limit of {limit}")]
    TooBig { bytes: usize, limit: usize },
    #[error("operation {operation} hop {hop} chunk {index} has a wrong checksum")]
    Checksum { operation: u64, hop: u32, index: u32 },
    #[error("the frame is of no known kind")]
    Unknown,
}

impl Parcel {
    /// A parcel with its checksum.
    pub(crate) fn sealed(
        (operation, collective): (u64, Collective),
        (hop, index): (u32, u32),
        total: usize,
        data: Bytes,
    ) -> Self {
        let checksum = crc32c::crc32c(&data);
        Self { operation, collective, hop, index, total: total as u64, checksum, data }
    }

    /// The same chunk on its next hop.
    pub(crate) fn onward(&self) -> Self {
        Self { hop: self.hop + 1, ..self.clone() }
    }

    /// What can be told without knowing the operation.
    pub(crate) fn check(&self) -> Result<(), BadParcel> {
        if self.data.len() > MAX_CHUNK_BYTES {
            return Err(BadParcel::TooBig { bytes: self.data.len(), limit: MAX_CHUNK_BYTES });
        }
        if crc32c::crc32c(&self.data) != self.checksum {
            let Self { operation, hop, index, .. } = *self;
            return Err(BadParcel::Checksum { operation, hop, index });
        }
        Ok(())
    }
}

impl From<Outgoing> for pb::Frame {
    fn from(it: Outgoing) -> Self {
        use pb::frame::Kind;
        let kind = match it {
            Outgoing::Parcel(it) => Kind::Chunk(pb::Chunk {
                operation: it.operation,
                hop: it.hop,
                index: it.index,
                checksum: it.checksum,
                data: it.data,
                collective: match it.collective {
                    Collective::AllReduce => pb::Collective::AllReduce,
                    Collective::AllGather => pb::Collective::AllGather,
                    Collective::Fold => pb::Collective::Fold,
                }
                .into(),
                total: it.total,
            }),
            Outgoing::Stalled { operation } => Kind::Stalled(pb::Stalled { operation }),
            Outgoing::Abort(farewell) => Kind::Abort(farewell.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<pb::Frame> for Arrival {
    /// What the frame says; [`Arrival::Bad`] if it says nothing that can be true.
    fn from(frame: pb::Frame) -> Self {
        use pb::frame::Kind;
        match frame.kind {
            Some(Kind::Chunk(chunk)) => {
                let collective = match chunk.collective() {
                    pb::Collective::AllReduce => Collective::AllReduce,
                    pb::Collective::AllGather => Collective::AllGather,
                    pb::Collective::Fold => Collective::Fold,
                    pb::Collective::Unspecified => return Self::Bad(BadParcel::Unknown),
                };
                Self::checked(Parcel {
                    operation: chunk.operation,
                    collective,
                    hop: chunk.hop,
                    index: chunk.index,
                    total: chunk.total,
                    checksum: chunk.checksum,
                    data: chunk.data,
                })
            }
            Some(Kind::Stalled(it)) => Self::Stalled { operation: it.operation },
            Some(Kind::Abort(it)) => Self::Abort(it.into()),
            Some(Kind::Open(_)) | None => Self::Bad(BadParcel::Unknown),
        }
    }
}

impl Arrival {
    /// The parcel, or why it is refused.
    pub(crate) fn checked(parcel: Parcel) -> Self {
        match parcel.check() {
            Ok(()) => Self::Parcel(parcel),
            Err(bad) => Self::Bad(bad),
        }
    }
}

impl From<Farewell> for pb::Abort {
    fn from(it: Farewell) -> Self {
        Self { blame: it.blame.unwrap_or_default(), reason: it.reason }
    }
}

impl From<pb::Abort> for Farewell {
    fn from(it: pb::Abort) -> Self {
        Self { blame: Some(it.blame).filter(|name| !name.is_empty()), reason: it.reason }
    }
}
